"""One rank per process of one machine, over shared memory.

Each call has these steps: every rank copies its inputs into its segment; all meet; rank 0 runs the host kernels on the
segments of all ranks, with the same code as for ranks of one process, and reports; every rank copies its outputs.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import torch
import torch.distributed as dist

from ..errors import FuscoError
from ..host import HostPlan, shared_context
from .calls import Call
from .local_ranks import check_rows
from .meeting import Notes, name_ranks, open_meeting, raise_reported, report_of
from .segments import Mapping as Segment
from .segments import OwnSegment, PeerSegments, remove_abandoned

__all__ = ["HostProcesses"]

_LEADER = 0
_ALIGN = 64


class HostProcesses:
    """The transport of a process group. Collective: all ranks make it, with the same settings.

    Args:
        process_group: of torch.distributed, any backend; its store is where calls meet.
        name: of the group.
        settings: what must be identical on all ranks.
        threads: of an exchange.
        deadline_ms: longest wait for other ranks, 100..86400000; None: FUSCO_DEADLINE_MS.

    Raises:
        FuscoError: E_BACKEND if ranks are on several machines; E_PEER_TIMEOUT, E_PEER_MISMATCH; E_OPTION
    """

    def __init__(
        self,
        process_group: dist.ProcessGroup,
        name: str,
        settings: Mapping[str, Any],
        threads: int,
        deadline_ms: Optional[int],
    ) -> None:
        self.ranks = dist.get_world_size(process_group)
        self.rank = dist.get_rank(process_group)
        self.local_ranks = [self.rank]
        self._meeting = open_meeting(process_group, name, deadline_ms)
        hello = self._meeting.enter_opening(settings)
        elsewhere = [rank for rank, note in enumerate(hello) if note["host"] != hello[self.rank]["host"]]
        if elsewhere:
            raise FuscoError(
                "E_BACKEND",
                f"{name_ranks(elsewhere)} run on another machine than rank {self.rank}",
                hint="The host backend connects processes of one machine. FUSCO_HOSTID overrides how it is recognized.",
            )
        # Only the leader runs kernels; the others need a context to prepare plans.
        self.context = shared_context(threads if self.rank == _LEADER else 1)
        remove_abandoned()
        self._own = OwnSegment()
        self._peers = PeerSegments()
        self._turn = threading.RLock()

    def gather(self, ids: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The ids of all ranks, int32 [tokens, topk] each."""
        (own,) = ids
        own = own.contiguous()
        with self._turn:
            segment = self._own.reserve(own.nbytes)
            _copy(segment.address, own.data_ptr(), own.nbytes)
            entered, segments = self._meet("plan", "", segment, {"tokens": own.shape[0]})
            tables = []
            for note, mapped in zip(entered, segments):
                table = torch.empty((note["tokens"], own.shape[1]), dtype=torch.int32)
                _copy(table.data_ptr(), mapped.address, table.nbytes)
                tables.append(table)
            # Nobody overwrites its ids before all have read them.
            self.agree("planned")
            return tables

    def execute(self, plan: HostPlan, key: bytes, call: Call) -> None:
        """Runs a call, collectively."""
        for name, array in call.arrays.items():
            check_rows(name, array.parts[0].shape[0], _count(plan, array.axis, self.rank))
        with self._turn:
            offsets, length = _layout(plan, call, self.rank)
            segment = self._own.reserve(length)
            for name, array in call.arrays.items():
                if not array.is_output:
                    used = _count(plan, array.axis, self.rank) * array.row_bytes
                    _copy(segment.address + offsets[name], array.parts[0].data_ptr(), used)
            _, segments = self._meet(call.name, f"{call.signature} {key.hex()}", segment)
            if self.rank == _LEADER:
                self._run(plan, call, segments)
            else:
                raise_reported(_LEADER, self._meeting.outcome(call.name, _LEADER))
            for name, array in call.arrays.items():
                if array.is_output:
                    used = _count(plan, array.axis, self.rank) * array.row_bytes
                    _copy(array.parts[0].data_ptr(), segment.address + offsets[name], used)

    def agree(self, what: str, failure: Optional[FuscoError] = None) -> None:
        """Waits for the other ranks. Raises the failure of any of them, on all."""
        with self._turn:
            self._meeting.agree(what, failure)

    def close(self) -> None:
        """Removes and unmaps the shared memory. Rank 0 waits a while for the other ranks to close as well."""
        with self._turn:
            self._meeting.leave()
            self._own.unlink()
            self._peers.close()

    def _meet(
        self, what: str, signature: str, segment: Segment, notes: Optional[Notes] = None
    ) -> tuple[list[Notes], list[Segment]]:
        """Waits until all ranks have filled their segments, and maps those. Names of new ones do not outlast this."""
        named = {"segment": segment.name, "bytes": segment.bytes, "is_new": self._own.is_named, **(notes or {})}
        entered = self._meeting.enter(what, signature, named)
        segments = []
        failure: Optional[FuscoError] = None
        try:
            for rank, note in enumerate(entered):
                mapped = segment if rank == self.rank else self._peers.open(rank, note["segment"], note["bytes"])
                segments.append(mapped)
        except FuscoError as error:
            failure = error
        if any(note["is_new"] for note in entered):
            self.agree("mapped", failure)
            self._own.unlink()
        elif failure is not None:
            raise failure
        return entered, segments

    def _run(self, plan: HostPlan, call: Call, segments: list[Segment]) -> None:
        try:
            buffers: dict[str, list[tuple[int, int]]] = {name: [] for name in call.arrays}
            for rank, segment in enumerate(segments):
                offsets, _ = _layout(plan, call, rank)
                for name, array in call.arrays.items():
                    used = _count(plan, array.axis, rank) * array.row_bytes
                    buffers[name].append((segment.address + offsets[name], used))
            call.run(plan, buffers)
        except Exception as error:
            self._meeting.report(report_of(error))
            raise
        self._meeting.report({})


def _count(plan: HostPlan, axis: str, rank: int) -> int:
    return (plan.tokens if axis == "tokens" else plan.recv_rows)[rank]


def _layout(plan: HostPlan, call: Call, rank: int) -> tuple[dict[str, int], int]:
    """Where each array of a call lies in the segment of a rank, and the bytes of all."""
    offsets = {}
    end = 0
    for name, array in call.arrays.items():
        offsets[name] = end
        used = _count(plan, array.axis, rank) * array.row_bytes
        end += -(-used // _ALIGN) * _ALIGN
    return offsets, end


def _copy(target: int, source: int, length: int) -> None:
    if length > 0:
        ctypes.memmove(target, source, length)
