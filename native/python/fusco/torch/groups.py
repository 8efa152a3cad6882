"""Groups by name: what an operator finds behind the name that it is given."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from multiprocessing.util import Finalize
from typing import Protocol

import torch

from ..errors import FuscoError
from ..host import HostContext, HostPlan
from ..ids import IdTable
from ..options import PlanOptions
from ..plan import Plan, parse_plan
from ..planner import Planner
from ..recorder import Recorder
from ..shard import blocks_of
from .calls import Call
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


class Group:
    """Options, planner, transport and prepared plans behind one name.

    Attributes:
        name: what operators are given; identical on all ranks.
        max_recv_rows: most rows of one local rank's receive buffer; 0 means that buffers have exactly the plan's rows.
        recorder: writes each routing, if it was started.
    """

    def __init__(self, name: str, options: PlanOptions, max_tokens: int, transport: Transport) -> None:
        self.name = name
        self.options = options
        self.planner = Planner(options)
        self.transport = transport
        self.max_tokens = max_tokens
        self.max_recv_rows = options.max_rows
        self.local_experts = tuple(options.experts_of(rank) for rank in transport.local_ranks)
        self.recorder: Recorder | None = None
        self.process = os.getpid()
        self._turn = threading.RLock()

    @property
    def local_instances(self) -> int:
        """Expert instances of all local ranks."""
        return sum(len(experts) for experts in self.local_experts)

    @property
    def state_bytes(self) -> int:
        """Size of the state of a plan made from ids."""
        return state_bytes(self.options.ranks, self.options.topk, self.max_tokens)

    def plan(self, ids: Sequence[torch.Tensor]) -> torch.Tensor:
        """Plans the routing of all ranks, collectively, and returns the state.

        Args:
            ids: int32 [tokens, topk] of each local rank.
        """
        with self._turn:
            tables = self.transport.gather(ids)
            state = state_of_ids(tables, self.options.topk, self.max_tokens, self.planner.options_digest)
            prepared = self.prepared(state)
            if self.recorder is not None and not self.recorder.closed:
                self.recorder.add([table.numpy() for table in tables], prepared.plan)
            return state

    def adopt(self, plan: Plan, data: bytes) -> torch.Tensor:
        """The state for a plan that was read. Raises E_RANKS, E_OPTION, E_LIMIT, E_MAX_ROWS."""
        given, own = plan.options, self.options
        if given.ranks != own.ranks:
            raise FuscoError("E_RANKS", f"the plan has {given.ranks} ranks, the group has {own.ranks}")
        for name, of_plan, of_group in (
            ("experts", given.experts, own.experts),
            ("topk", given.topk, own.topk),
            ("the experts of each rank", _hosted(given), _hosted(own)),
        ):
            if of_plan != of_group:
                raise FuscoError(
                    "E_OPTION",
                    f"{name}: the plan has {of_plan!r}, the group {of_group!r}",
                    hint="Make the ExpertShuffle with the options of the plan.",
                )
        state = state_of_file(data, own.ranks, own.topk, self.planner.options_digest)
        prepared = self.prepared(state)
        limits = [("E_LIMIT", "tokens", prepared.host.tokens, self.max_tokens)]
        if self.max_recv_rows > 0:
            limits.append(("E_MAX_ROWS", "rows to receive", prepared.host.recv_rows, self.max_recv_rows))
        for code, what, counts, limit in limits:
            if max(counts) > limit:
                raise FuscoError(
                    code, f"a rank of the plan has {max(counts)} {what} > {limit}", value=max(counts), limit=limit
                )
        return state

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

    def rows_of(self, prepared: Prepared) -> int:
        """First axis of the received rows of all local ranks."""
        return self.max_recv_rows * len(self.transport.local_ranks) or prepared.recv_rows

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

    def execute(self, prepared: Prepared, call: Call) -> None:
        """Runs a call, collectively."""
        self.transport.execute(prepared.host, prepared.key, call)

    def close(self) -> None:
        """Forgets all plans and releases the transport."""
        plans.forget(self.name)
        self.transport.close()


def _hosted(options: PlanOptions) -> list[tuple[int, ...]]:
    return [options.experts_of(rank) for rank in range(options.ranks)]


_groups: dict[str, Group] = {}


def register(group: Group) -> None:
    """Makes a group known by its name, and closes it when the process ends."""
    _groups[group.name] = group
    # Also runs where a process of multiprocessing ends, and never in a fork of this process.
    Finalize(None, forget, (group.name,), exitpriority=1)


def forget(name: str) -> None:
    """Closes a group; operators on its name raise E_CLOSED from then on."""
    group = _groups.pop(name, None)
    if group is not None and group.process == os.getpid():
        group.close()


def find(name: str) -> Group:
    """The group of a name. Raises E_CLOSED."""
    group = _groups.get(name)
    if group is None:
        raise FuscoError("E_CLOSED", f"the ExpertShuffle {name!r} is closed")
    if group.process != os.getpid():
        raise FuscoError(
            "E_CLOSED",
            f"the ExpertShuffle {name!r} belongs to process {group.process}, of which this one is a fork",
            hint="Make another ExpertShuffle in this process.",
        )
    return group
