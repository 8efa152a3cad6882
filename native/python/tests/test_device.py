"""The backends for GPUs on the double of device_double.py: structure, lifetimes and order, not kernels."""

import functools
import gc
import json
import subprocess
import sys
import weakref
from contextlib import contextmanager
from pathlib import Path

import device_double
import gpu_cases
import gpu_ranks
import numpy
import pytest
import torch
from gloo_ranks import run_ranks
from layers import HIDDEN, dense_step, forward_backward, leaves, make, step
from test_use import refused
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

import fusco
import fusco.torch as ft
from fusco.torch import accelerator, cuda_ranks, groups


@pytest.fixture
def device(monkeypatch):
    """The double, in place of a GPU."""
    device_double.install(monkeypatch.setattr)
    yield device_double.device
    for name in list(groups._groups):
        groups.forget(name)
    cuda_ranks._context_on.cache_clear()


@pytest.fixture
def inputs():
    x, ids, weights, _, gradient = step(3, 24, 2, 8, masked=0.1)
    return x, ids, weights, gradient


def parts(tensor, splits=(6, 6, 6, 6)):
    return [part.clone() for part in tensor.split(list(splits))]


def layer_of_lists(shuffle, x, ids, weights, gradient):
    """Output and gradients of a step whose arguments are lists."""
    x, weights = ([each.requires_grad_() for each in parts_of] for parts_of in (x, weights))
    rows, handle = shuffle.dispatch(x, ids, weights)
    output = shuffle.combine([torch.tanh(each) for each in rows], handle)
    torch.autograd.backward(output, gradient)
    return [torch.cat(each) for each in (output, [e.grad for e in x], [e.grad for e in weights])]


def layer(shuffle, x, ids, weights, gradient):
    x, weights = leaves(x, weights)
    rows, handle = shuffle.dispatch(x, ids, weights)
    output = shuffle.combine(torch.tanh(rows), handle)
    output.backward(gradient)
    return [output.detach(), x.grad, weights.grad]


def assert_equal(found, expected):
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


PLACES = {"one GPU": 0, "four GPUs": [0, 1, 2, 3], "two GPUs": [0, 0, 1, 1]}
VARIANTS = {
    "once per rank": {},
    "flat, padded": {"strategy": "flat", "align": 4},
    "by token": {"ranks_per_node": 2, "sum": "token"},
    "capacity": {"capacity": 9},
    "fp8": {"fp8": True},
    "replicas": {"placement": [[0, 1], 0, 0, 0, 1, 2, 3, [0, 3]]},
    "narrow rows": {"hidden": 3},
}


