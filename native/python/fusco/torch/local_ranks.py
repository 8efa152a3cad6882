"""All ranks in this process: native code works on the tensors themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import FuscoError
from ..host import HostPlan, shared_context
from .calls import Call

__all__ = ["LocalRanks", "rank_buffers"]


def rank_buffers(address: int, counts: Sequence[int], row_bytes: int) -> list[tuple[int, int]]:
    """(address, bytes) of consecutive ranks' parts of one array."""
    buffers = []
    for count in counts:
        buffers.append((address, count * row_bytes))
        address += count * row_bytes
    return buffers


class LocalRanks:
    """The transport of a group whose ranks all live in this process."""

    def __init__(self, ranks: int, threads: int) -> None:
        self.ranks = ranks
        self.local_ranks = range(ranks)
        self.context = shared_context(threads)

    def gather(self, ids: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The ids of all ranks, from those of the local ranks."""
        return list(ids)

    def execute(self, plan: HostPlan, key: bytes, call: Call) -> None:
        """Runs a call."""
        counts = {"tokens": plan.tokens, "rows": plan.recv_rows}
        for name, array in call.arrays.items():
            check_rows(name, array.parts[0].shape[0], sum(counts[array.axis]))
        call.run(
            plan,
            {
                name: rank_buffers(array.parts[0].data_ptr(), counts[array.axis], array.row_bytes)
                for name, array in call.arrays.items()
            },
        )

    def agree(self, what: str, failure: FuscoError | None = None) -> None:
        """Waits for the other ranks: there are none. Raises the failure."""
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Releases what the transport holds."""


def check_rows(name: str, given: int, needed: int) -> None:
    """Raises E_SHAPE unless an array has as many rows as the plan needs."""
    if given < needed:
        raise FuscoError("E_SHAPE", f"{name} has {given} rows; the plan needs {needed}", value=given, limit=needed)
