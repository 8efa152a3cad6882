"""Time of steps of an expert-parallel layer, and of their forward passes, against index_select and all_to_all_single.

    torchrun --nproc-per-node 2 step_time.py OUT.json [--tokens 4096] [--hidden 7168] [--topk 8] [--experts 256]

The experts return their rows, so that the exchanges are what is timed: dispatch, weighted combine and both gradients,
with the routing of the step planned in it. Every variant also gives its results, which must agree up to rounding. Times
are medians over steps of the slowest rank; the variants take turns. `medianMs` has steps, forward and backward, and
`forwardMedianMs` forward passes that record a graph and drop it.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

import fusco.torch


class AllToAll(torch.autograd.Function):
    """Rows to the ranks that `send` counts, and back in the backward pass."""

    @staticmethod
    def forward(ctx, rows: Tensor, send: list[int], receive: list[int]) -> Tensor:
        ctx.counts = (receive, send)
        received = rows.new_empty(sum(receive), rows.shape[1])
        dist.all_to_all_single(received, rows.contiguous(), receive, send)
        return received

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return AllToAll.apply(gradient, *ctx.counts), None, None


def unfused(x: Tensor, ids: Tensor, weights: Tensor, experts: int) -> Tensor:
    """The usual pipeline: sort by expert, exchange, sort again, and everything back."""
    ranks, topk = dist.get_world_size(), ids.shape[1]
    flat = ids.reshape(-1)
    order = flat.argsort(stable=True)
    counts = torch.bincount(flat, minlength=experts).reshape(ranks, -1)
    theirs = torch.empty_like(counts)
    dist.all_to_all_single(theirs, counts)
    send, receive = torch.stack([counts.sum(1), theirs.sum(1)]).tolist()
    local = torch.arange(experts // ranks, device=x.device).repeat(ranks)
    unpack = torch.repeat_interleave(local, theirs.reshape(-1), output_size=sum(receive)).argsort(stable=True)
    received = AllToAll.apply(x.index_select(0, order // topk), send, receive)
    rows = received.index_select(0, unpack)
    # Here the experts would work on `rows`.
    returned = AllToAll.apply(rows.index_select(0, unpack.argsort()), receive, send)
    entries = returned.index_select(0, order.argsort()).reshape(*ids.shape, -1)
    return (entries * weights.unsqueeze(-1).to(x.dtype)).sum(1)


def fused(shuffle: fusco.torch.ExpertShuffle, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """The same with this package."""
    rows, handle = shuffle.dispatch(x, ids, weights)
    return shuffle.combine(rows, handle)


def timed_ms(run: Callable[[], object]) -> float:
    """Milliseconds of a call on this rank."""
    dist.barrier()
    torch.cuda.synchronize()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def medians_ms(calls: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median milliseconds of each call on the slowest rank; the calls take turns. Collective."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, run in calls.items():
            times[name].append(timed_ms(run))
    slowest = torch.tensor(list(times.values()), device=device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return dict(zip(times, (round(ms, 4) for ms in slowest.median(1).values.tolist())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for name, default in (("tokens", 4096), ("hidden", 7168), ("topk", 8), ("experts", 256), ("rounds", 21)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", device_id=device)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator(device=device).manual_seed(rank + 1)
    shape = (options.tokens, options.hidden)
    x = torch.randn(shape, generator=generator, device=device).to(torch.bfloat16).requires_grad_()
    gradient = torch.randn(shape, generator=generator, device=device).to(torch.bfloat16)
    scores = torch.rand(options.tokens, options.experts, generator=generator, device=device)
    weights, ids = scores.softmax(1).topk(options.topk)
    weights.requires_grad_()
    arguments = {"experts": options.experts, "hidden": options.hidden, "topk": options.topk}
    expected = options.tokens * options.topk
    exact = fusco.torch.ExpertShuffle(backend="nccl", max_tokens=options.tokens, **arguments)
    bounded = fusco.torch.ExpertShuffle(
        backend="nccl", max_tokens=options.tokens, max_recv_rows=expected * 5 // 4, **arguments
    )
    variants = {
        "all_to_all_single": lambda: unfused(x, ids, weights, options.experts),
        "fusco, exact size": lambda: fused(exact, x, ids, weights),
        "fusco, bounded": lambda: fused(bounded, x, ids, weights),
    }

    def step(forward: Callable[[], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x.grad = weights.grad = None
        output = forward()
        output.backward(gradient)
        return output, x.grad, weights.grad

    wanted = step(variants["all_to_all_single"])
    for name, forward in variants.items():
        for ours, theirs in zip(step(forward), wanted):
            scale = theirs.float().abs().max()
            error = ((ours.float() - theirs.float()).abs().max() / scale).item()
            assert error < 0.02, (name, error)
        for _ in range(3):
            step(forward)
    steps = {name: partial(step, forward) for name, forward in variants.items()}
    figures = {
        "medianMs": medians_ms(steps, options.rounds, device),
        "forwardMedianMs": medians_ms(variants, options.rounds, device),
    }
    if rank == 0:
        where = {"device": torch.cuda.get_device_name(), "ranks": ranks, "torch": torch.__version__}
        sizes = {name: getattr(options, name) for name in ("tokens", "hidden", "topk", "experts", "rounds")}
        options.out.write_text(json.dumps({**where, **sizes, **figures}, indent=2))
        print(json.dumps(figures))
    exact.close()
    bounded.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
