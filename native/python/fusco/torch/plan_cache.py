"""Prepared plans of all groups of the process, the most recent ones, within one budget of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from ..host import HostPlan
from ..plan import Plan

#: Bytes of shards of the plans that are kept; others are made again from their state.
MOST_BYTES = 256 << 20


class Prepared(NamedTuple):
    """A plan, ready for exchanges.

    Attributes:
        plan: shards of all ranks.
        host: the plan in the host backend.
        key: SHA-256 of what the plan was made from.
        tokens: tokens of all local ranks.
        recv_rows: rows of the receive buffers of all local ranks.
        expert_offsets: of all local ranks, each shifted by the rows of the ranks before it; last is all rows.
        expert_counts: real rows of the blocks of all local ranks.
    """

    plan: Plan
    host: HostPlan
    key: bytes
    tokens: int
    recv_rows: int
    expert_offsets: list[int]
    expert_counts: list[int]

    @property
    def bytes(self) -> int:
        """Bytes of the shards."""
        return sum(self.plan.shard_bytes)


class PlanCache:
    """The plans that were used last. May be used by several threads."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self._kept: OrderedDict[tuple[str, bytes], Prepared] = OrderedDict()
        self._bytes = 0
        self._turn = threading.Lock()

    def find(self, group: str, key: bytes, make: Callable[[], Prepared]) -> Prepared:
        """The plan of a group with this key; it is made if it is not kept any more."""
        with self._turn:
            found = self._kept.get((group, key))
            if found is not None:
                self._kept.move_to_end((group, key))
                return found
        # Others go on meanwhile. Two threads that make the same plan at once make equal ones.
        made = make()
        with self._turn:
            if (group, key) not in self._kept:
                self._kept[group, key] = made
                self._bytes += made.bytes
            while self._bytes > self.most_bytes and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= dropped.bytes
        return made

    def forget(self, group: str) -> None:
        """Drops the plans of a group."""
        with self._turn:
            for each in [each for each in self._kept if each[0] == group]:
                self._bytes -= self._kept.pop(each).bytes

    def clear(self) -> None:
        """Drops all plans."""
        with self._turn:
            self._kept.clear()
            self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)


#: The cache of this process.
plans = PlanCache()
