"""The shared library of this package and the functions of its C interface.

The environment variable FUSCO_LIBRARY names a library that was built elsewhere, for work on the native sources.

Every function that returns a status takes a fusco_error as its last argument; ``call`` supplies it and turns a status
other than FUSCO_OK into a FuscoError. ctypes releases the interpreter's lock during each call.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

from . import _structs as s
from .errors import FuscoError

_NAME = "libfusco.dylib" if sys.platform == "darwin" else "libfusco.so"

# Parameters of the functions that return a status, without the error at the end.
_STATUS_FUNCTIONS: dict[str, list[Any]] = {
    "fusco_context_create": [POINTER(s.ContextOptions), POINTER(c_void_p)],
    "fusco_plan_create": [c_void_p, POINTER(s.PlanDesc), POINTER(c_void_p)],
    "fusco_dispatch": [c_void_p, POINTER(s.DispatchCall), POINTER(s.Stats)],
    "fusco_combine": [c_void_p, POINTER(s.CombineCall), POINTER(s.Stats)],
    "fusco_weight_gradient": [c_void_p, POINTER(s.WeightGradientCall), POINTER(s.Stats)],
    "fusco_combine_gradient": [c_void_p, POINTER(s.CombineGradientCall), POINTER(s.Stats)],
    "fusco_fp8_quantize": [c_void_p, POINTER(s.Fp8Call)],
    "fusco_fp8_dequantize": [c_void_p, POINTER(s.Fp8Call)],
    "fusco_planner_create": [POINTER(s.PlanOptions), POINTER(c_void_p)],
    "fusco_planner_describe": [c_void_p, POINTER(s.PlannerInfo)],
    "fusco_planner_count": [c_void_p, c_uint32, POINTER(s.Ids), POINTER(c_uint32)],
    "fusco_planner_count_again": [c_void_p, c_uint32, POINTER(s.Ids), POINTER(c_uint32), POINTER(c_uint32)],
    "fusco_planner_decide": [c_void_p, POINTER(c_uint32), POINTER(c_uint32), POINTER(s.Decision), POINTER(c_uint16)],
    "fusco_planner_shard": [
        c_void_p,
        c_uint32,
        POINTER(s.Ids),
        POINTER(c_uint32),
        POINTER(c_uint32),
        POINTER(s.Buffer),
    ],
    "fusco_plan_file_open": [c_char_p, POINTER(c_void_p)],
    "fusco_plan_file_parse": [c_char_p, c_uint64, POINTER(c_void_p)],
    "fusco_plan_file_describe": [c_void_p, POINTER(s.PlanFileInfo)],
    "fusco_plan_file_check_routing": [c_void_p, POINTER(s.Ids)],
    "fusco_plan_file_write": [c_char_p, POINTER(s.PlanFileInfo), POINTER(c_uint8)],
    "fusco_cuda_device_count": [POINTER(c_uint32)],
    "fusco_cuda_device": [c_uint32, POINTER(s.CudaDeviceInfo)],
    "fusco_cuda_context_create": [c_uint32, POINTER(c_uint32), POINTER(c_void_p)],
    "fusco_cuda_set_stream": [c_void_p, c_uint32, c_void_p],
    "fusco_cuda_limit_sms": [c_void_p, c_uint32],
    "fusco_cuda_check": [c_void_p],
    "fusco_cuda_alloc": [c_void_p, c_uint32, c_uint64, POINTER(c_void_p)],
    "fusco_cuda_clear_rows": [c_void_p, c_uint32, POINTER(s.Buffer), c_uint64, c_void_p],
    "fusco_cuda_dispatch": [c_void_p, c_int, POINTER(s.DispatchCall), c_void_p],
    "fusco_cuda_combine": [c_void_p, POINTER(s.CombineCall), c_void_p],
    "fusco_cuda_weight_gradient": [c_void_p, POINTER(s.WeightGradientCall), c_void_p],
    "fusco_cuda_combine_gradient": [c_void_p, POINTER(s.CombineGradientCall), c_void_p],
    "fusco_cuda_fp8_quantize": [c_void_p, c_uint32, POINTER(s.Fp8Call)],
    "fusco_cuda_fp8_dequantize": [c_void_p, c_uint32, POINTER(s.Fp8Call)],
    "fusco_cuda_plan_buffer_bytes": [POINTER(s.PlanOptions), POINTER(s.CudaPlanLimits), POINTER(c_uint64)],
    "fusco_cuda_planner_create": [c_void_p, POINTER(s.PlanOptions), POINTER(s.CudaPlanLimits), POINTER(c_void_p)],
    "fusco_cuda_plan_on_device": [c_void_p, POINTER(s.CudaPlanCall), POINTER(c_void_p)],
    "fusco_cuda_plan_attach": [c_void_p, POINTER(s.Buffer), POINTER(c_void_p)],
    "fusco_cuda_plan_describe": [c_void_p, c_uint32, POINTER(s.CudaPlanView)],
    "fusco_cuda_plan_status": [c_void_p, c_uint32, POINTER(c_uint32)],
    "fusco_cuda_plan_shard": [c_void_p, c_uint32, POINTER(s.Buffer)],
    "fusco_nccl_open": [c_char_p, POINTER(s.NcclLibrary)],
    "fusco_nccl_unique_id": [POINTER(c_uint8)],
    "fusco_nccl_group_create": [POINTER(s.NcclGroupDesc), POINTER(c_void_p)],
    "fusco_nccl_check": [c_void_p],
    "fusco_nccl_all_gather": [c_void_p, POINTER(s.NcclCall), c_void_p, c_void_p, c_uint64],
    "fusco_nccl_register": [c_void_p, POINTER(s.Buffer), c_uint32],
    "fusco_nccl_dispatch": [c_void_p, POINTER(s.NcclCall), POINTER(s.DispatchCall), c_void_p, c_void_p],
    "fusco_nccl_combine": [c_void_p, POINTER(s.NcclCall), POINTER(s.CombineCall), c_void_p, c_void_p],
    "fusco_nccl_weight_gradient": [c_void_p, POINTER(s.NcclCall), POINTER(s.WeightGradientCall), c_void_p, c_void_p],
    "fusco_nccl_combine_gradient": [
        c_void_p,
        POINTER(s.NcclCall),
        POINTER(s.CombineGradientCall),
        c_void_p,
        c_void_p,
    ],
    "fusco_nccl_planner_create": [
        c_void_p,
        POINTER(s.NcclCall),
        POINTER(s.PlanOptions),
        POINTER(s.CudaPlanLimits),
        POINTER(c_void_p),
    ],
    "fusco_nccl_plan_on_device": [c_void_p, POINTER(s.NcclCall), POINTER(s.CudaPlanCall), POINTER(c_void_p)],
    "fusco_nccl_plan_attach": [c_void_p, POINTER(s.Buffer), POINTER(c_void_p)],
    "fusco_nccl_plan_describe": [c_void_p, POINTER(s.CudaPlanView)],
    "fusco_nccl_plan_status": [c_void_p, POINTER(c_uint32)],
    "fusco_nccl_plan_shard": [c_void_p, POINTER(s.Buffer)],
    "fusco_audit_layout_find": [c_char_p, POINTER(s.AuditLayout)],
    "fusco_audit_create_from_ids": [POINTER(s.PlanOptions), POINTER(s.Ids), POINTER(s.AuditLayout), POINTER(c_void_p)],
    "fusco_audit_set_input": [c_void_p, POINTER(s.AuditInput)],
    "fusco_audit_dispatch": [c_void_p, POINTER(s.AuditDispatchCall), POINTER(s.AuditReport)],
    "fusco_audit_combine": [c_void_p, POINTER(s.AuditCombineCall), POINTER(s.AuditReport)],
}
_OTHER_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "fusco_version": (c_uint32, []),
    "fusco_status_name": (c_char_p, [c_int]),
    "fusco_context_destroy": (None, [c_void_p]),
    "fusco_context_threads": (c_uint32, [c_void_p]),
    "fusco_context_kernels": (c_char_p, [c_void_p]),
    "fusco_plan_destroy": (None, [c_void_p]),
    "fusco_plan_tokens": (c_uint32, [c_void_p, c_uint32]),
    "fusco_plan_recv_rows": (c_uint32, [c_void_p, c_uint32]),
    "fusco_planner_destroy": (None, [c_void_p]),
    "fusco_plan_file_close": (None, [c_void_p]),
    "fusco_cuda_built": (c_int, []),
    "fusco_cuda_context_destroy": (None, [c_void_p]),
    "fusco_cuda_stream": (c_void_p, [c_void_p, c_uint32]),
    "fusco_cuda_plan_destroy": (None, [c_void_p]),
    "fusco_cuda_planner_destroy": (None, [c_void_p]),
    "fusco_nccl_abort": (None, [c_void_p, c_char_p]),
    "fusco_nccl_group_destroy": (None, [c_void_p]),
    "fusco_nccl_plan_destroy": (None, [c_void_p]),
    "fusco_nccl_planner_destroy": (None, [c_void_p]),
    "fusco_audit_destroy": (None, [c_void_p]),
    "fusco_audit_layout_name": (c_char_p, [c_uint32]),
    "fusco_audit_kind_name": (c_char_p, [c_int]),
    "fusco_audit_order_name": (c_char_p, [c_uint32]),
}


def _load() -> ctypes.CDLL:
    path = os.environ.get("FUSCO_LIBRARY") or Path(__file__).parent / _NAME
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise FuscoError(
            "E_BACKEND",
            f"the native library does not load: {error}",
            hint="Install the package with `pip install ./native/python`.",
        ) from error
    for name, parameters in _STATUS_FUNCTIONS.items():
        function = getattr(loaded, name)
        function.restype = c_int
        function.argtypes = [*parameters, POINTER(s.Error)]
    for name, (result, parameters) in _OTHER_FUNCTIONS.items():
        function = getattr(loaded, name)
        function.restype = result
        function.argtypes = parameters
    return loaded


library = _load()


def call(function: Any, *arguments: Any) -> None:
    """Calls a function that returns a status. Raises FuscoError with the code of the status."""
    error = s.Error()
    if function(*arguments, byref(error)) != 0:
        raise error_of(error)


def error_of(error: s.Error) -> FuscoError:
    """The exception for what a failed call reported."""
    limited = error.has_limit != 0
    return FuscoError(
        library.fusco_status_name(error.status).decode(),
        error.message.decode(errors="replace"),
        rank=error.rank if error.rank >= 0 else None,
        path=error.path.decode(errors="replace"),
        value=error.value if limited else None,
        limit=error.limit if limited else None,
    )


def version() -> str:
    """Version of the native library, such as ``0.1.0``."""
    packed = library.fusco_version()
    return f"{packed >> 16}.{packed >> 8 & 0xFF}.{packed & 0xFF}"


class Handle:
    """Owns a native object: destroys it once, when it is closed or no longer used."""

    def __init__(self, destroy: Any) -> None:
        self._destroy = destroy
        self._process = os.getpid()
        self.pointer = c_void_p()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        pointer, self.pointer = self.pointer, c_void_p()
        # A fork has none of the threads that destroying would wait for.
        if pointer and self._process == os.getpid():
            self._destroy(pointer)


def buffer_array(buffers: Sequence[tuple[int, int]]) -> Any:
    """fusco_buffer[n] of (address, bytes) pairs."""
    return (s.Buffer * len(buffers))(*buffers)  # type: ignore[misc]


def filled_buffer(function: Any, *arguments: Any) -> ctypes.Array[ctypes.c_char]:
    """What a function writes into the fusco_buffer of its last argument. For an empty one it tells the size."""
    wanted = s.Buffer()
    call(function, *arguments, byref(wanted))
    made = ctypes.create_string_buffer(wanted.bytes)
    call(function, *arguments, byref(s.Buffer(ctypes.addressof(made), wanted.bytes)))
    return made


__all__ = ["Handle", "buffer_array", "byref", "call", "filled_buffer", "library", "version"]
