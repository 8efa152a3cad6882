"""What must hold with a process for each GPU and the nccl backend, as functions that raise; see gpu_cases.py."""

from __future__ import annotations

import copy
import json
import os
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from errors import raised
from gpu_cases import (
    BOUND,
    EXPERTS,
    HIDDEN,
    TOKENS,
    TOPK,
    assert_same,
    capture_and_replay,
    checkpointed_layer,
    compiled_layer,
    host_parts,
    make_step,
    open_shuffle,
    run_case,
    run_layer,
    steady_memory,
    variants_of,
)
from layers import leaves

from fusco.torch import accelerator


def splits_of(ranks):
    return [TOKENS, 0, TOKENS // 3, 7, 1, 64, 5, 80][:ranks] if ranks != 2 else [TOKENS, 41]


def own_parts(tensors):
    """The local rank's parts, on its GPU."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    device = accelerator.device(accelerator.current_device())
    return [each.split(splits_of(ranks))[rank].clone().to(device) for each in tensors]


def own_expected(expected):
    return {name: [parts[dist.get_rank()]] for name, parts in expected.items()}


def rank_equal():
    """Each rank has the bits of the host backend."""
    ranks = dist.get_world_size()
    bound = BOUND * 2
    # Opening a group takes longer than its steps, so not every combination.
    for number, (name, options) in enumerate(variants_of(ranks).items()):
        for dtype, rows in ((torch.float32, bound), (torch.bfloat16, None if number % 2 else bound)):
            arguments = make_step(number, sum(splits_of(ranks)), options, dtype)
            expected = own_expected(host_parts(arguments, splits_of(ranks), dtype=dtype, **options))
            with open_shuffle(backend="nccl", max_recv_rows=rows, dtype=dtype, **options) as shuffle:
                for _ in range(2):
                    assert_same(run_layer(shuffle, *own_parts(arguments)), expected, (name, str(dtype), rows))


def rank_allocators():
    """x, y and out come from an allocator whose memory other ranks cannot map."""
    splits = splits_of(dist.get_world_size())
    for options in ({}, {"sum": "token"}):
        arguments = make_step(5, sum(splits), options)
        expected = own_expected(host_parts(arguments, splits, **options))
        with open_shuffle(backend="nccl", max_recv_rows=BOUND * 2, **options) as shuffle:
            for _ in range(3):
                assert_same(run_layer(shuffle, *own_parts(arguments)), expected, str(options))


def rank_graph():
    """A captured graph of planning, exchanges and gradients, replayed with other ids."""
    ranks = dist.get_world_size()
    seeds = [make_step(seed, TOKENS * ranks, {}) for seed in range(4)]
    rank = dist.get_rank()
    steps = [[each.split(TOKENS)[rank].clone() for each in arguments] for arguments in seeds]
    wanted = [host_parts(arguments, [TOKENS] * ranks) for arguments in seeds]
    expected = [{name: parts[rank] for name, parts in each.items()} for each in wanted]
    with open_shuffle(backend="nccl", max_recv_rows=BOUND * 2) as shuffle:
        graph = capture_and_replay(shuffle, steps, expected)
        device = accelerator.device(accelerator.current_device())
        run_layer(shuffle, *(each.to(device) for each in steps[1]))
        graph.replay()
        torch.cuda.synchronize()


def rank_streams():
    """Two groups on two streams, with random delays, then the same groups on the other streams."""
    ranks = dist.get_world_size()
    # The SMs of both fit on a GPU next to each other, whichever waits for its peers.
    shuffles = [open_shuffle(backend="nccl", max_recv_rows=BOUND * 2, sms=24) for _ in range(2)]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    steps = [make_step(seed, sum(splits_of(ranks)), {}) for seed in range(4)]
    expected = [own_expected(host_parts(each, splits_of(ranks))) for each in steps]
    delays = torch.Generator().manual_seed(dist.get_rank())
    for turn in range(12):
        results = []
        for number, shuffle in enumerate(shuffles):
            stream = streams[(number + turn // 6) % 2]
            x, ids, weights, gradient = own_parts(steps[(turn + number) % 4])
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                torch.cuda._sleep(int(torch.randint(1, 2_000_000, (1,), generator=delays)))
                x, router = leaves(x, weights)
                rows, handle = shuffle.dispatch(x, ids, router)
                output = shuffle.combine(torch.relu(rows), handle)
                output.backward(gradient)
                # Inputs are kept as well: another stream than theirs reads them.
                results.append((output, x.grad, router.grad, x, ids, router, gradient))
        torch.cuda.synchronize()
        for number, found in enumerate(results):
            for ours, name in zip(found[:3], ("output", "x gradient", "weights")):
                assert torch.equal(ours.cpu(), expected[(turn + number) % 4][name][0]), (turn, number, name)
    for shuffle in shuffles:
        shuffle.close()


def rank_use():
    """Compiled, checkpointed, saved and recorded."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    with open_shuffle(backend="nccl", max_recv_rows=BOUND * 2, sms=24) as shuffle:
        # Inductor is tested on one GPU; here it would take long.
        compiled_layer(shuffle, backend="aot_eager")
        checkpointed_layer(shuffle)
        arguments = make_step(9, sum(splits_of(ranks)), {})
        folder = [tempfile.mkdtemp() if rank == 0 else None]
        dist.broadcast_object_list(folder)
        recorder = shuffle.record(Path(folder[0]) / "steps")
        x, ids, weights, _ = own_parts(arguments)
        rows, handle = shuffle.dispatch(x, ids, weights)
        if recorder is not None:
            recorder.close()
        shuffle.plan(ids)
        with open_shuffle(ranks=ranks, backend="host") as host:
            expected = host.plan(arguments[1], splits=splits_of(ranks))
            assert handle.save(Path(folder[0]) / "a.fusco") == expected.plan_id()
            assert handle.shard_digest() == expected.shard_digest(rank)
        again = shuffle.use_plan(Path(folder[0]) / "a.fusco", weights)
        assert torch.equal(shuffle.dispatch(x, handle=again)[0], rows)
        lines = (Path(folder[0]) / "steps" / "index.jsonl").read_text().splitlines()
        assert len(lines) == 1 and handle.plan_id() in lines[0]
        assert raised(handle.save, Path(folder[0]) / "no" / "a.fusco").code == "E_FILE_WRITE"
        del rows


def rank_steady():
    """A thousand steps neither grow PyTorch's memory nor the library's."""
    with open_shuffle(backend="nccl", max_recv_rows=BOUND * 2) as shuffle:
        steady_memory(shuffle)


def rank_fsdp():
    """A block whose dense parameters FSDP2 shards has the gradients of the block in one process."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    rank, ranks = dist.get_rank(), dist.get_world_size()
    device = accelerator.device(accelerator.current_device())
    torch.manual_seed(3)
    whole, x = Block(), torch.randn(ranks * 32, HIDDEN)
    sharded = copy.deepcopy(whole).to(device)
    fully_shard(sharded, mesh=init_device_mesh(accelerator.DEVICE_TYPE, (ranks,)))
    with open_shuffle(ranks=ranks, backend="host") as shuffle:
        expected = whole(x, shuffle)
        expected.square().sum().backward()
    with open_shuffle(backend="nccl") as shuffle:
        output = sharded(x.split(32)[rank].to(device), shuffle)
        torch.testing.assert_close(output.cpu(), expected.split(32)[rank], rtol=1e-3, atol=1e-3)
        output.square().sum().backward()
    for (name, ours), theirs in zip(sharded.named_parameters(), whole.parameters(), strict=True):
        # FSDP averages over the ranks.
        found = (ranks * ours.grad.full_tensor()).cpu()
        torch.testing.assert_close(found, theirs.grad, msg=name, rtol=1e-3, atol=1e-2)


class Block(torch.nn.Module):
    """A MoE block, each rank of which uses the experts that it hosts."""

    def __init__(self):
        super().__init__()
        self.router = torch.nn.Linear(HIDDEN, EXPERTS)
        self.experts = torch.nn.Parameter(torch.randn(EXPERTS, HIDDEN, HIDDEN) / 16)

    def forward(self, x, shuffle):
        weights, ids = torch.softmax(self.router(x), -1).topk(TOPK)
        rows, handle = shuffle.dispatch(x, ids, weights)
        hosted = self.experts[[expert for experts in shuffle.local_experts for expert in experts]]
        bounds = handle.expert_offsets.tolist()
        made = torch.cat([rows[a:b] @ expert for a, b, expert in zip(bounds, bounds[1:], hosted)])
        return x + shuffle.combine(made, handle)


def rank_differs():
    """Ranks with other options, and in other calls, are told so."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    last = rank == ranks - 1
    error = raised(open_shuffle, backend="nccl", align=1 + last)
    assert error.code == "E_PEER_MISMATCH" and "align is" in error.message, error
    shuffle = open_shuffle(backend="nccl", max_recv_rows=BOUND * 2, deadline_ms=5000)
    x, ids, weights, _ = own_parts(make_step(9, sum(splits_of(ranks)), {}))
    rows, handle = shuffle.dispatch(x, ids, weights)
    torch.cuda.synchronize()
    error = raised(
        until_raised,
        (lambda: shuffle.dispatch(x, handle=handle)) if last else (lambda: shuffle.combine(rows, handle)),
        shuffle,
    )
    assert error.code in ("E_PEER_MISMATCH", "E_PEER_TIMEOUT"), error
    shuffle.close()


def until_raised(call, shuffle):
    """Makes a call, then asks for what its kernels have found."""
    call()
    end = time.monotonic() + 20
    while time.monotonic() < end:
        torch.cuda.synchronize()
        shuffle.check_peers()
        time.sleep(0.05)


def rank_late():
    """The last rank does not make a call: the others are told its name after the deadline."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    shuffle = open_shuffle(backend="nccl", max_recv_rows=BOUND * 2, deadline_ms=3000)
    x, ids, weights, _ = own_parts(make_step(9, sum(splits_of(ranks)), {}))
    rows, handle = shuffle.dispatch(x, ids, weights)
    torch.cuda.synchronize()
    dist.barrier()
    if rank == ranks - 1:
        time.sleep(7)
    else:
        error = raised(until_raised, lambda: shuffle.combine(rows, handle), shuffle)
        assert (error.code, error.rank) == ("E_PEER_TIMEOUT", ranks - 1), error
        assert raised(shuffle.combine, rows, handle).code == "E_PEER_TIMEOUT"
    dist.barrier()
    shuffle.close()


#: The last ones leave a group that has failed.
RANKS = (
    rank_allocators,
    rank_equal,
    rank_graph,
    rank_streams,
    rank_use,
    rank_fsdp,
    rank_steady,
    rank_differs,
    rank_late,
)


def run_rank(rank, ranks, folder, names):
    """A process of a group: runs the cases of these names, until one fails, and writes what they gave."""
    place = {"init_method": f"file://{folder}/store", "rank": rank, "world_size": ranks}
    if ranks <= torch.cuda.device_count():
        torch.cuda.set_device(rank)
        dist.init_process_group("nccl", device_id=accelerator.device(rank), **place)
    else:
        # They share a GPU: NCCL takes each for another machine.
        os.environ["NCCL_HOSTID"] = f"rank {rank}"
        # The name of a machine without a network may have no address.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        torch.cuda.set_device(0)
        dist.init_process_group("gloo", **place)
    results = []
    for case in RANKS:
        if case.__name__ not in names:
            continue
        results.append(run_case(case))
        Path(folder, f"{rank}.json").write_text(json.dumps(results))
        if results[-1]["problem"]:
            # The ranks are out of step, and leaving the group could wait for one that has ended.
            os._exit(1)
    dist.destroy_process_group()
