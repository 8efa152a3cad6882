"""Dispatch, combine and their gradients with all ranks in one process."""

import json
import subprocess

import numpy
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import HIDDEN, dense_step, draw_ids, forward_backward, leaves, make, step

import fusco
import fusco.torch as ft


def assert_close(found, expected):
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-4, atol=1e-4)


MATRIX = {
    "one rank": {"ranks": 1},
    "once per rank": {},
    "flat": {"strategy": "flat"},
    "two nodes": {"ranks_per_node": 2},
    "sums by token": {"sum": "token", "ranks_per_node": 2},
    "partial sums in f32": {"partial": "f32", "ranks_per_node": 2},
    "padded blocks": {"align": 16},
    "a receive bound": {"max_recv_rows": 300},
    "padding and a receive bound": {"align": 4, "max_recv_rows": 300},
    "top-1": {"topk": 1},
    "top-6 of 7": {"topk": 6, "experts": 7, "ranks": 3},
    "more ranks than experts": {"experts": 3, "topk": 2, "ranks": 5},
    "eight ranks": {"ranks": 8, "experts": 16, "topk": 4},
}


@pytest.mark.parametrize("masked", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("options", MATRIX.values(), ids=MATRIX.keys())
def test_output_and_gradients_are_those_of_a_dense_layer(options, masked):
    shuffle = make(**options)
    inputs = step(7, 60, shuffle.topk, options.get("experts", 8), masked=masked)
    assert_close(forward_backward(shuffle, *inputs), dense_step(*inputs))


@pytest.mark.parametrize("splits", [[0, 20, 1, 3], [24, 0, 0, 0], [0, 0, 0, 0], [6, 6, 6, 6]])
def test_ranks_may_have_any_number_of_tokens(splits):
    inputs = step(1, sum(splits), 2, 8)
    assert_close(forward_backward(make(), *inputs, splits=splits), dense_step(*inputs))


@pytest.mark.parametrize("axes", [(4, 6), (2, 12)], ids=["ranks", "a batch"])
def test_an_axis_in_front_is_joined_with_the_tokens(axes):
    shuffle = make()
    x, ids, weights, _, _ = step(1, 24, 2, 8)
    flat, _ = shuffle.dispatch(x, ids, weights)
    stacked, handle = shuffle.dispatch(x.view(*axes, HIDDEN), ids.view(*axes, 2), weights.view(*axes, 2))
    assert torch.equal(flat, stacked)
    assert shuffle.combine(stacked, handle).shape == (24, HIDDEN)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    splits=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    experts=st.integers(1, 12),
    topk=st.integers(1, 4),
    align=st.sampled_from([1, 3, 8]),
    masked=st.sampled_from([0.0, 0.3]),
    strategy=st.sampled_from(["flat", "hier"]),
    total=st.sampled_from(["node", "token"]),
)
def test_any_layer_is_the_dense_one(seed, splits, experts, topk, align, masked, strategy, total):
    topk = min(topk, experts)
    inputs = step(seed, sum(splits), topk, experts, masked=masked)
    with make(experts, topk, len(splits), align=align, strategy=strategy, sum=total) as shuffle:
        assert_close(forward_backward(shuffle, *inputs, splits=splits), dense_step(*inputs))


def test_an_unweighted_combine_adds_the_rows():
    x, ids, _, experts, gradient = step(3, 24, 2, 8)
    shuffle = make()
    ones = torch.ones(24, 2)
    (plain,) = leaves(x)
    rows, handle = shuffle.dispatch(plain, ids)
    output = shuffle.combine(rows, handle)
    output.backward(gradient)
    (weighted,) = leaves(x)
    rows, handle = shuffle.dispatch(weighted, ids, ones)
    shuffle.combine(rows, handle).backward(gradient)
    torch.testing.assert_close(output, 2 * x)
    assert torch.equal(plain.grad, weighted.grad)


