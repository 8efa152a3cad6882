"""The structs of the C interface: fusco.h, fusco_cuda.h, fusco_nccl.h, fusco_planning.h, fusco_audit.h.

A test compares them with the headers.
"""

from __future__ import annotations

import ctypes
from ctypes import (
    POINTER,
    c_char,
    c_char_p,
    c_double,
    c_int,
    c_int32,
    c_int64,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)
from typing import Any, TypeVar

S = TypeVar("S", bound=ctypes.Structure)


class Error(ctypes.Structure):
    """fusco_error"""

    _fields_ = [
        ("status", c_int),
        ("rank", c_int32),
        ("value", c_int64),
        ("limit", c_int64),
        ("has_limit", c_int32),
        ("path", c_char * 64),
        ("message", c_char * 256),
    ]


class Buffer(ctypes.Structure):
    """fusco_buffer"""

    _fields_ = [("data", c_void_p), ("bytes", c_uint64)]


class Stats(ctypes.Structure):
    """fusco_stats"""

    _fields_ = [
        ("bytes_read", c_uint64),
        ("bytes_written", c_uint64),
        ("rows", c_uint64),
        ("nanoseconds", c_uint64),
        ("started", c_uint64),
    ]


class ContextOptions(ctypes.Structure):
    """fusco_context_options"""

    _fields_ = [
        ("struct_size", c_uint32),
        ("threads", c_uint32),
        ("nontemporal_bytes", c_uint64),
        ("kernels", c_int),
    ]


class PlanDesc(ctypes.Structure):
    """fusco_plan_desc"""

    _fields_ = [
        ("struct_size", c_uint32),
        ("ranks", c_uint32),
        ("ranks_per_node", c_uint32),
        ("strategy", c_int),
        ("partial", c_int),
        ("sum", c_int),
        ("shards", POINTER(Buffer)),
    ]


class Payload(ctypes.Structure):
    """fusco_payload"""

    _fields_ = [
        ("struct_size", c_uint32),
        ("per", c_int),
        ("dtype", c_int),
        ("row_bytes", c_uint64),
        ("from", POINTER(Buffer)),
        ("to", POINTER(Buffer)),
    ]


class DispatchCall(ctypes.Structure):
    """fusco_dispatch_call"""

    _fields_ = [
        ("struct_size", c_uint32),
        ("payload_count", c_uint32),
        ("payloads", POINTER(Payload)),
        ("origins", POINTER(Buffer)),
        ("scale", POINTER(Buffer)),
    ]


class CombineCall(ctypes.Structure):
    """fusco_combine_call"""

    _fields_ = [
        ("struct_size", c_uint32),
        ("dtype", c_int),
        ("row_bytes", c_uint64),
        ("from", POINTER(Buffer)),
        ("to", POINTER(Buffer)),
        ("weights", POINTER(Buffer)),
    ]


class WeightGradientCall(ctypes.Structure):
    """fusco_weight_gradient_call"""

    _fields_ = [
        ("struct_size", c_uint32),
        ("dtype", c_int),
        ("row_bytes", c_uint64),
        ("output_gradient", POINTER(Buffer)),
        ("from", POINTER(Buffer)),
        ("to", POINTER(Buffer)),
    ]


class CombineGradientCall(ctypes.Structure):
    """fusco_combine_gradient_call"""

    _fields_ = [
        ("struct_size", c_uint32),
        ("dtype", c_int),
        ("row_bytes", c_uint64),
        ("output_gradient", POINTER(Buffer)),
        ("from", POINTER(Buffer)),
        ("weights", POINTER(Buffer)),
        ("to", POINTER(Buffer)),
        ("weights_gradient", POINTER(Buffer)),
        ("origins", POINTER(Buffer)),
    ]


class Fp8Call(ctypes.Structure):
    """fusco_fp8_call"""

    _fields_ = [
        ("struct_size", c_uint32),
        ("dtype", c_int),
        ("rows", c_uint64),
        ("hidden", c_uint64),
        ("values", Buffer),
        ("codes", Buffer),
        ("scales", Buffer),
    ]


class PlanOptions(ctypes.Structure):
    """fusco_plan_options"""

    _fields_ = [
        ("struct_size", c_uint32),
        ("experts", c_uint32),
        ("ranks", c_uint32),
        ("ranks_per_node", c_uint32),
        ("topk", c_uint32),
        ("hidden", c_uint32),
        ("dtype", c_int),
        ("combine_dtype", c_int),
        ("align", c_uint32),
        ("capacity", c_uint32),
        ("strategy", c_int),
        ("balance", c_int),
        ("partial", c_int),
        ("sum", c_int),
        ("replicas", c_int),
        ("slice_rows", c_uint32),
        ("tile_tokens", c_uint32),
        ("placement_offsets", POINTER(c_uint32)),
        ("placement_ranks", POINTER(c_uint16)),
        ("max_rows", c_uint32),
        ("ranks_per_host", c_uint32),
    ]


class Ids(ctypes.Structure):
    """fusco_ids"""

    _fields_ = [
        ("struct_size", c_uint32),
        ("dtype", c_int),
        ("tokens", c_uint32),
        ("topk", c_uint32),
        ("data", c_void_p),
    ]


class PlannerInfo(ctypes.Structure):
    """fusco_planner_info"""

    _fields_ = [
        ("struct_size", c_uint32),
        ("instances", c_uint32),
        ("counts", c_uint32),
        ("second_counts", c_uint32),
        ("options_digest", c_uint8 * 32),
    ]


