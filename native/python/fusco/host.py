"""The host backend: dispatch, combine and their gradients on the CPU, over all ranks of a plan in one call.

Buffers are lists of (address, bytes) pairs, one per rank. Native code checks their sizes, and that no output overlaps
another buffer.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from ctypes import byref

from . import _structs as s
from ._library import Handle, buffer_array, call, library
from .plan import Plan

__all__ = ["FP8_BLOCK", "Buffers", "HostContext", "HostPlan", "Payload", "shared_context"]

#: (address, bytes) for each rank.
Buffers = Sequence[tuple[int, int]]
#: (per entry, dtype, row bytes, from, to) of one array that a dispatch moves.
Payload = tuple[bool, int, int, Buffers, Buffers]

#: Elements of a row that share an fp8 scale.
FP8_BLOCK = 128


class HostContext:
    """Threads of the host backend.

    Args:
        threads: of an exchange, 1..1024; 0 means one per processor of this process.
    """

    def __init__(self, threads: int = 0) -> None:
        self._handle = Handle(library.fusco_context_destroy)
        options = s.sized(s.ContextOptions, threads=threads)
        call(library.fusco_context_create, byref(options), byref(self._handle.pointer))

    @property
    def threads(self) -> int:
        """Threads of an exchange, including the calling one."""
        return int(library.fusco_context_threads(self._handle.pointer))

    def prepare(self, plan: Plan) -> HostPlan:
        """Checks a plan and makes it ready for exchanges."""
        return HostPlan(self._handle, plan)

    def quantize(self, dtype: int, shape: tuple[int, int], values: int, codes: int, scales: int) -> None:
        """Rows to e4m3 codes with a float32 scale for each 128 elements; see fusco_fp8_quantize."""
        self._fp8(library.fusco_fp8_quantize, dtype, shape, values, codes, scales)

    def dequantize(self, dtype: int, shape: tuple[int, int], values: int, codes: int, scales: int) -> None:
        """The inverse of quantize: code times scale, rounded once to the dtype."""
        self._fp8(library.fusco_fp8_dequantize, dtype, shape, values, codes, scales)

    def _fp8(self, function: object, dtype: int, shape: tuple[int, int], *addresses: int) -> None:
        rows, hidden = shape
        element_bytes = 4 if dtype == 1 else 2
        sizes = (rows * hidden * element_bytes, rows * hidden, 4 * rows * -(-hidden // FP8_BLOCK))
        values, codes, scales = (s.Buffer(*pair) for pair in zip(addresses, sizes))
        made = s.sized(s.Fp8Call, dtype=dtype, rows=rows, hidden=hidden, values=values, codes=codes, scales=scales)
        call(function, self._handle.pointer, byref(made))


def shared_context(threads: int = 0) -> HostContext:
    """The context of this process with this number of threads. Calls of all groups on it take turns."""
    return _context_of(threads, os.getpid())


@functools.cache
def _context_of(threads: int, process: int) -> HostContext:
    return HostContext(threads)


class HostPlan:
    """A plan in the form in which the host backend runs it. May be used by several threads, which take turns.

    Attributes:
        tokens: tokens of each rank.
        recv_rows: rows of each rank's receive buffer, padding included.
    """

    def __init__(self, context: Handle, plan: Plan) -> None:
        self._handle = Handle(library.fusco_plan_destroy)
        description = plan.description()
        call(library.fusco_plan_create, context.pointer, byref(description), byref(self._handle.pointer))
        ranks = range(plan.ranks)
        self.tokens = tuple(int(library.fusco_plan_tokens(self._handle.pointer, rank)) for rank in ranks)
        self.recv_rows = tuple(int(library.fusco_plan_recv_rows(self._handle.pointer, rank)) for rank in ranks)

    def dispatch(
        self, payloads: Sequence[Payload], origins: Buffers | None = None, scale: Buffers | None = None
    ) -> None:
        """Copies each token's rows to the slots of its experts; see fusco_dispatch.

        Args:
            payloads: arrays to move; [tokens, row bytes], or [tokens, topk, row bytes] per entry, to
                [recv rows, row bytes]. Padding rows become zero.
            origins: i32 [recv rows, 3], written: (source rank, token, k) of every row; -1 in padding.
            scale: f32 [tokens, topk]: copies of per-token payloads are multiplied by the weight of their entry.

        Raises:
            FuscoError: E_OPTION, E_BUFFER, E_DTYPE
        """
        size = ctypes.sizeof(s.Payload)
        filled = [
            s.Payload(size, per_entry, dtype, row_bytes, buffer_array(source), buffer_array(target))
            for per_entry, dtype, row_bytes, source, target in payloads
        ]
        made = s.DispatchCall(
            ctypes.sizeof(s.DispatchCall),
            len(filled),
            (s.Payload * len(filled))(*filled),
            None if origins is None else buffer_array(origins),
            None if scale is None else buffer_array(scale),
        )
        call(library.fusco_dispatch, self._handle.pointer, byref(made), None)

    def combine(
        self, dtype: int, row_bytes: int, source: Buffers, target: Buffers, weights: Buffers | None = None
    ) -> None:
        """target[t] = sum over k of weights[t, k] * source[slot(t, k)]; see fusco_combine.

        Args:
            dtype: number of fusco_dtype: float32, float16 or bfloat16.
            row_bytes: bytes of a row.
            source: [recv rows, row bytes].
            target: [tokens, row bytes], written.
            weights: f32 [tokens, topk]; None means unweighted.
        """
        made = s.CombineCall(
            ctypes.sizeof(s.CombineCall),
            dtype,
            row_bytes,
            buffer_array(source),
            buffer_array(target),
            None if weights is None else buffer_array(weights),
        )
        call(library.fusco_combine, self._handle.pointer, byref(made), None)

    def weight_gradient(
        self, dtype: int, row_bytes: int, output_gradient: Buffers, source: Buffers, target: Buffers
    ) -> None:
        """target[t, k] = dot(output_gradient[t], source[slot(t, k)]); see fusco_weight_gradient.

        Args:
            output_gradient: [tokens, row bytes].
            source: [recv rows, row bytes]: what combine read.
            target: f32 [tokens, topk], written; 0 for masked and dropped entries.
        """
        arrays = (buffer_array(each) for each in (output_gradient, source, target))
        made = s.WeightGradientCall(ctypes.sizeof(s.WeightGradientCall), dtype, row_bytes, *arrays)
        call(library.fusco_weight_gradient, self._handle.pointer, byref(made), None)

    def combine_gradient(
        self,
        dtype: int,
        row_bytes: int,
        output_gradient: Buffers,
        source: Buffers,
        weights: Buffers,
        target: Buffers,
        weights_gradient: Buffers,
    ) -> None:
        """Both gradients of a weighted combine; see fusco_combine_gradient.

        Args:
            output_gradient: [tokens, row bytes].
            source: [recv rows, row bytes]: what combine read.
            weights: f32 [tokens, topk]: what combine was given.
            target: [recv rows, row bytes], written; padding rows become zero.
            weights_gradient: f32 [tokens, topk], written.
        """
        arrays = (buffer_array(each) for each in (output_gradient, source, weights, target, weights_gradient))
        made = s.CombineGradientCall(ctypes.sizeof(s.CombineGradientCall), dtype, row_bytes, *arrays)
        call(library.fusco_combine_gradient, self._handle.pointer, byref(made), None)
