"""The exchange of a MoE layer with index_select and all_to_all_single: what the benches compare with.

Rows are sorted by expert, exchanged, and sorted by local expert; the way back is the same in reverse. Both permutations
gather in both directions: their backward passes need no index_add. The host waits once for each dispatch, for the row
counts that all_to_all_single takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


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


class Permute(torch.autograd.Function):
    """Rows in another order. `inverse` is the inverse permutation of `order`."""

    @staticmethod
    def forward(ctx, rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(order, inverse)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        order, inverse = ctx.saved_tensors
        return Permute.apply(gradient, inverse, order), None, None


class Replicate(torch.autograd.Function):
    """The row of each entry, [tokens * topk, hidden], in the order `order` of the entries."""

    @staticmethod
    def forward(ctx, x: Tensor, order: Tensor, inverse: Tensor, topk: int) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.topk = topk
        return x.index_select(0, order // topk)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse,) = ctx.saved_tensors
        entries = gradient.index_select(0, inverse)
        return entries.view(-1, ctx.topk, gradient.shape[1]).sum(1), None, None, None


@dataclass(frozen=True)
class Sorted:
    """How the rows of one dispatch travelled.

    Attributes:
        expert_offsets: int32 [local experts + 1], first row of each local expert's block.
        topk_weights: [tokens, topk].
        send: rows to each rank.
        receive: rows from each rank.
        order: entry of each row that is sent, and its inverse.
        unpack: received row of each row in the order of the local experts, and its inverse.
    """

    expert_offsets: Tensor
    topk_weights: Tensor
    send: list[int]
    receive: list[int]
    order: tuple[Tensor, Tensor]
    unpack: tuple[Tensor, Tensor]


class SortedExchange:
    """Dispatch and combine over the default process group, with the arguments of `fusco.torch.ExpertShuffle`.

    Args:
        experts: of all ranks, in contiguous blocks of equal size.
    """

    def __init__(self, experts: int) -> None:
        self.experts = experts

    def dispatch(self, x: Tensor, ids: Tensor, weights: Tensor) -> tuple[Tensor, Sorted]:
        """Collective. Rows [rows, hidden] in the order of the local experts; no id is masked."""
        ranks = dist.get_world_size()
        chosen, entries = ids.reshape(-1).sort(stable=True)
        order = inverted(entries)
        # bincount would let the host wait.
        bounds = torch.searchsorted(chosen, torch.arange(self.experts + 1, device=x.device, dtype=chosen.dtype))
        counts = bounds.diff().view(ranks, -1)
        theirs = torch.empty_like(counts)
        dist.all_to_all_single(theirs, counts)
        send, receive = torch.stack([counts.sum(1), theirs.sum(1)]).tolist()
        local = torch.arange(self.experts // ranks, device=x.device).repeat(ranks)
        experts = torch.repeat_interleave(local, theirs.view(-1), output_size=sum(receive))
        unpack = inverted(experts.argsort(stable=True))
        offsets = torch.nn.functional.pad(theirs.sum(0).cumsum(0, dtype=torch.int32), (1, 0))
        received = AllToAll.apply(Replicate.apply(x, *order, ids.shape[1]), send, receive)
        return Permute.apply(received, *unpack), Sorted(offsets, weights, send, receive, order, unpack)

    def combine(self, rows: Tensor, handle: Sorted) -> Tensor:
        """Collective. The weighted sums of the rows that the experts made, [tokens, hidden]."""
        returned = AllToAll.apply(Permute.apply(rows, *reversed(handle.unpack)), handle.receive, handle.send)
        weights = handle.topk_weights
        entries = Permute.apply(returned, *reversed(handle.order)).view(*weights.shape, -1)
        return (entries * weights.unsqueeze(-1).to(rows.dtype)).sum(1)


def inverted(permutation: Tensor) -> tuple[Tensor, Tensor]:
    """A permutation and its inverse."""
    inverse = torch.empty_like(permutation)
    inverse[permutation] = torch.arange(len(permutation), device=permutation.device)
    return permutation, inverse