def test_rows_are_ordered_by_expert_source_rank_token_and_k():
    shuffle = make(align=4)
    x, ids, weights, _, _ = step(5, 24, 2, 8)
    rows, handle = shuffle.dispatch(x, ids, weights)
    origins, row_weights = handle.origins(), handle.row_weights()
    bounds, counts = handle.expert_offsets.tolist(), handle.expert_counts.tolist()
    assert len(rows) == bounds[-1] == len(origins)
    assert all(bound % 4 == 0 for bound in bounds)
    for expert, (first, end) in enumerate(zip(bounds, bounds[1:])):
        expected = [[t // 6, t % 6, k] for t in range(24) for k in range(2) if ids[t, k] == expert]
        last = first + counts[expert]
        assert origins[first:last].tolist() == expected
        for row, (rank, token, k) in enumerate(expected, first):
            assert torch.equal(rows[row], x[6 * rank + token])
            assert row_weights[row] == weights[6 * rank + token, k]
        assert not rows[last:end].any() and not row_weights[last:end].any()
        assert (origins[last:end] == -1).all()


def test_the_weights_of_rows_have_the_gradient_of_their_entries():
    shuffle = make(capacity=3, align=2)
    x, ids, weights, _, _ = step(5, 24, 2, 8, masked=0.1)
    (weights,) = leaves(weights)
    _, handle = shuffle.dispatch(x, ids, weights)
    row_weights, origins = handle.row_weights(), handle.origins()
    gradient = torch.randn(row_weights.shape)
    row_weights.backward(gradient)
    expected = torch.zeros(24, 2)
    for (rank, token, k), value in zip(origins.tolist(), gradient):
        if rank >= 0:
            expected[6 * rank + token, k] = value
    assert torch.equal(weights.grad, expected)


def test_capacity_drops_the_rows_behind_the_first():
    shuffle = make(experts=2, topk=1, ranks=2, capacity=3)
    x = torch.arange(8.0).view(8, 1).repeat(1, HIDDEN).requires_grad_()
    weights = torch.ones(8, 1, requires_grad=True)
    rows, handle = shuffle.dispatch(x, torch.zeros(8, 1, dtype=torch.int64), weights)
    assert handle.expert_counts.tolist() == [3, 0]
    output = shuffle.combine(rows, handle)
    assert output[:, 0].tolist() == [0, 1, 2, 0, 0, 0, 0, 0]
    output.sum().backward()
    assert weights.grad.flatten().tolist() == [0, HIDDEN, 2 * HIDDEN, 0, 0, 0, 0, 0]
    assert x.grad[:, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]


def test_replicas_share_the_rows_of_their_expert():
    placement = [[0, 1], 0, [1, 2, 3], 1, 2, 2, 3, [0, 3]]
    shuffle = make(placement=placement)
    assert shuffle.local_experts == ((0, 1, 7), (0, 2, 3), (2, 4, 5), (2, 6, 7))
    x, ids, weights, experts, gradient = step(9, 40, 2, 8)
    hosted = [expert for experts_of_rank in shuffle.local_experts for expert in experts_of_rank]
    output, x_grad, weights_grad, instances_grad = forward_backward(shuffle, x, ids, weights, experts[hosted], gradient)
    # The gradient of an expert is the sum over its instances.
    experts_grad = torch.zeros_like(experts).index_add(0, torch.tensor(hosted), instances_grad)
    assert_close((output, x_grad, weights_grad, experts_grad), dense_step(x, ids, weights, experts, gradient))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"ranks_per_node": 2, "sum": "token"}, {"strategy": "flat", "align": 8}])
def test_every_bit_is_that_of_the_typescript_reference(fusco_cli, tmp_path, dtype, options):
    hidden, splits = 200, [7, 0, 13, 4]
    shuffle = make(hidden=hidden, dtype=dtype, **options)
    x, ids, weights, _, gradient = step(11, 24, 2, 8, hidden, masked=0.1)
    x, weights = leaves(x.to(dtype), weights)
    rows, handle = shuffle.dispatch(x, ids, weights, splits=splits)
    (made,) = leaves((rows * 1.7 + 0.1).detach())
    output = shuffle.combine(made, handle)
    output.backward(gradient.to(dtype))
    rows_gradient = torch.randn(rows.shape).to(dtype)
    rows.backward(rows_gradient)
    handle.save(tmp_path / "plan.fusco")
    received = shuffle.group().prepared(handle.state).host.recv_rows

    def parts_of(tensor):
        counts = splits if len(tensor) == sum(splits) else received
        return tensor.detach().view(torch.uint8).split(list(counts))

    (tmp_path / "layer.json").write_text(json.dumps({"hidden": hidden, "dtype": handle.plan().options.dtype}))
    given = {
        "x": x,
        "weights": weights,
        "made": made,
        "outputGradient": gradient.to(dtype),
        "rowsGradient": rows_gradient,
    }
    for name, tensor in given.items():
        for rank, part in enumerate(parts_of(tensor)):
            (tmp_path / f"{name}.{rank}.bin").write_bytes(part.numpy().tobytes())
    subprocess.run(["node", ROOT / "native" / "python" / "tests" / "reference.mjs", tmp_path], check=True)
    codes, scales = ft.quantize(x.detach())
    found = {
        "rows": rows,
        "output": output,
        "madeGradient": made.grad,
        "weightsGradient": weights.grad,
        "xGradient": x.grad,
        "codes": codes,
        "scales": scales,
        "values": ft.dequantize(codes, scales, dtype),
    }
    for name, tensor in found.items():
        for rank, part in enumerate(parts_of(tensor)):
            assert part.numpy().tobytes() == (tmp_path / f"{name}.{rank}.bin").read_bytes(), (name, rank)


