"""What a dispatch returns next to its rows: the plan as a value, and where each expert's rows lie."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Optional

import torch
from torch import Tensor

from ..errors import FuscoError
from ..plan import Plan

if TYPE_CHECKING:
    from .shuffle import ExpertShuffle

__all__ = ["Handle"]


class Handle:
    """One planned routing, with the router weights that combine uses.

    Attributes:
        state: uint8 tensor, self-contained: copies of it work as well, in another step or in a recomputation.
        expert_offsets: int32 [local experts + 1]: first row of each local expert's block; the last one is all rows.
        expert_counts: int32 [local experts]: real rows of each block; the rest, up to the next offset, is zero padding.
        topk_weights: float32 [tokens, topk], or None: combine is unweighted.
        tokens: tokens of the local ranks.
        rows: first axis of the received rows; -1: exactly the rows of the plan.
    """

    def __init__(
        self,
        shuffle: ExpertShuffle,
        state: Tensor,
        expert_offsets: Tensor,
        expert_counts: Tensor,
        topk_weights: Optional[Tensor],
        tokens: int,
        rows: int,
    ) -> None:
        self._shuffle = shuffle
        self.state = state
        self.expert_offsets = expert_offsets
        self.expert_counts = expert_counts
        self.topk_weights = topk_weights
        self.tokens = tokens
        self.rows = rows

    def with_weights(self, topk_weights: Optional[Tensor]) -> Handle:
        """The same plan with other router weights, [tokens, topk]."""
        shuffle = self._shuffle
        weights = shuffle.check_weights(topk_weights, self.tokens)
        return Handle(shuffle, self.state, self.expert_offsets, self.expert_counts, weights, self.tokens, self.rows)

    def row_weights(self) -> Tensor:
        """The router weight of each received row, float32 [rows], 0 in padding; has a gradient. Collective."""
        return self._shuffle.dispatch_weights(self)

    def origins(self) -> Tensor:
        """(source rank, token, k) of each received row, int32 [rows, 3], -1 in padding. Collective."""
        return torch.ops.fusco.origins(self.state, self.rows, self._shuffle.name)

    def plan(self) -> Plan:
        """The plan of all ranks."""
        return self._shuffle.group().prepared(self.state).plan

    def plan_id(self) -> str:
        """The plan id, as ``fusco inspect`` prints it. Collective: all ranks call it, in the same order."""
        return self.plan().plan_id()

    def shard_digest(self, rank: Optional[int] = None) -> str:
        """SHA-256 of one rank's shard, in hex. Local; ``rank`` defaults to the first local rank."""
        return self.plan().shard_digest(self._shuffle.local_ranks[0] if rank is None else rank)

    def save(self, path: str | os.PathLike[str]) -> str:
        """Writes the plan file and returns the plan id. Collective: rank 0 writes, and no rank returns before.

        Raises:
            FuscoError: E_FILE_WRITE, on all ranks; E_PEER_TIMEOUT
        """
        plan = self.plan()
        failure = None
        if 0 in self._shuffle.local_ranks:
            try:
                plan.save(path)
            except FuscoError as error:
                failure = error
        self._shuffle.group().transport.agree("save", failure)
        return plan.plan_id()
