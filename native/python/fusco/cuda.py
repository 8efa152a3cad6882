"""The cuda backend: one process drives one or several GPUs, with any number of ranks on each.

Calls enqueue on the streams that were set, and return. Addresses are of device memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref
from typing import Any

from . import _structs as s
from ._library import Handle, buffer_array, call, library
from .device_plan import DeviceIds, DevicePlan, plan_call, plan_limits
from .exchanges import Buffers, fp8_call
from .options import PlanOptions

__all__ = ["CudaContext", "CudaPlan", "CudaPlanner", "device_count"]

_PATH_AUTO = 0


def device_count() -> int:
    """GPUs of this process. Raises E_BACKEND, with the reason, if there is none or the build has no CUDA."""
    count = ctypes.c_uint32()
    call(library.fusco_cuda_device_count, byref(count))
    return count.value


class CudaContext:
    """Devices, and the ranks on them.

    Args:
        devices: device of each rank, 1 to 64 ranks.

    Raises:
        FuscoError: E_BACKEND if a device has a compute capability below 9.0, or two cannot reach each other; E_OPTION
    """

    def __init__(self, devices: Sequence[int]) -> None:
        self.devices = tuple(devices)
        self._handle = Handle(library.fusco_cuda_context_destroy)
        ranks = len(self.devices)
        numbers = (ctypes.c_uint32 * ranks)(*self.devices)
        call(library.fusco_cuda_context_create, ranks, numbers, byref(self._handle.pointer))

    @property
    def pointer(self) -> ctypes.c_void_p:
        """fusco_cuda_context of the C interface."""
        return self._handle.pointer

    def set_stream(self, rank: int, stream: int) -> None:
        """Sets the stream of a rank for the calls that follow; 0: the context's own stream."""
        call(library.fusco_cuda_set_stream, self._handle.pointer, rank, stream)

    def own_stream(self, rank: int) -> int:
        """The stream that the context made for a rank, which is set after this call."""
        self.set_stream(rank, 0)
        return int(library.fusco_cuda_stream(self._handle.pointer, rank) or 0)

    def limit_sms(self, count: int) -> None:
        """Limits the SMs that exchanges occupy; 0: the default."""
        call(library.fusco_cuda_limit_sms, self._handle.pointer, count)

    def check(self) -> None:
        """Raises what exchanges have recorded until now, without waiting for them: E_PEER_*, E_BACKEND."""
        call(library.fusco_cuda_check, self._handle.pointer)

    def alloc(self, rank: int, length: int) -> int:
        """Address of new memory of a rank's device, which the context keeps. Raises E_MEMORY."""
        address = ctypes.c_void_p()
        call(library.fusco_cuda_alloc, self._handle.pointer, rank, length, byref(address))
        return address.value or 0

    def clear_rows(self, rank: int, rows: tuple[int, int], row_bytes: int, first: int) -> None:
        """Enqueues zeros into the rows from the u32 at `first`, in device memory, on; see fusco_cuda_clear_rows."""
        call(library.fusco_cuda_clear_rows, self._handle.pointer, rank, byref(s.Buffer(*rows)), row_bytes, first)

    def row_work(self, rank: int) -> DeviceRows:
        """Work on the rows of one rank, on its stream."""
        return DeviceRows(self, rank)

    def close(self) -> None:
        """Waits for the work in flight and frees all memory."""
        self._handle.close()


class DeviceRows:
    """What a rank computes on its own rows; the calls of HostContext on device memory."""

    def __init__(self, context: CudaContext, rank: int) -> None:
        self._context = context
        self._rank = rank

    def quantize(self, dtype: int, shape: tuple[int, int], values: int, codes: int, scales: int) -> None:
        """Enqueues the conversion of rows to e4m3 codes; see HostContext.quantize."""
        self._fp8(library.fusco_cuda_fp8_quantize, fp8_call(dtype, shape, values, codes, scales))

    def dequantize(self, dtype: int, shape: tuple[int, int], values: int, codes: int, scales: int) -> None:
        """Enqueues the inverse of quantize."""
        self._fp8(library.fusco_cuda_fp8_dequantize, fp8_call(dtype, shape, values, codes, scales))

    def _fp8(self, function: Any, filled: s.Fp8Call) -> None:
        call(function, self._context.pointer, self._rank, byref(filled))


class CudaPlanner:
    """Options and limits, with tables on the devices.

    Args:
        context: of as many ranks as the options.
        options: without max_rows; strategy is flat or hier.
        max_tokens: of a rank.
        max_recv_rows: rows of a rank's receive buffer; further ones are dropped and counted. 0: all rows.
    """

    def __init__(self, context: CudaContext, options: PlanOptions, max_tokens: int, max_recv_rows: int) -> None:
        self._context = context
        self._topk = options.topk
        self._handle = Handle(library.fusco_cuda_planner_destroy)
        native, limits = options.to_native(), plan_limits(max_tokens, max_recv_rows)
        call(
            library.fusco_cuda_planner_create,
            context.pointer,
            byref(native),
            byref(limits),
            byref(self._handle.pointer),
        )

    def plan(self, ids: Sequence[DeviceIds], buffers: Buffers) -> CudaPlan:
        """Enqueues planning into plan buffers of all ranks. Raises E_BUFFER, E_LIMIT, E_BACKEND."""
        filled = plan_call(ids, self._topk, buffers)
        return CudaPlan(self, library.fusco_cuda_plan_on_device, self._handle.pointer, byref(filled))

    def attach(self, buffers: Buffers) -> CudaPlan:
        """The plan in plan buffers that were filled before. Raises E_BUFFER."""
        return CudaPlan(self, library.fusco_cuda_plan_attach, self._handle.pointer, buffer_array(buffers))

    def close(self) -> None:
        """Waits for the planning in flight and frees the tables."""
        self._handle.close()


class CudaPlan(DevicePlan):
    """A plan of all ranks of a context."""

    def __init__(self, planner: CudaPlanner, make: Any, *arguments: Any) -> None:
        self._planner = planner
        super().__init__(library.fusco_cuda_plan_destroy, make, *arguments)

    def _of_rank(self, name: str, rank: int) -> tuple[Any, ...]:
        return (getattr(library, f"fusco_cuda_plan_{name}"), self._handle.pointer, rank)

    def _run(self, name: str, filled: Any) -> None:
        path = (_PATH_AUTO,) if name == "dispatch" else ()
        call(getattr(library, f"fusco_cuda_{name}"), self._handle.pointer, *path, byref(filled), None)
