"""The calls of a plan that is ready for exchanges, whichever backend runs them.

Buffers are lists of (address, bytes) pairs, one per rank of the call. Native code checks their sizes, and that no
output overlaps another buffer.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from . import _structs as s
from ._library import buffer_array

__all__ = ["FP8_BLOCK", "Buffers", "Exchanges", "Payload", "fp8_call"]

#: (address, bytes) for each rank.
Buffers = Sequence[tuple[int, int]]
#: (per entry, dtype, row bytes, from, to) of one array that a dispatch moves.
Payload = tuple[bool, int, int, Buffers, Buffers]

#: Elements of a row that share an fp8 scale.
FP8_BLOCK = 128


class Exchanges(ABC):
    """Fills the structs of the four calls. A backend hands them to its functions."""

    @abstractmethod
    def _run(self, name: str, filled: Any) -> None:
        """Makes the call of this name: dispatch, combine, weight_gradient or combine_gradient."""

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
        self._run("dispatch", made)

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
        self._run("combine", made)

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
        self._run(
            "weight_gradient", s.WeightGradientCall(ctypes.sizeof(s.WeightGradientCall), dtype, row_bytes, *arrays)
        )

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
        self._run(
            "combine_gradient", s.CombineGradientCall(ctypes.sizeof(s.CombineGradientCall), dtype, row_bytes, *arrays)
        )


def fp8_call(dtype: int, shape: tuple[int, int], values: int, codes: int, scales: int) -> s.Fp8Call:
    """The struct of fusco_fp8_quantize and fusco_fp8_dequantize.

    Args:
        dtype: number of fusco_dtype of the values.
        shape: rows and elements of a row.
        values: address of [rows, hidden].
        codes: address of u8 [rows, hidden].
        scales: address of f32 [rows, ceil(hidden / 128)].
    """
    rows, hidden = shape
    element_bytes = 4 if dtype == 1 else 2
    sizes = (rows * hidden * element_bytes, rows * hidden, 4 * rows * -(-hidden // FP8_BLOCK))
    buffers = (s.Buffer(*pair) for pair in zip((values, codes, scales), sizes))
    return s.Fp8Call(ctypes.sizeof(s.Fp8Call), dtype, rows, hidden, *buffers)
