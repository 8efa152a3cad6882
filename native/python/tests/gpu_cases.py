"""What must hold on GPUs, as functions that raise.

test_gpu.py runs them in pytest, tools/gpu/torch_package.py without it. These run in one process with the cuda backend;
gpu_ranks.py has those with a process for each GPU. Expected values come from the host backend and from the dense
reference of layers.py.
"""

from __future__ import annotations

import functools
import gc
import tempfile
import time
import traceback
from pathlib import Path

import torch
from errors import raised
from layers import dense_step, forward_backward, leaves, step
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

import fusco
import fusco.torch as ft
from fusco.testing import assert_plan, audit_combine, audit_dispatch
from fusco.torch import accelerator

EXPERTS, TOPK, HIDDEN, TOKENS = 8, 2, 256, 96
BOUND = 256
VARIANTS = {
    "once per rank": {},
    "flat, padded": {"strategy": "flat", "align": 8},
    "by token": {"sum": "token"},
    "partial sums in f32": {"partial": "f32", "capacity": 40},
    "fp8": {"fp8": True},
    "top-1, narrow rows": {"topk": 1, "hidden": 3},
}


def variants_of(ranks):
    """Options of layers by name; several ranks also have experts on two of them."""
    if ranks == 1:
        return VARIANTS
    placement = [[expert % ranks, (expert + 1) % ranks] if expert < 3 else expert % ranks for expert in range(EXPERTS)]
    return {**VARIANTS, "replicas": {"placement": placement}}


def open_shuffle(**options):
    defaults = {"experts": EXPERTS, "hidden": HIDDEN, "topk": TOPK, "max_tokens": TOKENS}
    return ft.ExpertShuffle(**{**defaults, **options})


def make_step(seed, tokens, options, dtype=torch.float32):
    """x, ids, weights and output gradient on the CPU."""
    hidden = options.get("hidden", HIDDEN)
    x, ids, weights, _, gradient = step(seed, tokens, options.get("topk", TOPK), EXPERTS, hidden, masked=0.1)
    return x.to(dtype), ids, weights, gradient.to(dtype)


def run_layer(shuffle, x, ids, weights, gradient, **options):
    """Everything that a step of a layer gives, on the CPU. Arguments are tensors, or lists of them."""
    listed = isinstance(x, list)
    xs, routers = (leaves(*each) if listed else leaves(each) for each in (x, weights))
    rows, handle = shuffle.dispatch(xs if listed else xs[0], ids, routers if listed else routers[0], **options)
    made = [torch.relu(each) for each in rows] if listed else torch.relu(rows)
    output = shuffle.combine(made, handle)
    torch.autograd.backward(output, gradient)
    found = {"output": output, "x gradient": [each.grad for each in xs], "weights": [each.grad for each in routers]}
    found |= {"row weights": handle.row_weights(), "rows": rows, "origins": handle.origins()}
    found |= {"offsets": handle.expert_offsets, "counts": handle.expert_counts}
    return {
        name: [part.detach().cpu() for part in (value if isinstance(value, list) else [value])]
        for name, value in found.items()
    }


def assert_same(found, expected, what):
    """Bits of two results; rows behind those of the plan are zero, or -1 in origins."""
    for name, parts in found.items():
        for rank, (ours, theirs) in enumerate(zip(parts, expected[name], strict=True)):
            rest = ours[len(theirs) :]
            assert not rest.numel() or bool((rest == (-1 if name == "origins" else 0)).all()), (what, name, rank)
            ours = ours[: len(theirs)]
            assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), (what, name, rank)


