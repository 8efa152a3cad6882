"""Programs of one rank, which test_processes.py starts once per rank: ``python ranks.py DIRECTORY NAME...``.

Programs run one after the other in the same processes, because starting those takes most of the time.
"""

from __future__ import annotations

import atexit
import copy
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.distributed as dist
from errors import raised
from layers import HIDDEN, leaves, make, products, step
from torch.utils.checkpoint import checkpoint

import fusco
import fusco.torch as ft

RANK = int(os.environ["RANK"])
RANKS = int(os.environ["WORLD_SIZE"])


def open_shuffle(**options):
    return ft.ExpertShuffle(**{"experts": 8, "hidden": HIDDEN, "topk": 2, "max_tokens": 64, **options})


def part(tensor, splits):
    return tensor.split(splits)[RANK].contiguous()


def run(shuffle, x, ids, weights, gradient, **options):
    """Everything that one step gives."""
    x, weights = leaves(x, weights)
    rows, handle = shuffle.dispatch(x, ids, weights, **options)
    output = shuffle.combine(rows * 2, handle)
    row_weights = handle.row_weights()
    output.backward(gradient)
    results = {"x gradient": x.grad, "weights gradient": weights.grad.clone()}
    row_weights.sum().backward()
    results["weights gradient of both"] = weights.grad
    results |= {"rows": rows, "output": output, "origins": handle.origins(), "row weights": row_weights}
    return {name: tensor.detach() for name, tensor in results.items()}, handle


BY_ROWS = ("rows", "origins", "row weights")
VARIANTS = {
    "once per rank": {},
    "flat, padded": {"strategy": "flat", "align": 4, "max_recv_rows": 60},
    "by token": {"ranks_per_node": 2, "sum": "token", "max_recv_rows": 40},
    "two in a node": {"ranks_per_node": 2, "partial": "f32", "capacity": 9},
    "fp8": {"fp8": True},
    "replicas": {"placement": [[0, 1], 0, 0, 0, 1, 1, 1, [0, 1]]},
}


def equal(directory):
    """Each rank has the bits of a process that holds all ranks."""
    splits = [9, 0, 14, 5][:RANKS]
    for number, (name, options) in enumerate(VARIANTS.items()):
        x, ids, weights, _, gradient = step(number, sum(splits), 2, 8, masked=0.1)
        expected, whole = run(make(ranks=RANKS, **options), x, ids, weights, gradient, splits=splits)
        shuffle = open_shuffle(**options)
        found, handle = run(shuffle, *(part(tensor, splits) for tensor in (x, ids.long(), weights, gradient)))
        received = list(whole._shuffle.group().prepared(whole.state).host.recv_rows)
        for result, ours in found.items():
            theirs = expected[result]
            if result in BY_ROWS:
                theirs = theirs[: sum(received)].split(received)[RANK]
                assert len(ours) == options.get("max_recv_rows", len(theirs)), (name, result)
                rest, ours = ours[len(theirs) :], ours[: len(theirs)]
                assert (rest == (-1 if result == "origins" else 0)).all(), (name, result)
            else:
                theirs = part(theirs, splits)
            assert torch.equal(ours, theirs), (name, result)
        assert handle.plan_id() == whole.plan_id()
        assert handle.shard_digest() == whole.shard_digest(RANK)
        assert handle.expert_counts.tolist() == expected_counts(whole, shuffle)
        handle.save(directory / f"{number}.fusco")
        assert fusco.load_plan(directory / f"{number}.fusco").plan_id() == handle.plan_id()
        shuffle.close()


def expected_counts(whole, shuffle):
    first = sum(len(experts) for experts in whole._shuffle.local_experts[:RANK])
    return whole.expert_counts[first : first + len(shuffle.local_experts[0])].tolist()


