"""Plans from routing tables. All planning is native; this file carries its arguments and results."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from ctypes import byref
from dataclasses import replace
from typing import Any

from . import _structs as s
from ._library import Handle, buffer_array, call, filled_buffer, library
from .errors import FuscoError
from .ids import IdTable, of_each_rank
from .options import STRATEGIES, PlanOptions
from .plan import Plan

__all__ = ["Planner", "open_tables", "plan"]


class Planner:
    """Checked options, ready to plan. May be used by several threads.

    Raises:
        FuscoError: E_OPTION, E_PLACEMENT, E_LIMIT
    """

    def __init__(self, options: PlanOptions) -> None:
        self.options = options
        self._native_options = options.to_native()
        self._handle = Handle(library.fusco_planner_destroy)
        call(library.fusco_planner_create, byref(self._native_options), byref(self._handle.pointer))
        info = s.sized(s.PlannerInfo)
        call(library.fusco_planner_describe, self._handle.pointer, byref(info))
        self.instances: int = info.instances
        #: SHA-256 of the options; ranks compare it before they plan.
        self.options_digest = bytes(info.options_digest)
        self._counts: int = info.counts
        self._second_counts: int = info.second_counts
        self._settled_options: dict[tuple[int, int], s.PlanOptions] = {}

    def plan(self, tables: Sequence[IdTable]) -> Plan:
        """The plan of the routing of all ranks.

        Args:
            tables: one per rank, each [tokens, topk]; token counts may differ.

        Raises:
            FuscoError: E_RANKS, E_ROUTING_SHAPE, E_ROUTING_ID, E_ROUTING_DUPLICATE, E_LIMIT, E_MAX_ROWS
        """
        ranks = self.options.ranks
        if len(tables) != ranks:
            raise FuscoError("E_RANKS", f"{len(tables)} routing tables for {ranks} ranks")
        ids = [table.to_native() for table in tables]
        planner = self._handle.pointer
        counts = self._gather(library.fusco_planner_count, self._counts, ids)
        second = None
        if self._second_counts > 0:
            second = self._gather(library.fusco_planner_count_again, self._second_counts, ids, counts)
        decision = s.sized(s.Decision)
        groups = (ctypes.c_uint16 * ranks)()
        call(library.fusco_planner_decide, planner, counts, second, byref(decision), groups)
        shards = [
            filled_buffer(library.fusco_planner_shard, planner, rank, byref(ids[rank]), counts, second)
            for rank in range(ranks)
        ]
        buffers = buffer_array([(ctypes.addressof(shard), len(shard)) for shard in shards])
        return Plan(self._settled(decision), decision.rule, groups, buffers, shards, reason=decision.reason)

    def _settled(self, decision: s.Decision) -> s.PlanOptions:
        """The options of a plan with this decision, made once for each that occurs."""
        key = decision.strategy, decision.ranks_per_node
        if key not in self._settled_options:
            strategy = STRATEGIES[decision.strategy]
            options = replace(
                self.options, strategy=strategy, ranks_per_node=decision.ranks_per_node, ranks_per_host=None
            )
            self._settled_options[key] = options.to_native()
        return self._settled_options[key]

    def _gather(self, function: Any, width: int, ids: list[s.Ids], *before: Any) -> Any:
        """u32 [ranks, width] of what `function` counts for each rank."""
        gathered = (ctypes.c_uint32 * max(1, width * len(ids)))()
        for rank, table in enumerate(ids):
            part = (ctypes.c_uint32 * max(1, width)).from_buffer(gathered, 4 * width * rank)
            call(function, self._handle.pointer, rank, byref(table), *before, part)
        return gathered


def plan(tables: Iterable[Any], *, experts: int, **options: Any) -> Plan:
    """The plan of the routing of all ranks, without a group and without PyTorch.

    Args:
        tables: the ids of each rank, [tokens, topk]: see IdTable.
        experts: logical experts.
        options: further ones of PlanOptions; ``ranks`` and ``topk`` follow from the tables if they are not given.

    Raises:
        FuscoError: as Planner and Planner.plan; E_ROUTING_DTYPE, E_BUFFER
    """
    opened = open_tables(tables, options.get("topk"))
    topk = max((table.topk for table in opened), default=0)
    return Planner(PlanOptions(experts, **{"ranks": len(opened), "topk": topk, **options})).plan(opened)


def open_tables(tables: Iterable[Any], topk: int | None) -> list[IdTable]:
    """The ids of each rank, ready for native code; see IdTable."""
    return [IdTable(table, topk) for table in of_each_rank("the routing", tables)]