@pytest.mark.parametrize("devices", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_lists_and_bounds_have_the_bits_of_the_host_backend(device, options, devices):
    hidden = options.get("hidden", HIDDEN)
    x, ids, weights, _, gradient = step(3, 24, 2, 8, hidden, masked=0.1)
    expected = layer(make(backend="host", **options), x, ids, weights, gradient)
    for bound in (None, 30):
        shuffle = make(backend="cuda", devices=devices, max_recv_rows=bound, **options)
        found = layer_of_lists(shuffle, *(parts(each) for each in (x, ids.long(), weights, gradient)))
        assert_equal(found, expected)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_one_tensor_for_all_ranks_of_a_gpu_is_divided_and_joined(device, inputs, options):
    hidden, splits = options.get("hidden", HIDDEN), [9, 0, 14, 1]
    x, ids, weights, _, gradient = step(3, 24, 2, 8, hidden, masked=0.1)
    results = {}
    for backend in ("host", "cuda"):
        shuffle = make(backend=backend, **options)
        given, router = leaves(x, weights)
        rows, handle = shuffle.dispatch(given, ids, router, splits=splits)
        output = shuffle.combine(rows * 2, handle)
        output.backward(gradient)
        handle.row_weights().sum().backward()
        blocks = [handle.expert_offsets, handle.expert_counts]
        results[backend] = [rows, output, given.grad, router.grad, handle.origins(), *blocks, handle.row_weights()]
        assert handle.rows in (-1, len(rows)) and handle.tokens == 24
    assert_equal(results["cuda"], results["host"])


def test_one_rank_takes_tensors(device):
    inputs = step(7, 20, 2, 8)
    for bound in (None, 64):
        shuffle = make(ranks=1, backend="cuda", max_recv_rows=bound)
        found = forward_backward(shuffle, *inputs)
        assert_equal(found, forward_backward(make(ranks=1, backend="host", max_recv_rows=bound), *inputs))
        torch.testing.assert_close(found[0].double(), dense_step(*inputs)[0], rtol=1e-4, atol=1e-4)


def test_rows_beyond_the_bound_are_dropped_and_counted(device):
    shuffle = make(experts=2, topk=1, ranks=1, backend="cuda", max_recv_rows=5)
    x, ids = torch.randn(8, HIDDEN), torch.tensor([[0]] * 3 + [[1]] * 5)
    (x,) = leaves(x)
    rows, handle = shuffle.dispatch(x, ids)
    assert (len(rows), handle.recv_rows.item(), handle.overflow_rows.item()) == (5, 8, 3)
    assert (handle.expert_offsets.tolist(), handle.expert_counts.tolist()) == ([0, 3, 5], [3, 2])
    output = shuffle.combine(rows, handle)
    assert torch.equal(output[:5], x[:5]) and not output[5:].any()
    output.sum().backward()
    assert x.grad[:5].eq(1).all() and not x.grad[5:].any()
    assert handle.check() == [8]


def test_blocks_are_views_of_the_state(device, inputs):
    shuffle = make(ranks=1, backend="cuda", max_recv_rows=64)
    handle = shuffle.plan(inputs[1])
    for view in (handle.expert_offsets, handle.expert_counts, handle.recv_rows, handle.overflow_rows):
        assert view.untyped_storage().data_ptr() == handle.state.untyped_storage().data_ptr()


def test_a_state_is_a_value(device, inputs):
    x, ids, weights, gradient = inputs
    shuffle = make(ranks=1, backend="cuda", max_recv_rows=64)
    x, weights = leaves(x, weights)
    rows, handle = shuffle.dispatch(x, ids, weights)
    expected = shuffle.combine(rows, handle)
    copy = handle.state.clone()
    assert torch.equal(torch.ops.fusco.combine(rows, weights, copy, 24, shuffle.name), expected)
    for wrong in (copy[:-1], copy.to(torch.int8), torch.stack([copy, copy], 1)[:, 0]):
        refused("E_OPTION", torch.ops.fusco.combine, rows, weights, wrong, 24, shuffle.name)


def test_an_id_that_is_wrong_is_masked_and_reported(device, inputs):
    x, ids, weights, _ = inputs
    ids = ids.clone()
    ids[13, 1] = 99
    bounded = make(ranks=1, backend="cuda", max_recv_rows=64)
    rows, handle = bounded.dispatch(x, ids, weights)
    error = refused("E_ROUTING_ID", handle.check)
    assert (error.rank, error.path) == (0, "/ranks/0/tokens/13/k/1")
    masked = torch.where(ids == 99, -1, ids)
    assert torch.equal(rows, bounded.dispatch(x, masked, weights)[0])
    refused("E_ROUTING_ID", make(ranks=1, backend="cuda").dispatch, x, ids, weights)


def test_arguments_that_do_not_fit_are_refused(device, inputs):
    x, ids, weights, _ = inputs
    shuffle = make(backend="cuda", max_recv_rows=40)
    listed = [parts(each) for each in (x, ids, weights)]
    rows, handle = shuffle.dispatch(*listed)
    refused("E_OPTION", shuffle.dispatch, x, ids, weights)
    refused("E_SHAPE", shuffle.dispatch, listed[0][:3], *listed[1:])
    refused("E_SHAPE", shuffle.combine, [each[1:] for each in rows], handle)
    refused("E_SHAPE", shuffle.dispatch, listed[0], listed[1], listed[2][::-1][:2])
    refused("E_DTYPE", shuffle.dispatch, [None] * 4, *listed[1:])
    refused("E_LIMIT", make(ranks=1, backend="cuda", max_tokens=5).plan, ids)
    refused("E_SHAPE", make(backend="cuda", devices=[0, 1, 2, 3]).dispatch, x, *listed[1:])
    refused("E_OPTION", make, backend="cuda", devices=[0, 1])
    refused("E_OPTION", make, backend="cuda", sms=-1)
    refused("E_OPTION", getattr, handle, "state")
    refused("E_OPTION", torch.ops.fusco.dispatch, listed[0][0], handle.states[0], 40, shuffle.name)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_bounded_layer_compiles_as_one_graph(device, inputs, backend):
    x, ids, weights, gradient = inputs
    shuffle = make(ranks=1, backend="cuda", max_recv_rows=64)

    def run(x, ids, weights):
        rows, handle = shuffle.dispatch(x, ids, weights)
        scaled = rows * handle.expert_counts.sum()
        return shuffle.combine(scaled, handle)

    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend=backend, dynamic=False)
    results = []
    for function in (run, compiled):
        x_leaf, weights_leaf = leaves(x, weights)
        output = function(x_leaf, ids, weights_leaf)
        output.backward(gradient)
        results.append([output.detach(), x_leaf.grad, weights_leaf.grad])
    assert_equal(*results)