def host_parts(arguments, splits, **options):
    """What each rank gets on the CPU."""
    shuffle = open_shuffle(ranks=len(splits), backend="host", **options)
    whole = run_layer(shuffle, *arguments, splits=splits)
    host = shuffle.plan(arguments[1], splits=splits)
    received = list(shuffle.group().open(host.states).host.recv_rows)
    by_rows = ("rows", "row weights", "origins")
    parts = {
        name: list(value[0].split(received if name in by_rows else splits))
        for name, value in whole.items()
        if name not in ("offsets", "counts")
    }
    experts = [len(local) for local in shuffle.local_experts]
    parts["counts"] = list(whole["counts"][0].split(experts))
    first = 0
    parts["offsets"] = []
    for rank, local in enumerate(experts):
        own = whole["offsets"][0][first : first + local + 1] - whole["offsets"][0][first]
        # The next block begins where this rank's buffer ends.
        own[-1] = received[rank]
        parts["offsets"].append(own)
        first += local
    shuffle.close()
    return parts


def to_parts(arguments, splits, devices):
    return [
        [part.clone().to(accelerator.device(index)) for part, index in zip(each.split(splits), devices)]
        for each in arguments
    ]


def compare_lists(devices):
    """All variants and dtypes, with and without a bound, with all ranks in this process."""
    splits = [TOKENS // 2, 0, TOKENS, 7][: len(devices)]
    for number, (name, options) in enumerate(variants_of(len(devices)).items()):
        for dtype in (torch.float32, torch.bfloat16):
            arguments = make_step(number, sum(splits), options, dtype)
            expected = host_parts(arguments, splits, dtype=dtype, **options)
            for bound in (None, BOUND):
                with open_shuffle(
                    ranks=len(devices), backend="cuda", devices=devices, max_recv_rows=bound, dtype=dtype, **options
                ) as shuffle:
                    for _ in range(2):
                        listed = to_parts(arguments, splits, devices)
                        found = run_layer(shuffle, *(listed if len(devices) > 1 else (each[0] for each in listed)))
                        assert_same(found, expected, (name, str(dtype), bound))


# -- one GPU


def ranks_of_one_gpu():
    """Four ranks on one GPU have the bits of the host backend."""
    compare_lists([0, 0, 0, 0])


def one_rank():
    """One rank has the bits of the host backend, and the layer is the dense one."""
    compare_lists([0])
    inputs = step(5, TOKENS, TOPK, EXPERTS, 64)
    device = accelerator.device(0)
    with open_shuffle(hidden=64, ranks=1, backend="cuda", max_recv_rows=BOUND) as shuffle:
        found = forward_backward(shuffle, *(each.to(device) for each in inputs))
    for ours, theirs in zip(found, dense_step(*inputs)):
        torch.testing.assert_close(ours.cpu().double(), theirs.double(), rtol=1e-3, atol=1e-3)


def one_tensor_for_all_ranks():
    """A tensor with the tokens of all ranks of one GPU is divided, and results are joined."""
    arguments = make_step(3, 24, {})
    host, gpu = (open_shuffle(ranks=4, backend=backend) for backend in ("host", "cuda"))
    on_gpu = [each.to(accelerator.device(0)) for each in arguments]
    splits = [9, 0, 14, 1]
    assert_same(run_layer(gpu, *on_gpu, splits=splits), run_layer(host, *arguments, splits=splits), "joined")


def fp8_rows():
    """Codes and scales have the bits of the CPU, and travel as a pair."""
    x = torch.randn(33, 300) * torch.logspace(-3, 3, 300)
    device = accelerator.device(0)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        ours, theirs = ft.quantize(x.to(dtype).to(device)), ft.quantize(x.to(dtype))
        for a, b in zip(ours, theirs):
            assert torch.equal(a.cpu().view(torch.uint8), b.view(torch.uint8))
        assert torch.equal(ft.dequantize(*ours, dtype).cpu(), ft.dequantize(*theirs, dtype))
    _, ids, weights, _, _ = step(3, 33, TOPK, EXPERTS, 300)
    with open_shuffle(hidden=300, ranks=1, backend="cuda", fp8=True, max_recv_rows=BOUND) as shuffle:
        pair = ft.quantize(x.to(device))
        received, handle = shuffle.dispatch(pair, ids.to(device), weights.to(device))
        whole, _ = shuffle.dispatch(x.to(device), handle=handle)
        used = int(handle.expert_offsets[-1])
        assert torch.equal(ft.dequantize(*received, torch.float32)[:used], whole[:used])


def rows_beyond_the_bound():
    """Rows beyond the bound are dropped and counted; bad ids are masked and reported."""
    device = accelerator.device(0)
    x = torch.randn(8, HIDDEN, device=device).requires_grad_()
    ids = torch.tensor([[0]] * 3 + [[1]] * 5, device=device)
    with open_shuffle(experts=2, topk=1, ranks=1, backend="cuda", max_recv_rows=5) as shuffle:
        rows, handle = shuffle.dispatch(x, ids)
        assert (handle.recv_rows.item(), handle.overflow_rows.item()) == (8, 3)
        assert (handle.expert_offsets.tolist(), handle.expert_counts.tolist()) == ([0, 3, 5], [3, 2])
        output = shuffle.combine(rows, handle)
        output.sum().backward()
        for tensor, expected in ((output[:5], x[:5]), (x.grad[:5], torch.ones_like(x[:5]))):
            assert torch.equal(tensor, expected)
        assert not output[5:].any() and not x.grad[5:].any()
        assert handle.check() == [8]
        wrong = ids.clone()
        wrong[6] = 2
        handle = shuffle.plan(wrong)
        error = raised(handle.check)
        assert (error.code, error.path) == ("E_ROUTING_ID", "/ranks/0/tokens/6/k/0"), error


def side_streams():
    """Calls follow the current stream; two groups on two streams do not disturb each other."""
    device = accelerator.device(0)
    shuffles = [open_shuffle(ranks=1, backend="cuda", max_recv_rows=BOUND) for _ in range(2)]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    steps = [make_step(seed, TOKENS, {}) for seed in range(6)]
    expected = [host_parts(each, [TOKENS]) for each in steps]
    on_gpu = [[tensor.to(device) for tensor in each] for each in steps]
    results = []
    for number, arguments in enumerate(on_gpu):
        stream = streams[number % 2]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.cuda._sleep(2_000_000)
            x, router = leaves(arguments[0], arguments[2])
            rows, handle = shuffles[number % 2].dispatch(x, arguments[1], router)
            output = shuffles[number % 2].combine(torch.relu(rows), handle)
            output.backward(arguments[3])
            results.append((output, x.grad, router.grad))
    torch.cuda.synchronize()
    for found, wanted in zip(results, expected):
        for ours, name in zip(found, ("output", "x gradient", "weights")):
            assert torch.equal(ours.cpu(), wanted[name][0]), name
    for shuffle in shuffles:
        # The same group on another stream than before.
        assert_same(run_layer(shuffle, *on_gpu[0]), expected[0], "another stream")
        shuffle.close()


def capture_and_replay(shuffle, steps, expected):
    """Captures plan, dispatch, combine and backward of the first step, and replays them with the others."""
    device = accelerator.device(accelerator.current_device())
    static = [each.to(device) for each in steps[0]]
    x, router = (each.requires_grad_() for each in (static[0], static[2]))

    def run():
        x.grad = router.grad = None
        rows, handle = shuffle.dispatch(x, static[1], router)
        output = shuffle.combine(torch.relu(rows), handle)
        output.backward(static[3])
        return output

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run()
    for arguments, wanted in zip(steps, expected):
        with torch.no_grad():
            for target, source in zip(static, arguments):
                target.copy_(source)
        graph.replay()
        found = (output, x.grad, router.grad)
        for ours, name in zip(found, ("output", "x gradient", "weights")):
            assert torch.equal(ours.cpu(), wanted[name]), name
    return graph


def captured_graph():
    """Plan, dispatch, combine and backward in one CUDA graph, replayed with other ids."""
    steps = [make_step(seed, TOKENS, {}) for seed in range(4)]
    expected = [{name: parts[0] for name, parts in host_parts(each, [TOKENS]).items()} for each in steps]
    with open_shuffle(ranks=1, backend="cuda", max_recv_rows=BOUND) as shuffle:
        graph = capture_and_replay(shuffle, steps, expected)
        # Calls after the capture neither use nor change the memory of the graph.
        run_layer(shuffle, *(each.to(accelerator.device(0)) for each in steps[1]))
        graph.replay()
        torch.cuda.synchronize()


def compiled_layer(shuffle=None, backend="inductor"):
    """torch.compile(fullgraph=True) with a bound."""
    device = accelerator.device(accelerator.current_device())
    shuffle = shuffle or open_shuffle(ranks=1, backend="cuda", max_recv_rows=BOUND)

    def layer(x, ids, weights):
        rows, handle = shuffle.dispatch(x, ids, weights)
        return shuffle.combine(torch.relu(rows), handle)

    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend=backend, dynamic=False)
    for seed in range(2):
        x, ids, weights, gradient = (each.to(device) for each in make_step(seed, TOKENS, {}))
        results = []
        for function in (layer, compiled):
            x_leaf, router = leaves(x, weights)
            output = function(x_leaf, ids, router)
            output.backward(gradient)
            results.append((output.detach(), x_leaf.grad, router.grad))
        assert all(torch.equal(a, b) for a, b in zip(*results))


