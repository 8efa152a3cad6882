"""The group of the host backend: states from which plans follow, and kernels of the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Optional, Protocol

import torch

from ..errors import FuscoError
from ..host import HostContext, HostPlan
from ..ids import IdTable
from ..options import PlanOptions
from ..plan import Plan, parse_plan
from ..planner import Planner
from ..shard import blocks_of
from .calls import Call, Parts
from .given_plans import check_fits, check_sizes
from .groups import Group, RowWork, check_given_rows, check_token_count
from .plan_cache import Prepared, plans
from .state import KIND_FILE, Head, check_body, file_in, head_of, ids_in, state_bytes, state_of_file, state_of_ids


class Transport(Protocol):
    """Where the ranks of a group live, and how a call reaches them."""

    ranks: int
    context: HostContext

    @property
    def local_ranks(self) -> Sequence[int]: ...

    def gather(self, ids: Sequence[torch.Tensor]) -> list[torch.Tensor]: ...

    def execute(self, plan: HostPlan, key: bytes, call: Call) -> None: ...

    def agree(self, what: str, failure: FuscoError | None = None) -> None: ...

    def close(self) -> None: ...


class HostGroup(Group):
    """Planner, transport and prepared plans. A plan has one state for all local ranks."""

    id_dtypes = (torch.int8, torch.int16, torch.int32, torch.uint8)

    def __init__(self, name: str, options: PlanOptions, max_tokens: int, transport: Transport) -> None:
        super().__init__(name, options, max_tokens, options.max_rows, transport.local_ranks)
        self.planner = Planner(options)
        self.transport = transport

    @property
    def state_bytes(self) -> int:
        return state_bytes(self.options.ranks, self.options.topk, self.max_tokens)

    def plan(self, ids: Parts) -> list[torch.Tensor]:
        with self.turn:
            tables = self.transport.gather([part.to(torch.int32) for part in ids])
            state = state_of_ids(tables, self.options.topk, self.max_tokens, self.planner.options_digest)
            prepared = self.prepared(state)
            if self.recorder is not None and not self.recorder.closed:
                self.recorder.add([table.numpy() for table in tables], prepared.plan)
            return [state]

    def adopt(self, plan: Plan, data: bytes) -> torch.Tensor:
        """The state for a plan that was read. Raises E_RANKS, E_OPTION, E_LIMIT, E_MAX_ROWS."""
        own = self.options
        check_fits(plan.options, own)
        state = state_of_file(data, own.ranks, own.topk, self.planner.options_digest)
        prepared = self.prepared(state)
        check_sizes(prepared.host.tokens, self.max_tokens, prepared.host.recv_rows, self.max_recv_rows)
        return state

    def open(self, states: Parts) -> Prepared:
        return self.prepared(states[0])

    def prepared(self, state: torch.Tensor) -> Prepared:
        """The prepared plan of a state: the one that is kept, or made again. Raises E_PEER_MISMATCH, E_OPTION."""
        state = state.contiguous()
        head = head_of(state)
        if head.options_digest != self.planner.options_digest:
            raise FuscoError(
                "E_OPTION",
                "the handle belongs to an ExpertShuffle with other options",
                hint="Use a handle only with the ExpertShuffle that made it, or with one of the same options.",
            )
        return plans.find(self.name, head.key, lambda: self._prepare(state, head))

    def blocks(self, opened: Prepared, states: Parts) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [
            (
                torch.tensor(opened.expert_offsets, dtype=torch.int32),
                torch.tensor(opened.expert_counts, dtype=torch.int32),
            )
        ]

    def received_rows(self, opened: Prepared) -> int:
        """First axis of the received rows of all local ranks."""
        return self.max_recv_rows * len(self.local_ranks) or opened.recv_rows

    def check_rows(self, opened: Prepared, part: int, rows: int) -> None:
        check_given_rows(rows, self.received_rows(opened))

    def check_tokens(self, opened: Prepared, part: int, tokens: int) -> None:
        check_token_count(tokens, opened.tokens)

    def new_rows(
        self, opened: Prepared, part: int, rows: int, like: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype
    ) -> torch.Tensor:
        total = opened.recv_rows if rows < 0 else rows
        made = like.new_empty((total, *shape), dtype=dtype)
        if total > opened.recv_rows:
            # As bytes, for dtypes that have no kernels that fill.
            filled = made.view(torch.uint8) if dtype.itemsize == 1 else made
            filled[opened.recv_rows :].zero_()
        return made

    def new_entries(self, part: int, like: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(like, memory_format=torch.contiguous_format)

    def execute(self, opened: Prepared, call: Call) -> None:
        self.transport.execute(opened.host, opened.key, call)

    def row_work(self, part: int) -> AbstractContextManager[RowWork]:
        return nullcontext(self.transport.context)

    def plan_of(self, states: Parts, ids: Optional[Parts]) -> Plan:
        return self.open(states).plan

    def shard_digest(self, states: Parts, rank: int) -> str:
        return self.open(states).plan.shard_digest(rank)

    def agree(self, what: str, failure: FuscoError | None = None) -> None:
        self.transport.agree(what, failure)

    def close(self) -> None:
        plans.forget(self.name)
        self.transport.close()

    def _prepare(self, state: torch.Tensor, head: Head) -> Prepared:
        check_body(state, head)
        if head.kind == KIND_FILE:
            plan = parse_plan(file_in(state))
        else:
            plan = self.planner.plan([IdTable(table) for table in ids_in(state, head)])
        host = self.transport.context.prepare(plan)
        local = self.transport.local_ranks
        offsets = [0]
        counts: list[int] = []
        for rank in local:
            blocks = blocks_of(plan.shard(rank))
            first = offsets.pop()
            offsets += [first + offset for offset in blocks.offsets]
            counts += blocks.counts
        tokens, rows = (sum(of[rank] for rank in local) for of in (host.tokens, host.recv_rows))
        return Prepared(plan, host, head.key, tokens, rows, offsets, counts)
