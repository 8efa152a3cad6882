"""What the cuda and the nccl backend share: limits of plan buffers, and what a plan buffer tells about its plan."""

from __future__ import annotations

import ctypes
from abc import abstractmethod
from collections.abc import Callable, Sequence
from ctypes import byref
from typing import Any, NamedTuple

from . import _structs as s
from ._library import Handle, buffer_array, call, filled_buffer, library
from .exchanges import Buffers, Exchanges
from .options import PlanOptions

__all__ = ["PLAN_BUFFER_ALIGN", "DeviceIds", "DevicePlan", "PlanView", "plan_buffer_bytes", "plan_call", "plan_limits"]

#: Alignment of plan buffers, in bytes.
PLAN_BUFFER_ALIGN = 256

#: (number of fusco_id_dtype, tokens, address) of one rank's ids: [tokens, topk] in device memory.
DeviceIds = tuple[int, int, int]


class PlanView(NamedTuple):
    """Addresses in one rank's plan buffer; their contents are complete when planning is.

    Attributes:
        local_instances: experts of the rank.
        expert_counts: of u32 [local_instances], clipped to the receive bound.
        expert_offsets: of u32 [local_instances + 1], clipped to the receive bound.
        recv_rows: of u32 [1]: rows of the receive buffer, not clipped.
        overflow_rows: of u32 [1]: rows at or beyond the receive bound.
    """

    local_instances: int
    expert_counts: int
    expert_offsets: int
    recv_rows: int
    overflow_rows: int


class DevicePlan(Exchanges):
    """A plan in plan buffers of device memory, whose calls enqueue. `rank` counts the ranks of the context."""

    def __init__(self, destroy: Any, make: Callable[..., Any], *arguments: Any) -> None:
        self._handle = Handle(destroy)
        call(make, *arguments, byref(self._handle.pointer))

    @abstractmethod
    def _of_rank(self, name: str, rank: int) -> tuple[Any, ...]:
        """The function of this name, and its arguments for a rank."""

    def view(self, rank: int) -> PlanView:
        """Addresses in the plan buffer of a rank. Does not wait."""
        view = s.sized(s.CudaPlanView)
        call(*self._of_rank("describe", rank), byref(view))
        pointers = (view.expert_counts, view.expert_offsets, view.recv_rows, view.overflow_rows)
        return PlanView(view.local_instances, *(ctypes.cast(each, ctypes.c_void_p).value or 0 for each in pointers))

    def recv_rows(self, rank: int) -> int:
        """Rows of a rank's receive buffer, not clipped. Waits for planning.

        Raises:
            FuscoError: E_ROUTING_ID, E_ROUTING_DUPLICATE; E_PEER_TIMEOUT
        """
        rows = ctypes.c_uint32()
        call(*self._of_rank("status", rank), byref(rows))
        return rows.value

    def shard(self, rank: int) -> ctypes.Array[ctypes.c_char]:
        """The canonical shard of a rank. Waits for planning. Raises as recv_rows."""
        return filled_buffer(*self._of_rank("shard", rank))

    def close(self) -> None:
        """Releases the plan, not its plan buffers."""
        self._handle.close()


def plan_limits(max_tokens: int, max_recv_rows: int) -> s.CudaPlanLimits:
    """Limits of plan buffers; max_recv_rows 0: every row that can occur."""
    return s.sized(s.CudaPlanLimits, max_tokens=max_tokens, max_recv_rows=max_recv_rows)


def plan_buffer_bytes(options: PlanOptions, limits: s.CudaPlanLimits) -> int:
    """Bytes of one rank's plan buffer. Raises E_OPTION, E_LIMIT; E_BACKEND in a build without CUDA."""
    needed = ctypes.c_uint64()
    native = options.to_native()
    call(library.fusco_cuda_plan_buffer_bytes, byref(native), byref(limits), byref(needed))
    return needed.value


def plan_call(ids: Sequence[DeviceIds], topk: int, buffers: Buffers) -> s.CudaPlanCall:
    """The arguments of planning: ids and plan buffer of each rank of the call."""
    size = ctypes.sizeof(s.Ids)
    tables = (s.Ids * len(ids))(*[s.Ids(size, dtype, tokens, topk, address) for dtype, tokens, address in ids])
    return s.CudaPlanCall(ctypes.sizeof(s.CudaPlanCall), tables, buffer_array(buffers))
