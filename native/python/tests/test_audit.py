"""Audits of what a pipeline of PyTorch received and combined, and of arrays without PyTorch."""

import re
import subprocess
import sys

import numpy
import pytest
import torch
from conftest import ROOT

import fusco
from fusco.audit import layouts
from fusco.testing import audit_combine, audit_dispatch

RANKS, EXPERTS, TOPK, HIDDEN = 4, 8, 2, 32
TOKENS = (6, 0, 9, 4)


def step(seed, dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(seed)
    ids = [
        torch.stack([torch.randperm(EXPERTS, generator=generator)[:TOPK] for _ in range(n)])
        if n
        else torch.zeros(0, TOPK, dtype=torch.int64)
        for n in TOKENS
    ]
    rows = [torch.randn(n, HIDDEN, generator=generator).to(dtype) for n in TOKENS]
    weights = [torch.rand(n, TOPK, generator=generator) for n in TOKENS]
    return ids, rows, weights


def dispatch(ids, rows):
    """index_select of the entries sorted by expert, source rank and token; what all_to_all_single delivers."""
    received = []
    for rank in range(RANKS):
        first = rank * EXPERTS // RANKS
        parts = []
        for expert in range(first, first + EXPERTS // RANKS):
            for table, source in zip(ids, rows):
                entries = torch.nonzero(table.flatten() == expert).flatten()
                parts.append(source.index_select(0, entries // TOPK))
        received.append(torch.cat(parts))
    return received


def combine(rows, weights):
    """Identity experts, added in float32 in ascending k."""
    sums = []
    for source, scale in zip(rows, weights):
        total = torch.zeros(source.shape, dtype=torch.float32)
        for k in range(TOPK):
            total = total + source.float() * scale[:, k, None]
        sums.append(total.to(source.dtype))
    return sums


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_a_right_dispatch_is_right(dtype):
    ids, rows, _ = step(1, torch.float32)
    rows = [(8 * source).to(dtype) for source in rows]
    report = audit_dispatch(ids, dispatch(ids, rows), rows, experts=EXPERTS)
    assert report.ok and report.rows == TOPK * sum(TOKENS)
    assert str(report) == f"all {report.rows} rows are right"


def test_the_first_wrong_row_is_named():
    ids, rows, _ = step(2)
    received = dispatch(ids, rows)
    received[3][[1, 2]] = received[3][[2, 1]]
    with pytest.raises(AssertionError) as caught:
        audit_dispatch(ids, received, rows, experts=EXPERTS)
    first = r"rank 3 row 1: expected token \d of rank \d \(k \d\), found other-token: token \d of rank \d"
    assert re.match(rf"2 of 38 rows are wrong \(2 other-token\)\n{first}\n", str(caught.value))
    report = audit_dispatch(ids, received, rows, experts=EXPERTS, check=False, listed=1)
    (found,) = report.differences
    assert report.counts == {"other-token": 2}
    swapped = rows[found.found_source][found.found_token]
    assert torch.equal(swapped, received[3][1]) and torch.equal(rows[found.source][found.token], received[3][2])


@pytest.mark.parametrize(
    ("kind", "plant"),
    [
        ("zeros", lambda rows, _: rows.zero_()),
        ("stale", lambda rows, before: rows.copy_(before[2][5])),
        ("partial", lambda rows, _: rows[HIDDEN // 2 :].zero_()),
        ("nan", lambda rows, _: rows[3:4].fill_(float("nan"))),
        ("rounding", lambda rows, _: rows.copy_(rows.to(torch.float8_e4m3fn).to(rows.dtype))),
        ("values", lambda rows, _: rows[3:4].add_(1)),
    ],
)
def test_a_planted_fault_has_its_name(kind, plant):
    (ids, rows, _), (_, before, _) = step(3), step(4)
    received = dispatch(ids, rows)
    plant(received[1][4], before)
    report = audit_dispatch(ids, received, rows, previous=before, experts=EXPERTS, check=False)
    assert report.counts == {kind: 1}
    assert (report.differences[0].rank, report.differences[0].row) == (1, 4)


def test_one_rank_may_be_audited_alone():
    ids, rows, weights = step(5)
    received = dispatch(ids, rows)
    assert audit_dispatch(ids, received[2], rows, rank=2, experts=EXPERTS).ok
    with pytest.raises(AssertionError, match="rank 1 row 0"):
        audit_dispatch(ids, received[2], rows, rank=1, experts=EXPERTS)
    assert audit_combine(ids, combine(rows, weights)[2], rows, weights=weights[2], rank=2, experts=EXPERTS).rows == 9


def test_a_layout_is_a_name_or_fields():
    ids, rows, _ = step(6, torch.float32)
    received = dispatch(ids, rows)
    equal = [torch.cat([part, torch.full((3, HIDDEN), 7.0)]) for part in received]
    assert audit_dispatch(ids, received, rows, layout="megatron-alltoall", experts=EXPERTS).ok
    assert audit_dispatch(ids, equal, rows, layout={"preset": "fusco", "tail": "any"}, experts=EXPERTS).ok
    with pytest.raises(AssertionError, match="12 extra"):
        audit_dispatch(ids, equal, rows, layout="fusco", experts=EXPERTS)
    for wrong in ("other", {"preset": "fusco", "size": 3}, {"order": "sort"}, {"slots": -1}, {"slots": 2**63}):
        with pytest.raises(fusco.FuscoError, match="E_OPTION"):
            audit_dispatch(ids, received, rows, layout=wrong, experts=EXPERTS)


def test_a_layout_with_too_few_slots_says_how_many_it_needs():
    ids, rows, _ = step(6)
    layout = {"preset": "fusco", "slots": 1, "tail": "any"}
    with pytest.raises(fusco.FuscoError) as caught:
        audit_dispatch(ids, dispatch(ids, rows), rows, layout=layout, experts=EXPERTS)
    error = caught.value
    assert (error.code, error.limit) == ("E_LIMIT", 1) and error.value > 1
    assert error.hint.startswith(f"Give the layout at least {error.value} slots")


def test_every_layout_is_in_the_documentation():
    page = (ROOT / "docs" / "audit.md").read_text()
    assert len(layouts()) > 10
    for name in layouts():
        assert f"`{name}`" in page


def test_sums_are_bounded_and_their_order_is_named():
    ids, rows, weights = step(7, torch.float32)
    sums = combine(rows, weights)
    report = audit_combine(ids, sums, rows, weights=weights, order="k", experts=EXPERTS)
    assert report.ok and "k" in report.orders and 0 < report.largest_error <= 1
    sums[0][3] = weights[0][3, 0] * rows[0][3]
    with pytest.raises(AssertionError, match=r"rank 0 row 3: expected token 3 of rank 0 .k 1., found term-missing"):
        audit_combine(ids, sums, rows, weights=weights, experts=EXPERTS)
    received = dispatch(ids, rows)
    doubled = [2 * part for part in combine(rows, weights)]
    outputs = [2 * part for part in received]
    assert audit_combine(ids, doubled, rows, weights=weights, outputs=outputs, experts=EXPERTS).ok
    with pytest.raises(fusco.FuscoError, match="E_OPTION order 'z'"):
        audit_combine(ids, sums, rows, order="z", experts=EXPERTS)


def test_arrays_that_do_not_fit_are_refused():
    ids, rows, weights = step(8)
    received = dispatch(ids, rows)

    def refused(code, *arguments, **options):
        with pytest.raises(fusco.FuscoError) as caught:
            audit_dispatch(*arguments, experts=EXPERTS, **options)
        assert caught.value.code == code

    refused("E_RANKS", ids, received[:3], rows)
    refused("E_RANKS", ids, received, rows[:3])
    refused("E_RANKS", ids, received, rows, ranks=5)
    refused("E_SHAPE", ids, [part.float() for part in received], rows)
    refused("E_SHAPE", ids, received, [part[:-1] if len(part) else part for part in rows])
    refused("E_SHAPE", ids, [part[:, 0] for part in received], rows)
    refused("E_BUFFER", ids, ["text"] * RANKS, rows)
    refused("E_RANKS", ids, None, rows)
    refused("E_RANKS", None, received, rows)
    refused("E_OPTION", ids, received[0], rows, rank=4)
    refused("E_OPTION", ids, received[0], rows, rank=2**32)
    refused("E_OPTION", ids, received, rows, layout=None)
    for listed in (-1, "all", 2**40):
        refused("E_OPTION", ids, received, rows, listed=listed)


def test_combined_rows_and_weights_that_do_not_fit_are_refused():
    ids, rows, weights = step(8)

    def refused(code, combined, weights):
        with pytest.raises(fusco.FuscoError) as caught:
            audit_combine(ids, combined, rows, weights=weights, experts=EXPERTS)
        assert caught.value.code == code

    refused("E_DTYPE", rows, [part.half() for part in weights])
    refused("E_RANKS", rows, weights[:3])
    refused("E_BUFFER", rows, [None] * RANKS)
    refused("E_SHAPE", rows, [part.t() for part in weights])
    refused("E_SHAPE", rows, [torch.cat([part, part], 1) for part in weights])
    refused("E_SHAPE", rows, [part[:0] for part in weights])
    refused("E_SHAPE", [torch.cat([part, part]) for part in rows], None)


def test_numpy_arrays_and_lists_need_no_torch():
    program = """
import sys
sys.modules["torch"] = None
import numpy
from fusco.testing import audit_dispatch
x = [numpy.arange(8, dtype=numpy.uint16).reshape(2, 4), 50 + numpy.arange(4, dtype=numpy.uint16).reshape(1, 4)]
ids = [[[0], [1]], [[0]]]
print(audit_dispatch(ids, [numpy.stack([x[0][0], x[1][0]]), x[0][1:]], x, experts=2))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("all 3 rows are right\n", "")
    frozen = numpy.ones((1, 4), dtype=numpy.float32)
    frozen.flags.writeable = False
    assert audit_dispatch([[[0]]], [frozen], [frozen], experts=1).ok
