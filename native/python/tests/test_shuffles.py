"""Shuffles that the layers of a model share."""

from __future__ import annotations

import torch
import torch.distributed as dist
from gloo_ranks import run_ranks

from fusco.integrations.shuffles import shared_shuffle


def grow() -> tuple[bool, bool, bool, torch.Tensor]:
    def made(tokens: int, **options: object):
        return shared_shuffle(dist.group.WORLD, experts=4, hidden=8, topk=2, max_tokens=tokens, **options)

    small = made(4)
    ids = torch.tensor([[0, 3], [1, 2], [2, 0], [3, 1]])
    x = torch.randn(4, 8, requires_grad=True)
    rows, handle = small.dispatch(x, ids)
    large = made(6)
    # The handle of the small shuffle is still good, and so is its gradient.
    small.combine(rows, handle).sum().backward()
    return made(3) is large, large is small, made(6, align=2) is large, x.grad


def test_layers_share_a_shuffle_that_is_made_again_for_more_tokens() -> None:
    for shared, kept, other_options, gradient in run_ranks(2, grow):
        assert (shared, kept, other_options) == (True, False, False)
        assert torch.equal(gradient, torch.full((4, 8), 2.0))