def test_lists_compile_as_one_graph(device, inputs):
    shuffle = make(backend="cuda", max_recv_rows=40)
    listed = [parts(each) for each in inputs[:3]]

    def run(x, ids, weights):
        rows, handle = shuffle.dispatch(x, ids, weights)
        return shuffle.combine([each * 2 for each in rows], handle)

    torch._dynamo.reset()
    assert_equal(torch.compile(run, fullgraph=True, backend="aot_eager")(*listed), run(*listed))


def test_selective_checkpointing_does_not_plan_again(device, inputs):
    x, ids, weights, gradient = inputs
    shuffle = make(ranks=1, backend="cuda", max_recv_rows=64)
    save_plans = functools.partial(create_selective_checkpoint_contexts, list(ft.SAVED_OPS))

    def run(x, weights):
        rows, handle = shuffle.dispatch(x, ids, weights)
        return shuffle.combine(torch.tanh(rows), handle)

    results = []
    for options in (None, {}, {"context_fn": save_plans}):
        x_leaf, weights_leaf = leaves(x, weights)
        device.calls.clear()
        if options is None:
            output = run(x_leaf, weights_leaf)
        else:
            output = checkpoint(run, x_leaf, weights_leaf, use_reentrant=False, **options)
        output.backward(gradient)
        results.append([x_leaf.grad, weights_leaf.grad])
        assert device.calls.count("fusco_cuda_plan_on_device") == (2 if options == {} else 1)
    assert_equal(results[1], results[0])
    assert_equal(results[2], results[0])


def test_plans_are_saved_and_recorded(device, inputs, tmp_path):
    x, ids, weights, _ = inputs
    shuffle = make(backend="cuda", strategy="hier", sum="token", ranks_per_node=2)
    with shuffle.record(tmp_path / "steps"):
        _, handle = shuffle.dispatch(x, ids, weights)
        refused("E_OPTION", shuffle.record, tmp_path / "more")
    shuffle.dispatch(x, ids, weights)
    host = make(backend="host", strategy="hier", sum="token", ranks_per_node=2).plan(ids)
    assert handle.save(tmp_path / "step.fusco") == handle.plan_id() == host.plan_id()
    plan = fusco.load_plan(tmp_path / "step.fusco")
    assert [handle.shard_digest(rank) for rank in range(4)] == [plan.shard_digest(rank) for rank in range(4)]
    lines = [json.loads(line) for line in (tmp_path / "steps" / "index.jsonl").read_text().splitlines()]
    assert [line["planId"] for line in lines] == [handle.plan_id()]
    recorded = numpy.load(tmp_path / "steps" / "step-000000" / "rank2.npy")
    assert (recorded == ids[12:18].numpy()).all()
    refused("E_FILE_WRITE", handle.save, tmp_path / "no" / "folder.fusco")
    refused("E_OPTION", handle.shard_digest, 7)


@pytest.mark.parametrize("options", [{}, {"ranks_per_node": 2, "strategy": "hier", "capacity": 9, "align": 4}])
def test_a_plan_of_a_file_is_executed(device, inputs, tmp_path, options):
    x, ids, weights, _ = inputs
    ids[0], ids[3, 1] = -1, -1
    shuffle = make(backend="cuda", **options)
    rows, handle = shuffle.dispatch(x, ids, weights)
    handle.save(tmp_path / "step.fusco")
    again = shuffle.use_plan(tmp_path / "step.fusco", weights)
    assert again.plan_id() == handle.plan_id()
    same, _ = shuffle.dispatch(x, handle=again)
    assert_equal([same, shuffle.combine(same, again)], [rows, shuffle.combine(rows, handle)])
    with make(backend="cuda", **{**options, "align": 2}) as other:
        assert "align: the plan has" in str(refused("E_OPTION", other.use_plan, tmp_path / "step.fusco"))
    with make(backend="cuda", **options, max_tokens=5) as other:
        refused("E_LIMIT", other.use_plan, tmp_path / "step.fusco")
    with make(backend="cuda", **options, max_recv_rows=1) as other:
        refused("E_MAX_ROWS", other.use_plan, fusco.load_plan(tmp_path / "step.fusco"))
    refused("E_FILE_NOT_FOUND", shuffle.use_plan, tmp_path / "none.fusco")


