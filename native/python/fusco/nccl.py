"""The nccl backend: one rank per process, each with a GPU.

All ranks of a group make the same calls in the same order. A group numbers its calls; a digest of what a call does is
compared by the ranks of a machine before any row moves.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Callable, Sequence
from ctypes import byref
from typing import Any

from . import _structs as s
from ._library import Handle, buffer_array, call, library
from .cuda import CudaContext
from .device_plan import DeviceIds, DevicePlan, plan_call, plan_limits
from .exchanges import Buffers
from .options import PlanOptions

__all__ = ["ID_BYTES", "NcclGroup", "NcclPlan", "NcclPlanner", "open_nccl", "unique_id"]

#: Bytes of the id of a group.
ID_BYTES = 128
# Native code uses the numbers before it to open a group.
_FIRST_CALL = 2
_DEFAULT_ROUND_BYTES = 32 << 20
# Bytes of a rank in one gathering.
_MOST_GATHERED = 8 << 20


def open_nccl(path: str | None) -> tuple[int, str]:
    """Version and path of the NCCL of this process, which the first call opens.

    Args:
        path: None: FUSCO_NCCL_PATH, else libnccl.so.2 as the loader finds it.

    Raises:
        FuscoError: E_BACKEND
    """
    opened = s.sized(s.NcclLibrary)
    call(library.fusco_nccl_open, None if path is None else os.fsencode(path), byref(opened))
    return opened.version, opened.path.decode()


def unique_id() -> bytes:
    """The id of a new group, which one rank makes for all. Raises E_BACKEND."""
    made = (ctypes.c_uint8 * ID_BYTES)()
    call(library.fusco_nccl_unique_id, made)
    return bytes(made)


class NcclGroup:
    """This process's membership of a group. Collective. Calls come from one thread at a time.

    Args:
        context: of one rank.
        rank: of this process.
        machines: number of each rank's machine.
        mailbox: name of POSIX shared memory that the ranks of this machine share.
        group_id: from unique_id of one rank.
        deadline_ms: of every call.

    Raises:
        FuscoError: E_OPTION, E_RANKS, E_BACKEND; E_PEER_TIMEOUT
    """

    def __init__(
        self,
        context: CudaContext,
        rank: int,
        machines: Sequence[int],
        mailbox: str,
        group_id: bytes,
        deadline_ms: int,
    ) -> None:
        self.context = context
        self.ranks = len(machines)
        self._calls = _FIRST_CALL
        self._digests: dict[str, int] = {}
        self._handle = Handle(library.fusco_nccl_group_destroy)
        made = s.sized(
            s.NcclGroupDesc,
            ranks=self.ranks,
            rank=rank,
            context=context.pointer,
            machines=(ctypes.c_uint32 * self.ranks)(*machines),
            mailbox=mailbox.encode(),
            id=(ctypes.c_uint8 * ID_BYTES)(*group_id),
            round_bytes=_DEFAULT_ROUND_BYTES,
            deadline_ns=deadline_ms * 1_000_000,
        )
        call(library.fusco_nccl_group_create, byref(made), byref(self._handle.pointer))

    @property
    def pointer(self) -> ctypes.c_void_p:
        """fusco_nccl_group of the C interface."""
        return self._handle.pointer

    def next_call(self, what: str) -> s.NcclCall:
        """Identity of the next call. `what` describes it; it is identical on all ranks."""
        digest = self._digests.get(what)
        if digest is None:
            digest = int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "little")
            self._digests[what] = digest
        number, self._calls = self._calls, self._calls + 1
        return s.NcclCall(ctypes.sizeof(s.NcclCall), number, digest)

    def check(self) -> None:
        """Raises what exchanges have recorded until now: E_PEER_TIMEOUT, E_PEER_MISMATCH."""
        call(library.fusco_nccl_check, self._handle.pointer)

    def all_gather(self, what: str, local: bytes) -> list[bytes]:
        """The bytes of all ranks, as many on each, at most 64 MiB. Collective; waits."""
        gathered = ctypes.create_string_buffer(max(1, len(local) * self.ranks))
        identity = self.next_call(f"{what} {len(local)}")
        call(library.fusco_nccl_all_gather, self._handle.pointer, byref(identity), local, gathered, len(local))
        return [gathered.raw[rank * len(local) : (rank + 1) * len(local)] for rank in range(self.ranks)]

    def gather(self, what: str, local: bytes) -> list[bytes]:
        """The bytes of all ranks, any number on each. Collective; waits."""
        lengths = [int.from_bytes(part, "little") for part in self.all_gather(what, len(local).to_bytes(8, "little"))]
        padded = local.ljust(max(lengths), b"\0")
        gathered = [b""] * self.ranks
        for first in range(0, max(lengths), _MOST_GATHERED):
            pieces = self.all_gather(what, padded[first : first + _MOST_GATHERED])
            gathered = [before + piece for before, piece in zip(gathered, pieces)]
        return [part[:length] for part, length in zip(gathered, lengths)]

    def register(self, buffers: Buffers) -> None:
        """Maps memory of this rank into the others of its machine; waits until they have. Not collective."""
        call(library.fusco_nccl_register, self._handle.pointer, buffer_array(buffers), len(buffers))

    def abort(self, why: str) -> None:
        """Ends the call in progress and all later ones with E_PEER_TIMEOUT. Any thread may call it."""
        library.fusco_nccl_abort(self._handle.pointer, why.encode())

    def close(self) -> None:
        """Waits for the work in flight and leaves the group."""
        self._handle.close()


class NcclPlanner:
    """Options and limits, with tables on the device of this rank. Collective; arguments as CudaPlanner."""

    def __init__(self, group: NcclGroup, options: PlanOptions, max_tokens: int, max_recv_rows: int) -> None:
        self.group = group
        self._topk = options.topk
        self._handle = Handle(library.fusco_nccl_planner_destroy)
        native, limits, identity = (
            options.to_native(),
            plan_limits(max_tokens, max_recv_rows),
            group.next_call("planner"),
        )
        call(
            library.fusco_nccl_planner_create,
            group.pointer,
            byref(identity),
            byref(native),
            byref(limits),
            byref(self._handle.pointer),
        )

    def plan(self, ids: DeviceIds, buffer: tuple[int, int]) -> NcclPlan:
        """Enqueues planning into the plan buffer of this rank. Collective. Raises E_BUFFER, E_LIMIT, E_BACKEND."""
        filled, identity = plan_call([ids], self._topk, [buffer]), self.group.next_call("plan")
        make = library.fusco_nccl_plan_on_device
        return NcclPlan(self, make, self._handle.pointer, byref(identity), byref(filled))

    def attach(self, buffer: tuple[int, int]) -> NcclPlan:
        """The plan in a plan buffer that was filled before. Raises E_BUFFER."""
        return NcclPlan(self, library.fusco_nccl_plan_attach, self._handle.pointer, buffer_array([buffer]))

    def close(self) -> None:
        """Waits for the planning in flight and frees the tables."""
        self._handle.close()


class NcclPlan(DevicePlan):
    """The part of the local rank. `what` of the next call says what ranks compare in addition to its kind."""

    def __init__(self, planner: NcclPlanner, make: Callable[..., Any], *arguments: Any) -> None:
        self._planner = planner
        self.what = ""
        super().__init__(library.fusco_nccl_plan_destroy, make, *arguments)

    def _of_rank(self, name: str, rank: int) -> tuple[Any, ...]:
        return (getattr(library, f"fusco_nccl_plan_{name}"), self._handle.pointer)

    def _run(self, name: str, filled: Any) -> None:
        identity = self._planner.group.next_call(f"{name} {self.what}")
        function = getattr(library, f"fusco_nccl_{name}")
        call(function, self._handle.pointer, byref(identity), byref(filled), None, None)
