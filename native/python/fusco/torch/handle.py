"""What a dispatch returns next to its rows: the plan as a value, and where each expert's rows lie."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Optional

import torch
from torch import Tensor

from ..errors import FuscoError
from ..plan import Plan

if TYPE_CHECKING:
    from .shuffle import ExpertShuffle

__all__ = ["Handle"]

#: A tensor, or one for each local rank where lists were given.
TensorOrList = Any


class Handle:
    """One planned routing, with the router weights that combine uses.

    Where ids were given as a list, one tensor for each local rank, all tensors of the handle are such lists.

    Attributes:
        states: uint8 tensors, self-contained: copies of them work as well, in another step or in a recomputation. One
            for all local ranks on the CPU; one for each local rank on GPUs.
        expert_offsets: int32 [local experts + 1]: first row of each local expert's block; the last one is all rows.
        expert_counts: int32 [local experts]: real rows of each block; the rest, up to the next offset, is zero padding.
        topk_weights: float32 [tokens, topk], or None: combine is unweighted.
        token_counts: tokens of the local ranks, as the states divide them.
        row_counts: first axis of the received rows, likewise; -1: exactly the rows of the plan.
    """

    def __init__(
        self,
        shuffle: ExpertShuffle,
        states: list[Tensor],
        blocks: tuple[TensorOrList, TensorOrList],
        weights: Optional[list[Tensor]],
        token_counts: list[int],
        row_counts: list[int],
        ids: Optional[list[Tensor]],
        is_list: bool,
    ) -> None:
        self._shuffle = shuffle
        self.states = states
        self.expert_offsets, self.expert_counts = blocks
        self.weights = weights
        self.token_counts = token_counts
        self.row_counts = row_counts
        self.ids = ids
        self.is_list = is_list

    @property
    def state(self) -> Tensor:
        """The state, if there is one. Raises E_OPTION where each local rank has one."""
        if len(self.states) != 1:
            raise FuscoError("E_OPTION", f"the handle has {len(self.states)} states", hint="Use handle.states.")
        return self.states[0]

    @state.setter
    def state(self, state: Tensor) -> None:
        self.states = [state]

    @property
    def topk_weights(self) -> Optional[TensorOrList]:
        """float32 [tokens, topk], or None: combine is unweighted."""
        return None if self.weights is None else self._shuffle.joined(self.weights, self.is_list)

    @property
    def tokens(self) -> int:
        """Tokens of the local ranks."""
        return sum(self.token_counts)

    @property
    def rows(self) -> int:
        """First axis of the received rows of all local ranks; -1: exactly the rows of the plan."""
        return sum(self.row_counts) if self.has_row_counts else -1

    @property
    def has_row_counts(self) -> bool:
        """Whether the numbers of rows are known."""
        return all(count >= 0 for count in self.row_counts)

    @property
    def recv_rows(self) -> TensorOrList:
        """int32 [1]: rows that each local rank's plan has, which may be more than its receive buffer takes."""
        return self._shuffle.row_totals(self)[0]

    @property
    def overflow_rows(self) -> TensorOrList:
        """int32 [1]: real rows that a receive buffer of max_recv_rows did not take; they were dropped."""
        return self._shuffle.row_totals(self)[1]

    def __repr__(self) -> str:
        rows = self.rows if self.has_row_counts else "not known yet"
        return f"Handle(tokens={self.tokens}, rows={rows}, weighted={self.weights is not None})"

    def check(self) -> list[int]:
        """Waits for planning, and returns the rows of the receive buffers as the plan has them.

        On a GPU planning does not report errors by itself: a bad id is treated as masked.

        Raises:
            FuscoError: E_ROUTING_ID, E_ROUTING_DUPLICATE; E_PEER_TIMEOUT, E_PEER_MISMATCH
        """
        return self._shuffle.check(self)

    def with_weights(self, topk_weights: Optional[TensorOrList]) -> Handle:
        """The same plan with other router weights, [tokens, topk]."""
        shuffle = self._shuffle
        weights = shuffle.weights_of(topk_weights, self.token_counts)
        blocks = (self.expert_offsets, self.expert_counts)
        counts = (self.token_counts, self.row_counts)
        return Handle(shuffle, self.states, blocks, weights, *counts, self.ids, self.is_list)

    def row_weights(self) -> TensorOrList:
        """The router weight of each received row, float32 [rows], 0 in padding; has a gradient. Collective."""
        return self._shuffle.dispatch_weights(self)

    def origins(self) -> TensorOrList:
        """(source rank, token, k) of each received row, int32 [rows, 3], -1 in padding. Collective."""
        return self._shuffle.origins(self)

    def plan(self) -> Plan:
        """The plan of all ranks. On GPUs it waits, and is collective where each process has one rank."""
        return self._shuffle.group().plan_of(self.states, self.ids)

    def plan_id(self) -> str:
        """The plan id, as ``fusco inspect`` prints it. Collective: all ranks call it, in the same order."""
        return self.plan().plan_id()

    def shard_digest(self, rank: Optional[int] = None) -> str:
        """SHA-256 of one rank's shard, in hex. Local; ``rank`` defaults to the first local rank."""
        chosen = self._shuffle.local_ranks[0] if rank is None else rank
        return self._shuffle.group().shard_digest(self.states, chosen)

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
        self._shuffle.group().agree("save", failure)
        return plan.plan_id()


def joined_blocks(blocks: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Blocks of several ranks whose rows follow each other."""
    if len(blocks) == 1:
        return blocks[0]
    rows = torch.stack([offsets[-1] for offsets, _ in blocks])
    ends = rows.cumsum(0, dtype=torch.int32)
    shifted = [offsets[:-1] + (end - own) for (offsets, _), end, own in zip(blocks, ends, rows)]
    return torch.cat([*shifted, ends[-1:]]), torch.cat([counts for _, counts in blocks])