def test_a_plan_that_the_planner_does_not_make_is_refused(device, inputs, tmp_path):
    x, ids, weights, _ = inputs
    options = {"strategy": "hier", "ranks_per_node": 2}
    plan = make(backend="host", balance="rotate", **options).plan(ids)
    plan.save(tmp_path / "other.fusco")
    with make(backend="cuda", balance="static", **options) as shuffle:
        refused("E_OPTION", shuffle.use_plan, tmp_path / "other.fusco")


def test_calls_follow_the_current_stream(device, inputs):
    x, ids, weights, _ = inputs
    shuffle = make(ranks=1, backend="cuda", max_recv_rows=64)
    device.streams_set.clear()
    shuffle.dispatch(x, ids, weights)
    shuffle.dispatch(x, ids, weights)
    assert not device.streams_set, "the stream is set when it changes, and not for each call"
    first, device.stream = device.stream, device_double.Stream(0x6000)
    shuffle.dispatch(x, ids, weights)
    assert [stream for _, _, stream in device.streams_set] == [0x6000]
    assert set(device.stream.waited_for) == {first.cuda_stream}
    device.is_capturing, device.stream = True, device_double.Stream(0x7000)
    shuffle.dispatch(x, ids, weights)
    assert device.stream.waited_for == [], "a captured stream waits for nothing outside its graph"


def test_default_streams_of_several_gpus_are_bridged(device, inputs):
    device.stream = device_double.Stream(0)
    shuffle = make(backend="cuda", devices=[0, 1, 2, 3], max_recv_rows=40)
    device.stream.waited_for.clear()
    shuffle.dispatch(*(parts(each) for each in inputs[:3]))
    # Planning and dispatch: each device's own stream waits for the default stream, which then waits for it.
    assert device.stream.waited_for == [0x9000, 0x9001, 0x9002, 0x9003] * 2
    one = make(ranks=1, backend="cuda", max_recv_rows=64)
    device.streams_set.clear()
    one.dispatch(*inputs[:3])
    assert all(stream == 1 for _, _, stream in device.streams_set)


def test_gradients_of_several_gpus_run_on_the_streams_of_the_forward_pass(device, inputs, monkeypatch):
    entered = []

    @contextmanager
    def on_streams(streams):
        entered.append(streams)
        yield

    monkeypatch.setattr(accelerator, "streams_of", lambda tensors: [len(list(tensors))])
    monkeypatch.setattr(accelerator, "on_streams", on_streams)
    shuffle = make(backend="cuda", devices=[0, 1, 2, 3], max_recv_rows=40)
    layer_of_lists(shuffle, *(parts(each) for each in inputs))
    # Combine has rows, weights and states, dispatch has x and states, of four ranks each.
    assert entered == [[12], [8]]


def test_rows_at_any_address_are_aligned_for_all_ranks(device, inputs):
    x, ids, weights, gradient = inputs
    expected = layer(make(backend="host"), x, ids, weights, gradient)
    shuffle = make(backend="cuda", devices=[0, 1, 2, 3], max_recv_rows=40)
    transport = shuffle.group().transport
    execute, addresses = transport.execute, []

    def watched(plan, call, at):
        addresses.extend(address for each in at.values() for address, _ in each)
        execute(plan, call, at)

    def shifted(tensor):
        moved = torch.empty(tensor.numel() + 1)[1:].view(tensor.shape)
        return moved.copy_(tensor)

    transport.execute = watched
    given = [[shifted(part) for part in parts(each)] for each in (x, gradient)]
    found = layer_of_lists(shuffle, given[0], parts(ids), parts(weights), given[1])
    assert_equal(found, expected)
    assert addresses and all(address % 8 == 0 for address in addresses)