def checkpointed_layer(shuffle=None):
    """Selective checkpointing saves the plan; plain checkpointing plans again. The same gradients."""
    device = accelerator.device(accelerator.current_device())
    shuffle = shuffle or open_shuffle(ranks=1, backend="cuda", max_recv_rows=BOUND)
    x, ids, weights, gradient = (each.to(device) for each in make_step(1, TOKENS, {}))
    save_plans = functools.partial(create_selective_checkpoint_contexts, list(ft.SAVED_OPS))

    def layer(x, weights):
        rows, handle = shuffle.dispatch(x, ids, weights)
        return shuffle.combine(torch.relu(rows), handle)

    results = []
    for options in (None, {}, {"context_fn": save_plans}):
        x_leaf, router = leaves(x, weights)
        if options is None:
            output = layer(x_leaf, router)
        else:
            output = checkpoint(layer, x_leaf, router, use_reentrant=False, **options)
        output.backward(gradient)
        results.append((x_leaf.grad, router.grad))
    assert all(torch.equal(a, b) for result in results[1:] for a, b in zip(result, results[0]))


def steady_memory(shuffle=None, steps=1000):
    """A thousand steps neither grow PyTorch's memory nor the library's."""
    index = accelerator.current_device()
    shuffle = shuffle or open_shuffle(ranks=1, backend="cuda", max_recv_rows=BOUND)
    x, ids, weights, gradient = (each.to(accelerator.device(index)) for each in make_step(1, TOKENS, {}))
    x, weights = leaves(x, weights)

    def run():
        x.grad = weights.grad = None
        rows, handle = shuffle.dispatch(x, ids, weights)
        shuffle.combine(torch.relu(rows), handle).backward(gradient)

    def used():
        gc.collect()
        torch.cuda.synchronize()
        library = sum(memory.bytes for memory in shuffle.group().transport.memory)
        return torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0], library

    for _ in range(10):
        run()
    before = used()
    for _ in range(steps):
        run()
    after = used()
    assert after[0] == before[0] and after[2] == before[2], (before, after)
    # Others may use the GPU; what a step leaves behind would be far more than this after a thousand.
    assert before[1] - after[1] < 64 << 20, (before, after)


