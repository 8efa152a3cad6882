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
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from sorted_exchange import SortedExchange
from torch import Tensor
from turns import medians_ms

import fusco.torch

Shuffle = fusco.torch.ExpertShuffle | SortedExchange


def exchange(shuffle: Shuffle, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Rows to their experts, which return them, and back."""
    rows, handle = shuffle.dispatch(x, ids, weights)
    return shuffle.combine(rows, handle)


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
    ours = {
        "fusco, exact size": fusco.torch.ExpertShuffle(backend="nccl", max_tokens=options.tokens, **arguments),
        "fusco, bounded": fusco.torch.ExpertShuffle(
            backend="nccl", max_tokens=options.tokens, max_recv_rows=expected * 5 // 4, **arguments
        ),
    }
    shuffles = {"all_to_all_single": SortedExchange(options.experts), **ours}
    variants = {name: partial(exchange, shuffle, x, ids, weights) for name, shuffle in shuffles.items()}

    def step(forward: Callable[[], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x.grad = weights.grad = None
        output = forward()
        output.backward(gradient)
        return output, x.grad, weights.grad

    wanted = step(variants["all_to_all_single"])
    for name, forward in variants.items():
        for made, theirs in zip(step(forward), wanted):
            scale = theirs.float().abs().max()
            error = ((made.float() - theirs.float()).abs().max() / scale).item()
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
    for shuffle in ours.values():
        shuffle.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