def test_memory_outlives_the_layer(device, inputs):
    listed = [parts(each) for each in inputs[:3]]
    with make(backend="cuda", devices=[0, 1, 2, 3], max_recv_rows=40) as shuffle:
        rows, _ = shuffle.dispatch(*listed)
        context = weakref.ref(shuffle.group().transport._context)
    gc.collect()
    assert context() is not None and len(rows) == 4
    del rows, _
    gc.collect()
    assert context() is None


def test_shared_memory_is_used_again(device):
    shuffle = make(backend="cuda", devices=[0, 1, 2, 3], max_recv_rows=300, max_tokens=300)
    memory = shuffle.group().transport.memory
    sizes = []
    for number in range(30):
        x, ids, weights, _, gradient = step(number, 600 + 4 * number, 2, 8)
        splits = (150 + number,) * 4
        layer_of_lists(shuffle, *(parts(each, splits) for each in (x, ids, weights, gradient)))
        gc.collect()
        sizes.append(sum(each.bytes for each in memory))
    assert len(set(sizes[3:])) == 1 and len(device.segments) < 100


def test_blocks_of_a_captured_graph_are_not_given_to_others(device, inputs):
    shuffle = make(backend="cuda", devices=[0, 1, 2, 3], max_recv_rows=40)
    listed = [parts(each) for each in inputs]

    def addresses():
        rows, handle = shuffle.dispatch(*listed[:3])
        return {each.data_ptr() for each in [*rows, *handle.states]}

    addresses()
    device.is_capturing = True
    captured = addresses()
    assert addresses() == captured, "a graph uses its own blocks again"
    device.is_capturing = False
    assert not addresses() & captured
    device.is_capturing = True
    with pytest.raises(fusco.FuscoError, match="E_MEMORY the capture of a graph needs a block"):
        kept = [shuffle.dispatch(*listed[:3]) for _ in range(64)]
        del kept


def test_a_capture_needs_a_bound(device, inputs):
    shuffle = make(ranks=1, backend="cuda")
    shuffle.dispatch(*inputs[:3])
    device.is_capturing = True
    assert "max_recv_rows" in refused("E_OPTION", shuffle.dispatch, *inputs[:3]).hint


def test_fp8_rows_of_a_gpu(device):
    x = torch.randn(5, 300)
    with cuda_ranks.rows_of_device(0) as work:
        codes, scales = ft.quantize(x, work)
        values = ft.dequantize(codes, scales, torch.float32, work)
    assert torch.equal(values, ft.dequantize(*ft.quantize(x), torch.float32))
    assert device.calls.count("fusco_cuda_fp8_quantize") == 1
    shuffle = make(hidden=300, backend="cuda", max_recv_rows=48)
    _, ids, weights, _, _ = step(3, 24, 2, 8, 300)
    x = torch.randn(24, 300)
    pair = tuple(parts(each) for each in ft.quantize(x))
    (row_codes, row_scales), handle = shuffle.dispatch(pair, parts(ids), parts(weights))
    whole, _ = make(hidden=300, fp8=True, backend="cuda", max_recv_rows=48).dispatch(parts(x), parts(ids))
    for rank, (codes, scales) in enumerate(zip(row_codes, row_scales)):
        used = handle.expert_offsets[rank][-1]
        assert torch.equal(ft.dequantize(codes, scales, torch.float32)[:used], whole[rank][:used])


SLOW = (gpu_cases.one_rank, gpu_cases.ranks_of_one_gpu, gpu_cases.compiled_layer)


@pytest.mark.parametrize(
    "case",
    [case for case in gpu_cases.ONE_GPU if case not in gpu_cases.NEED_CUDA + SLOW],
    ids=lambda case: case.__name__,
)
def test_a_case_for_gpus_passes_on_the_double(device, case):
    case()


# -- one process per rank