def test_a_plan_of_the_command_line_is_executed(fusco_cli, tmp_path):
    ids = [draw_ids(rank, 6, 2, 8) for rank in range(4)]
    numpy.save(tmp_path / "ids.npy", numpy.stack(ids))
    x, _, weights, _, _ = step(2, 24, 2, 8)
    numpy.save(tmp_path / "x.npy", x.view(4, 6, HIDDEN).numpy())
    numpy.save(tmp_path / "w.npy", weights.view(4, 6, 2).numpy())
    fusco_cli(
        *("plan", tmp_path / "ids.npy", "-o", tmp_path / "a.fusco", "--experts", 8, "--hidden", HIDDEN),
        *("--strategy", "hier", "--ranks-per-node", 2, "--align", 4, "--dtype", "f32"),
    )
    fusco_cli(
        *("run", tmp_path / "a.fusco", "--input", tmp_path / "x.npy", "--weights", tmp_path / "w.npy"),
        *("--out", tmp_path / "out", "--check"),
    )
    shuffle = make()
    handle = shuffle.use_plan(tmp_path / "a.fusco", weights)
    rows, same = shuffle.dispatch(x, handle=handle)
    assert same is handle
    output = shuffle.combine(rows, handle)
    for name, tensor in {"recv": rows, "combined": output}.items():
        parts = [numpy.load(tmp_path / "out" / f"rank{rank}.{name}.npy") for rank in range(4)]
        assert numpy.concatenate(parts).tobytes() == tensor.numpy().tobytes()
    assert handle.plan_id() == fusco.load_plan(tmp_path / "a.fusco").plan_id()


def test_a_plan_of_another_group_is_refused(tmp_path):
    fusco.plan([draw_ids(rank, 6, 2, 8) for rank in range(4)], experts=8).save(tmp_path / "a.fusco")
    for code, options in {
        "E_RANKS": {"ranks": 2},
        "E_OPTION": {"experts": 9},
        "E_LIMIT": {"max_tokens": 5},
        "E_MAX_ROWS": {"max_recv_rows": 3},
    }.items():
        with make(**options) as shuffle, pytest.raises(fusco.FuscoError) as caught:
            shuffle.use_plan(tmp_path / "a.fusco")
        assert caught.value.code == code


def test_a_saved_plan_is_the_one_of_its_routing(fusco_cli, tmp_path):
    shuffle = make()
    x, ids, weights, _, _ = step(2, 24, 2, 8)
    _, handle = shuffle.dispatch(x, ids, weights)
    assert handle.save(tmp_path / "step.fusco") == handle.plan_id()
    numpy.save(tmp_path / "ids.npy", ids.view(4, 6, 2).numpy())
    fusco_cli("verify", tmp_path / "step.fusco", "--routing", tmp_path / "ids.npy")
    read = fusco.load_plan(tmp_path / "step.fusco")
    assert [handle.shard_digest(rank) for rank in range(4)] == [read.shard_digest(rank) for rank in range(4)]
    assert handle.shard_digest() == read.shard_digest(0)


def test_a_recording_is_read_by_the_command_line_and_continued(fusco_cli, tmp_path):
    shuffle = make(sum="token", ranks_per_node=2, dtype=torch.float32)
    plan_ids = []
    for seed in range(3):
        # A recording that was ended is continued by the next one; what a crash left behind is removed.
        recorder = shuffle.record(tmp_path / "steps")
        with pytest.raises(fusco.FuscoError, match="E_OPTION routings are recorded in "):
            shuffle.record(tmp_path / "others")
        x, ids, weights, _, _ = step(seed, 24, 2, 8)
        plan_ids.append(shuffle.dispatch(x, ids.long(), weights)[1].plan_id())
        recorder.close()
        (tmp_path / "steps" / ".unfinished-1").mkdir()
    lines = [json.loads(line) for line in (tmp_path / "steps" / "index.jsonl").read_text().splitlines()]
    assert [line["planId"] for line in lines] == plan_ids
    script = """
      const { readRecording, replayStep } = await import(process.argv[1]);
      for (const step of await readRecording(process.argv[2])) await replayStep(process.argv[2], step);
    """
    module = (ROOT / "dist" / "executor" / "training" / "recorder.js").as_uri()
    replay = ["node", "--input-type=module", "-e", script, module, tmp_path / "steps"]
    subprocess.run(replay, check=True)
    fusco_cli(
        *("plan", tmp_path / "steps" / "step-000001", "-o", tmp_path / "b.fusco", "--experts", 8, "--hidden", HIDDEN),
        *("--strategy", "hier", "--ranks-per-node", 2, "--sum", "token", "--dtype", "f32"),
    )
    assert fusco.load_plan(tmp_path / "b.fusco").plan_id() == plan_ids[1]


def test_sums_by_token_have_the_same_bits_for_any_number_of_ranks():
    x, ids, weights, experts, gradient = step(4, 48, 2, 8)
    results = []
    for ranks in (1, 2, 4, 8):
        x_leaf, weights_leaf = leaves(x, weights)
        shuffle = make(ranks=ranks, sum="token")
        rows, handle = shuffle.dispatch(x_leaf, ids, weights_leaf)
        output = shuffle.combine(torch.tanh(rows), handle)
        output.backward(gradient)
        results.append((output.detach(), x_leaf.grad, weights_leaf.grad))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0]))


def test_objects_say_what_they_are():
    shuffle = make()
    _, ids, weights, _, _ = step(1, 24, 2, 8)
    assert repr(shuffle.plan(ids, weights)) == "Handle(tokens=24, rows=not known yet, weighted=True)"
    assert repr(shuffle) == f"ExpertShuffle({shuffle.name!r}, backend='host', local_ranks=[0, 1, 2, 3])"