def memory_outlives_the_layer():
    """Rows stay valid after the layer is closed."""
    arguments = make_step(2, TOKENS, {})
    with open_shuffle(ranks=1, backend="cuda", max_recv_rows=BOUND) as shuffle:
        rows, handle = shuffle.dispatch(*(each.to(accelerator.device(0)) for each in arguments[:3]))
        expected = rows.cpu()
    gc.collect()
    torch.cuda.synchronize()
    assert torch.equal(rows.cpu(), expected) and handle.expert_offsets.cpu()[-1] > 0


def saved_plans():
    """Plans of the GPU are those of the CPU: ids, shards, files, recordings, audits."""
    x, ids, weights, _ = make_step(4, 80, {})
    options = {"sum": "token", "ranks_per_node": 1}
    listed = to_parts((x, ids, weights), [20] * 4, [0] * 4)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_shuffle(ranks=4, backend="cuda", **options) as gpu,
        open_shuffle(ranks=4, backend="host", **options) as host,
    ):
        with gpu.record(Path(folder) / "steps"):
            rows, handle = gpu.dispatch(*listed)
        expected = host.plan(ids)
        assert handle.save(Path(folder) / "a.fusco") == expected.plan_id()
        assert [handle.shard_digest(r) for r in range(4)] == [expected.shard_digest(r) for r in range(4)]
        assert_plan(Path(folder) / "a.fusco", [each.cpu() for each in listed[1]])
        assert len((Path(folder) / "steps" / "index.jsonl").read_text().splitlines()) == 1
        plan = fusco.load_plan(Path(folder) / "a.fusco")
        assert plan.plan_id() == handle.plan_id()
        again = gpu.use_plan(plan, handle.topk_weights)
        assert all(torch.equal(a, b) for a, b in zip(rows, gpu.dispatch(listed[0], handle=again)[0]))
        combined = gpu.combine(rows, handle)
        check_audits(listed[1], listed[0], rows, handle.topk_weights, combined)