def nccl_steps(variants):
    """What each rank of a group gets, and the process that holds all."""
    device_double.install(setattr)
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    splits = [9, 0, 14, 5][:ranks]
    for number, options in enumerate(variants):
        hidden = options.get("hidden", HIDDEN)
        x, ids, weights, _, gradient = step(number, sum(splits), 2, 8, hidden, masked=0.1)
        whole = make(ranks=ranks, backend="host", **options)
        x_leaf, weights_leaf = leaves(x, weights)
        rows, whole_handle = whole.dispatch(x_leaf, ids, weights_leaf, splits=splits)
        output = whole.combine(rows * 2, whole_handle)
        output.backward(gradient)
        for bound in (None, 64):
            arguments = {"experts": 8, "hidden": hidden, "topk": 2, "max_tokens": 64, **options}
            shuffle = ft.ExpertShuffle(backend="nccl", max_recv_rows=bound, **arguments)
            assert shuffle.backend == "nccl" and shuffle.local_ranks == (rank,)
            own = [each.split(splits)[rank].contiguous() for each in (x, ids.long(), weights, gradient)]
            own_x, own_weights = leaves(own[0], own[2])
            rows, handle = shuffle.dispatch(own_x, own[1], own_weights)
            own_output = shuffle.combine(rows * 2, handle)
            own_output.backward(own[3])
            assert torch.equal(own_output, output.split(splits)[rank])
            assert torch.equal(own_x.grad, x_leaf.grad.split(splits)[rank])
            assert torch.equal(own_weights.grad, weights_leaf.grad.split(splits)[rank])
            assert handle.plan_id() == whole_handle.plan_id()
            assert handle.shard_digest() == whole_handle.shard_digest(rank)
            handle.row_weights(), handle.origins()
            shuffle.close()
    return True


def test_ranks_of_processes_have_the_bits_of_one_process():
    variants = list(VARIANTS.values())
    assert run_ranks(2, nccl_steps, variants[:3]) == [True] * 2
    assert run_ranks(4, nccl_steps, variants[3:]) == [True] * 4


def nccl_uses(folder):
    """Files, recordings and errors of a group."""
    device_double.install(setattr)
    folder, rank = Path(folder), torch.distributed.get_rank()
    arguments = {"experts": 8, "hidden": HIDDEN, "topk": 2, "max_tokens": 64, "backend": "nccl"}
    shuffle = ft.ExpertShuffle(max_recv_rows=64, **arguments)
    x, ids, weights, _, _ = step(rank, 6 + rank, 2, 8)
    recorder = shuffle.record(folder / "steps")
    assert (recorder is None) == (rank > 0)
    _, handle = shuffle.dispatch(x, ids, weights)
    if recorder is not None:
        recorder.close()
    shuffle.dispatch(x, ids, weights)
    assert not shuffle.group()._is_recording
    lines = (folder / "steps" / "index.jsonl").read_text().splitlines()
    assert [json.loads(line)["planId"] for line in lines] == [handle.plan_id()]
    handle.save(folder / "step.fusco")
    assert fusco.load_plan(folder / "step.fusco").plan_id() == handle.plan_id()
    refused("E_FILE_WRITE", handle.save, folder / "no" / "folder.fusco")
    # Ranks that make other calls are told so.
    rows = torch.zeros(64, HIDDEN)
    wrong = functools.partial(shuffle.combine, rows, handle) if rank == 0 else handle.origins
    assert refused("E_PEER_MISMATCH", wrong).rank == 1 - rank
    shuffle.close()
    error = refused("E_PEER_MISMATCH", ft.ExpertShuffle, **{**arguments, "align": 1 + rank})
    assert "align is" in error.message
    from fusco.torch import accelerator

    accelerator.identity = lambda index: "the same GPU"
    assert "ranks 0 and 1 share the GPU" in refused("E_BACKEND", ft.ExpertShuffle, **arguments).message
    accelerator.is_available = lambda: rank == 0
    error = refused("E_BACKEND", ft.ExpertShuffle, **arguments)
    assert error.rank == 1 and "rank 1 cannot run the nccl backend" in error.message
    return True


def test_files_and_errors_of_ranks_of_processes(tmp_path):
    assert run_ranks(2, nccl_uses, str(tmp_path)) == [True] * 2


def run_cases_of_ranks(names):
    device_double.install(setattr)
    return [gpu_cases.run_case(case) for case in gpu_ranks.RANKS if case.__name__ in names]


def test_cases_for_a_process_for_each_gpu_pass_on_the_double():
    for of_rank in run_ranks(2, run_cases_of_ranks, ["rank_allocators", "rank_fsdp"]):
        assert [result["problem"] for result in of_rank] == ["", ""]


def test_without_a_gpu_the_backends_say_so():
    program = """
import fusco.torch as ft
for backend in ("cuda", "nccl"):
    try:
        ft.ExpertShuffle(experts=8, hidden=16, topk=2, max_tokens=4, ranks=1, backend=backend)
    except ft.FuscoError as error:
        print(error.code)
"""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["E_BACKEND", "E_BACKEND"], done.stderr