def use(directory):
    """Several layers at a time, checkpointing, recording, plan files, subgroups, errors that all ranks see."""
    splits = [9, 0, 14, 5][:RANKS]
    x, ids, weights, _, gradient = step(1, sum(splits), 2, 8)
    inputs = [part(tensor, splits) for tensor in (x, ids, weights, gradient)]
    first, second = open_shuffle(), open_shuffle(sum="token")
    recorder = first.record(directory / "steps")
    assert (recorder is None) == (RANK != 0)

    def layers(x, ids, weights):
        rows, handle = first.dispatch(x, ids, weights)
        x = first.combine(torch.tanh(rows), handle)
        rows, handle = second.dispatch(x, ids, weights)
        return second.combine(rows * rows, handle)

    def both(function):
        x, ids, weights, gradient = inputs
        x, weights = leaves(x, weights)
        function(x, ids, weights).backward(gradient)
        return x.grad, weights.grad

    plain = both(layers)
    again = both(lambda *arguments: checkpoint(layers, *arguments, use_reentrant=False))
    assert all(torch.equal(a, b) for a, b in zip(plain, again))
    if recorder is not None:
        recorder.close()
        assert len(list((directory / "steps").glob("step-*"))) == 3

    fusco.plan(list(ids.split(splits)), experts=8).save(directory / f"flat.{RANK}.fusco")
    handle = first.use_plan(directory / f"flat.{RANK}.fusco", inputs[2])
    rows, _ = first.dispatch(inputs[0], handle=handle)
    with make(ranks=RANKS, strategy="flat") as local:
        expected, whole = local.dispatch(x, ids, weights, splits=splits)
        assert torch.equal(first.combine(rows, handle), part(local.combine(expected, whole), splits))

    for write, path in (
        (handle.save, directory / "no" / "folder.fusco"),
        (first.record, directory / f"flat.{RANK}.fusco"),
    ):
        error = raised(write, path)
        assert error.code == "E_FILE_WRITE", error

    # A bad routing of one rank is an error on all, which can go on.
    wrong = inputs[1].clone()
    if RANK == 0:
        wrong[3, 1] = 99
    error = raised(first.dispatch, inputs[0], wrong, inputs[2])
    assert (error.code, error.rank, error.path) == ("E_ROUTING_ID", 0, "/ranks/0/tokens/3/k/1"), error
    assert all(torch.equal(a, b) for a, b in zip(plain, both(layers)))

    if RANKS == 4:
        pairs = [dist.new_group([0, 2]), dist.new_group([1, 3])]
        with open_shuffle(process_group=pairs[RANK % 2]) as pair:
            assert pair.local_ranks == (RANK // 2,)
            rows, handle = pair.dispatch(*inputs[:3])
            torch.testing.assert_close(pair.combine(rows, handle), inputs[0] * inputs[2].sum(1, keepdim=True))
    first.close()
    second.close()


class Moe(torch.nn.Module):
    """A block with experts of which each rank uses those that it hosts."""

    def __init__(self):
        super().__init__()
        self.router = torch.nn.Linear(HIDDEN, 8)
        self.experts = torch.nn.Parameter(torch.randn(8, HIDDEN, HIDDEN) / 4)

    def forward(self, x, shuffle):
        weights, ids = torch.softmax(self.router(x), -1).topk(2)
        rows, handle = shuffle.dispatch(x, ids, weights)
        hosted = self.experts[[expert for experts in shuffle.local_experts for expert in experts]]
        return x + shuffle.combine(products(rows, handle.expert_offsets, hosted), handle)


def fsdp(directory):
    """A block whose parameters FSDP2 shards has the gradients of the block in one process."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(3)
    whole, x = Moe(), torch.randn(RANKS * 12, HIDDEN)
    sharded = copy.deepcopy(whole)
    fully_shard(sharded, mesh=init_device_mesh("cpu", (RANKS,)))
    with make(ranks=RANKS) as shuffle:
        expected = whole(x, shuffle)
        expected.square().sum().backward()
    with open_shuffle() as shuffle:
        output = sharded(part(x, 12), shuffle)
        assert torch.equal(output, part(expected, 12))
        output.square().sum().backward()
    for (name, ours), theirs in zip(sharded.named_parameters(), whole.parameters(), strict=True):
        # FSDP averages over the ranks.
        torch.testing.assert_close(RANKS * ours.grad.full_tensor(), theirs.grad, msg=name)


def late(directory):
    """The last rank never makes the second call."""
    shuffle = open_shuffle(deadline_ms=1500)
    x, ids, weights, _, _ = step(RANK, 6, 2, 8)
    rows, handle = shuffle.dispatch(x, ids, weights)
    if RANK == RANKS - 1:
        time.sleep(4)
        shuffle.close()
        return
    error = raised(shuffle.combine, rows, handle)
    assert (error.code, error.rank) == ("E_PEER_TIMEOUT", RANKS - 1), error
    assert f"rank {RANKS - 1} did not enter call" in error.message and "(combine) within 1500 ms" in error.message
    assert raised(shuffle.combine, rows, handle).code == "E_PEER_TIMEOUT"
    shuffle.close()
    if RANK == 0:
        time.sleep(4)  # It serves the store.


def differ(directory):
    """Ranks with other options, other calls and other machines."""
    error = raised(open_shuffle, align=1 + RANK // (RANKS - 1))
    assert error.code == "E_PEER_MISMATCH" and "align is" in error.message, error
    error = raised(open_shuffle, max_tokens=64 + RANK // (RANKS - 1))
    assert error.code == "E_PEER_MISMATCH" and "max_tokens is" in error.message, error
    shuffle = open_shuffle()
    x, ids, weights, _, _ = step(RANK, 6, 2, 8)
    rows, handle = shuffle.dispatch(x, ids, weights)
    last = RANK == RANKS - 1
    error = raised(shuffle.dispatch, x, handle=handle) if last else raised(shuffle.combine, rows, handle)
    assert error.code == "E_PEER_MISMATCH" and "combine" in error.message and "dispatch" in error.message, error
    with open_shuffle() as shuffle:
        handle = shuffle.plan(ids)
        error = raised(shuffle.dispatch, x.half() if last else x.bfloat16(), handle=handle)
        assert error.code == "E_PEER_MISMATCH" and "float16" in error.message, error
    os.environ["FUSCO_HOSTID"] = f"machine {RANK // (RANKS - 1)}"
    error = raised(open_shuffle)
    del os.environ["FUSCO_HOSTID"]
    assert error.code == "E_BACKEND" and "another machine" in error.message, error
    dist.barrier()


def threads(directory):
    """Ranks make the calls of two groups in different orders, each group in its own thread."""
    x, ids, weights, _, _ = step(RANK, 6, 2, 8)
    with open_shuffle(deadline_ms=8000) as first, open_shuffle(deadline_ms=8000) as second:
        first.dispatch(x, ids, weights)
        with ThreadPoolExecutor() as pool:
            calls = []
            for shuffle in (first, second) if RANK == 0 else (second, first):
                calls.append(pool.submit(shuffle.dispatch, x, ids, weights))
                time.sleep(0.5)
            rows = [call.result()[0] for call in calls]
        assert torch.equal(*rows)


def forked(directory):
    """A forked child of a rank is refused at once, can make a new group, and does not disturb the rank."""
    shuffle = open_shuffle()
    x, ids, weights, _, _ = step(RANK, 6, 2, 8)
    shuffle.plan(ids)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        error = raised(shuffle.dispatch, x, ids, weights)
        assert error.code == "E_CLOSED" and "fork" in error.message, error
        with make(ranks=2) as local:
            assert len(local.dispatch(x, ids)[0]) > 0
        # What the end of a process runs, without the destructors of PyTorch, which wait for threads.
        atexit._run_exitfuncs()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    rows, handle = shuffle.dispatch(x, ids, weights)
    torch.testing.assert_close(shuffle.combine(rows, handle), x * weights.sum(1, keepdim=True))
    shuffle.close()


def killed(directory):
    """All ranks are killed after their first call."""
    shuffle = open_shuffle()
    x, ids, weights, _, _ = step(RANK, 6, 2, 8)
    shuffle.dispatch(x, ids, weights)
    dist.barrier()
    os.kill(os.getpid(), signal.SIGKILL)


def killed_waiting(directory):
    """All ranks are killed while they wait for the last one, which never makes the first call."""
    shuffle = open_shuffle()
    _, ids, _, _, _ = step(RANK, 6, 2, 8)
    if RANK < RANKS - 1:
        threading.Thread(target=kill_with_segment).start()
        shuffle.plan(ids)
    time.sleep(4)
    os.kill(os.getpid(), signal.SIGKILL)


def kill_with_segment():
    """Kills this process as soon as it has a segment."""
    while not list(Path("/dev/shm").glob(f"fusco-{os.getpid()}-*")):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


def leader_ends(directory):
    """Rank 0, which serves the store, ends as soon as it knows who is late: all others learn it as well."""
    shuffle = open_shuffle(deadline_ms=2000)
    x, ids, weights, _, _ = step(RANK, 6, 2, 8)
    rows, handle = shuffle.dispatch(x, ids, weights)
    if RANK < RANKS - 1:
        # The deadline of rank 0 passes first.
        time.sleep(0.3 * RANK)
        error = raised(shuffle.combine, rows, handle)
        assert (error.code, error.rank) == ("E_PEER_TIMEOUT", RANKS - 1), error
        print(f"rank {RANK} knows who is late", flush=True)
    else:
        time.sleep(4)
    os._exit(0)


def leader_differs(directory):
    """Rank 0 ends as soon as it knows that another rank makes another call: all others learn it as well."""
    shuffle = open_shuffle()
    x, ids, weights, _, _ = step(RANK, 6, 2, 8)
    rows, handle = shuffle.dispatch(x, ids, weights)
    last = RANK == RANKS - 1
    error = raised(shuffle.dispatch, x, handle=handle) if last else raised(shuffle.combine, rows, handle)
    assert error.code == "E_PEER_MISMATCH", error
    print(f"rank {RANK} knows who differs", flush=True)
    os._exit(0)


PROGRAMS = {
    program.__name__: program
    for program in (
        *(equal, use, fsdp, threads, forked, differ, late),
        *(killed, killed_waiting, leader_ends, leader_differs),
    )
}


def main():
    directory, *names = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=os.environ.get("INIT_METHOD", "env://"), rank=RANK, world_size=RANKS)
    for name in names:
        folder = Path(directory, name)
        folder.mkdir(exist_ok=True)
        PROGRAMS[name](folder)
        print(f"rank {RANK}: {name} is done", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
