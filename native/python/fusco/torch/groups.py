"""Groups by name: what an operator finds behind the name that it is given."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from multiprocessing.util import Finalize
from typing import Any, Optional, Protocol

import torch

from ..errors import FuscoError
from ..options import PlanOptions
from ..plan import Plan
from ..recorder import Recorder
from .calls import Call, Parts


class RowWork(Protocol):
    """What a rank computes on its own rows; addresses are of the memory of its tensors."""

    def quantize(self, dtype: int, shape: tuple[int, int], values: int, codes: int, scales: int) -> None: ...

    def dequantize(self, dtype: int, shape: tuple[int, int], values: int, codes: int, scales: int) -> None: ...


class Group(ABC):
    """Options and plans behind one name.

    The plan of one routing is a list of states, and each array of a call a list of tensors, its parts: one for each
    local rank, or a single one for all.

    Attributes:
        name: what operators are given; identical on all ranks.
        options: of its plans.
        max_tokens: most tokens of a rank in one call.
        max_recv_rows: rows of one rank's receive buffer; 0 means that buffers have exactly the plan's rows.
        local_ranks: ranks of this process.
        local_experts: logical experts of each local rank.
        recorder: writes each routing, if it was started.
    """

    #: Dtypes of ids that `plan` takes.
    id_dtypes: tuple[torch.dtype, ...]

    def __init__(
        self, name: str, options: PlanOptions, max_tokens: int, max_recv_rows: int, local_ranks: Sequence[int]
    ) -> None:
        self.name = name
        self.options = options
        self.max_tokens = max_tokens
        self.max_recv_rows = max_recv_rows
        self.local_ranks = tuple(local_ranks)
        self.local_experts = tuple(options.experts_of(rank) for rank in local_ranks)
        self.recorder: Recorder | None = None
        self.process = os.getpid()
        self.turn = threading.RLock()

    @property
    @abstractmethod
    def state_bytes(self) -> int:
        """Size of a state of a plan made from ids."""

    @abstractmethod
    def plan(self, ids: Parts) -> list[torch.Tensor]:
        """Plans the routing of all ranks, collectively, and returns the states.

        Args:
            ids: [tokens, topk] of each local rank.
        """

    @abstractmethod
    def open(self, states: Parts) -> Any:
        """The plan in these states, ready for exchanges. Raises E_OPTION."""

    @abstractmethod
    def blocks(self, opened: Any, states: Parts) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """expert_offsets and expert_counts of each state."""

    @abstractmethod
    def check_rows(self, opened: Any, part: int, rows: int) -> None:
        """Raises E_SHAPE unless this is the first axis of a part of the received rows."""

    @abstractmethod
    def check_tokens(self, opened: Any, part: int, tokens: int) -> None:
        """Raises E_SHAPE unless a part has this many tokens."""

    @abstractmethod
    def new_rows(
        self, opened: Any, part: int, rows: int, like: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype
    ) -> torch.Tensor:
        """A part of a receive buffer: [rows, *shape]. A negative number of rows: those of the plan."""

    @abstractmethod
    def new_entries(self, part: int, like: torch.Tensor) -> torch.Tensor:
        """An array [tokens, topk] for a call that writes it."""

    @abstractmethod
    def execute(self, opened: Any, call: Call) -> None:
        """Runs a call, collectively."""

    @abstractmethod
    def row_work(self, part: int) -> AbstractContextManager[RowWork]:
        """Work on the rows of a part."""

    @abstractmethod
    def plan_of(self, states: Parts, ids: Optional[Parts]) -> Plan:
        """The plan of all ranks. Collective where each rank has only its part of it.

        Args:
            states: the plan.
            ids: [tokens, topk] of each local rank, from which it was made.
        """

    @abstractmethod
    def shard_digest(self, states: Parts, rank: int) -> str:
        """SHA-256 of the shard of a local rank, in hex. Local."""

    def record(self, path: str | os.PathLike[str]) -> Recorder | None:
        """Writes the routing of every plan from now on, collectively; rank 0 has the recorder.

        Raises E_FILE_WRITE, E_FILE_READ, and E_OPTION while another recorder is open, on all ranks.
        """
        failure = None
        if 0 in self.local_ranks:
            try:
                if self.recorder is not None and not self.recorder.closed:
                    raise FuscoError(
                        "E_OPTION",
                        f"routings are recorded in {self.recorder.path} already",
                        hint="Close that recorder first.",
                    )
                self.recorder = Recorder(path)
            except FuscoError as error:
                failure = error
        self.agree("record", failure)
        return self.recorder

    @abstractmethod
    def agree(self, what: str, failure: FuscoError | None = None) -> None:
        """Waits for the other ranks. Raises the failure of any of them, on all."""

    @abstractmethod
    def close(self) -> None:
        """Forgets all plans and releases everything."""


def check_given_rows(given: int, needed: int) -> None:
    """Raises E_SHAPE unless combine was given as many rows as dispatch returned."""
    if given != needed:
        raise FuscoError(
            "E_SHAPE",
            f"combine was given {given} rows; dispatch returned {needed}",
            hint="Give one row for each row that dispatch returned with this handle.",
            value=given,
            limit=needed,
        )


def check_token_count(given: int, needed: int) -> None:
    """Raises E_SHAPE unless a call is given as many tokens as its plan has."""
    if given != needed:
        raise FuscoError("E_SHAPE", f"{given} tokens; the plan has {needed}", hint="Give handle.tokens.")


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