class Decision(ctypes.Structure):
    """fusco_decision"""

    _fields_ = [
        ("struct_size", c_uint32),
        ("strategy", c_int),
        ("rule", c_int),
        ("ranks_per_node", c_uint32),
        ("reason", c_char * 256),
    ]


class PlanFileInfo(ctypes.Structure):
    """fusco_plan_file_info"""

    _fields_ = [
        ("struct_size", c_uint32),
        ("options", POINTER(PlanOptions)),
        ("rail_groups", POINTER(c_uint16)),
        ("shards", POINTER(Buffer)),
        ("plan_id", c_uint8 * 32),
        ("rule", c_int),
        ("reason", c_char_p),
    ]


class CudaDeviceInfo(ctypes.Structure):
    """fusco_cuda_device_info"""

    _fields_ = [
        ("struct_size", c_uint32),
        ("name", c_char * 128),
        ("total_bytes", c_uint64),
        ("free_bytes", c_uint64),
        ("sms", c_uint32),
        ("compute_major", c_uint32),
        ("compute_minor", c_uint32),
        ("driver", c_uint32),
        ("runtime", c_uint32),
    ]


class CudaPlanLimits(ctypes.Structure):
    """fusco_cuda_plan_limits"""

    _fields_ = [("struct_size", c_uint32), ("max_tokens", c_uint32), ("max_recv_rows", c_uint32)]


class CudaPlanCall(ctypes.Structure):
    """fusco_cuda_plan_call"""

    _fields_ = [("struct_size", c_uint32), ("ids", POINTER(Ids)), ("buffers", POINTER(Buffer))]


class CudaPlanView(ctypes.Structure):
    """fusco_cuda_plan_view"""

    _fields_ = [
        ("struct_size", c_uint32),
        ("local_instances", c_uint32),
        ("expert_counts", POINTER(c_uint32)),
        ("expert_offsets", POINTER(c_uint32)),
        ("recv_rows", POINTER(c_uint32)),
        ("overflow_rows", POINTER(c_uint32)),
    ]


class NcclLibrary(ctypes.Structure):
    """fusco_nccl_library"""

    _fields_ = [("struct_size", c_uint32), ("version", c_uint32), ("path", c_char * 512)]


class NcclGroupDesc(ctypes.Structure):
    """fusco_nccl_group_desc"""

    _fields_ = [
        ("struct_size", c_uint32),
        ("ranks", c_uint32),
        ("rank", c_uint32),
        ("max_ctas", c_uint32),
        ("context", c_void_p),
        ("machines", POINTER(c_uint32)),
        ("mailbox", c_char_p),
        ("id", c_uint8 * 128),
        ("round_bytes", c_uint64),
        ("deadline_ns", c_uint64),
    ]


class NcclCall(ctypes.Structure):
    """fusco_nccl_call"""

    _fields_ = [("struct_size", c_uint32), ("number", c_uint64), ("digest", c_uint64)]


class AuditLayout(ctypes.Structure):
    """fusco_audit_layout"""

    _fields_ = [
        ("struct_size", c_uint32),
        ("per", c_int),
        ("blocks", c_int),
        ("order", c_int),
        ("align", c_uint32),
        ("padding", c_int),
        ("tail", c_int),
        ("slots", c_uint64),
        ("accumulate", c_int),
        ("partials", c_uint32),
    ]


class AuditInput(ctypes.Structure):
    """fusco_audit_input"""

    _fields_ = [
        ("struct_size", c_uint32),
        ("dtype", c_int),
        ("row_bytes", c_uint64),
        ("rows", POINTER(Buffer)),
        ("previous", POINTER(Buffer)),
    ]


class AuditDifference(ctypes.Structure):
    """fusco_audit_difference"""

    _fields_ = [
        ("row", c_uint64),
        ("source", c_int32),
        ("token", c_int32),
        ("k", c_int32),
        ("kind", c_int),
        ("found", c_int),
        ("found_source", c_int32),
        ("found_token", c_int32),
        ("precision", c_uint32),
        ("first_byte", c_uint64),
        ("end_byte", c_uint64),
        ("factor", c_double),
    ]


class AuditReport(ctypes.Structure):
    """fusco_audit_report"""

    _fields_ = [
        ("struct_size", c_uint32),
        ("listed", c_uint32),
        ("rows", c_uint64),
        ("wrong", c_uint64),
        ("orders", c_uint64),
        ("reordered", c_uint64),
        ("largest_error", c_double),
        ("counts", c_uint64 * 15),
    ]


class AuditDispatchCall(ctypes.Structure):
    """fusco_audit_dispatch_call"""

    _fields_ = [
        ("struct_size", c_uint32),
        ("rank", c_uint32),
        ("received", Buffer),
        ("differences", POINTER(AuditDifference)),
        ("difference_count", c_uint32),
    ]


class AuditCombineCall(ctypes.Structure):
    """fusco_audit_combine_call"""

    _fields_ = [
        ("struct_size", c_uint32),
        ("rank", c_uint32),
        ("combined", Buffer),
        ("weights", Buffer),
        ("outputs", POINTER(Buffer)),
        ("order", c_uint32),
        ("difference_count", c_uint32),
        ("differences", POINTER(AuditDifference)),
    ]


def sized(kind: type[S], **fields: Any) -> S:
    """A struct whose first field is its size, the other fields as given or zero."""
    made = kind(**fields)
    made.struct_size = ctypes.sizeof(kind)
    return made