def check_audits(ids, x, rows, weights, combined):
    """Audits take tensors of GPUs, find nothing wrong, and find what is wrong."""
    found = audit_dispatch(ids, rows, x, check=False, experts=EXPERTS)
    assert found.ok, found
    found = audit_combine(ids, combined, x, outputs=rows, weights=weights, check=False, experts=EXPERTS)
    assert found.ok, found
    broken = [each.clone() for each in rows]
    broken[0][0] += 1
    assert not audit_dispatch(ids, broken, x, check=False, experts=EXPERTS).ok


ONE_GPU = (
    one_rank,
    ranks_of_one_gpu,
    one_tensor_for_all_ranks,
    fp8_rows,
    rows_beyond_the_bound,
    side_streams,
    captured_graph,
    compiled_layer,
    checkpointed_layer,
    steady_memory,
    memory_outlives_the_layer,
    saved_plans,
)
#: Cases that need streams and graphs, which no double has.
NEED_CUDA = (side_streams, captured_graph, steady_memory, memory_outlives_the_layer)


# -- several GPUs in one process


def ranks_of_several_gpus():
    """A rank on each GPU, then two on each of two."""
    gpus = min(4, torch.cuda.device_count())
    compare_lists(list(range(gpus)))
    compare_lists([0, 0, 1, 1])


def other_streams_of_several_gpus():
    """The default streams of several GPUs, and side streams of each."""
    splits, devices = [TOKENS, TOKENS], [0, 1]
    arguments = make_step(3, sum(splits), {})
    expected = host_parts(arguments, splits)
    with open_shuffle(ranks=2, backend="cuda", devices=devices, max_recv_rows=BOUND) as shuffle:
        listed = to_parts(arguments, splits, devices)
        for _ in range(3):
            assert_same(run_layer(shuffle, *listed), expected, "default streams")
        torch.cuda.synchronize(0)
        torch.cuda.synchronize(1)
        sides = [torch.cuda.Stream(device=index) for index in devices]
        with torch.cuda.stream(sides[0]), torch.cuda.stream(sides[1]):
            assert_same(run_layer(shuffle, *listed), expected, "side streams")


SEVERAL_GPUS = (ranks_of_several_gpus, other_streams_of_several_gpus)


def run_case(case):
    """Seconds of a case, and the text of what it raised."""
    start = time.monotonic()
    try:
        case()
        problem = ""
    except BaseException:
        problem = traceback.format_exc()
    return {"case": case.__name__, "seconds": round(time.monotonic() - start, 2), "problem": problem}
