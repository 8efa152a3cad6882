"""Audits of a pipeline of index_select and all_to_all_single between processes: right, and with one planted fault."""

import audited_pipeline as pipeline
import pytest
import torch
from gloo_ranks import run_ranks

from fusco.testing import audit_combine, audit_dispatch

RANKS = 4
IDS, ROWS, WEIGHTS = pipeline.step(1, RANKS)
BEFORE = pipeline.step(2, RANKS)[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    run_ranks(RANKS, pipeline.run_all, torch.device("cpu"), folder)
    return pipeline.load_runs(folder, RANKS)


def audit(stage, run, **options):
    received, outputs, combined = run
    common = {"experts": pipeline.EXPERTS, "check": False, **options}
    if stage == "dispatch":
        return audit_dispatch(IDS, received, ROWS, previous=BEFORE, **common)
    return audit_combine(IDS, combined, ROWS, weights=list(WEIGHTS), outputs=outputs, **common)


def test_the_pipeline_is_right(runs):
    dispatched, combined = (audit(stage, runs[0]) for stage in ("dispatch", "combine"))
    assert dispatched.ok and dispatched.rows == IDS.numel()
    assert combined.ok and combined.rows == RANKS * pipeline.TOKENS
    assert "k" in combined.orders
    assert audit("combine", runs[0], order="k").ok


def test_there_are_twenty_faults():
    assert len(pipeline.FAULTS) >= 20


@pytest.mark.parametrize("name", pipeline.FAULTS)
def test_a_fault_has_its_name(runs, name):
    _, _, stage, kinds = pipeline.FAULTS[name]
    report = audit(stage, runs[1 + list(pipeline.FAULTS).index(name)], listed=100)
    assert set(report.counts) == kinds, str(report)
    first = report.differences[0]
    if first.kind == "other-token" and stage == "dispatch":
        received = runs[1 + list(pipeline.FAULTS).index(name)][0]
        assert torch.equal(received[first.rank][first.row], ROWS[first.found_source, first.found_token])
    if stage == "combine":
        assert {found.rank for found in report.differences} == {pipeline.RANK}
