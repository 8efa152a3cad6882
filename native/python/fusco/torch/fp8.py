"""Rows as e4m3 codes with one float32 scale for each 128 elements."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import FuscoError
from ..host import FP8_BLOCK, HostContext, shared_context
from .calls import float_dtype

__all__ = ["dequantize", "quantize", "scale_blocks"]


def scale_blocks(hidden: int) -> int:
    """Scales of a row of `hidden` elements."""
    return -(-hidden // FP8_BLOCK)


def quantize(x: Tensor, context: HostContext | None = None) -> tuple[Tensor, Tensor]:
    """Rounds rows to fp8: of a block of 128 elements with the largest magnitude a, at least 1e-4, the scale is a / 448.

    Args:
        x: [rows, hidden], contiguous; float32, float16 or bfloat16, on the CPU.
        context: threads; None means one per processor.

    Returns:
        codes float8_e4m3fn [rows, hidden] and scales float32 [rows, ceil(hidden / 128)].

    Raises:
        FuscoError: E_SHAPE, E_DTYPE, E_BUFFER
    """
    rows, hidden = _shape_of(x)
    dtype = float_dtype("the rows", x.dtype)
    codes = torch.empty((rows, hidden), dtype=torch.float8_e4m3fn)
    scales = torch.empty((rows, scale_blocks(hidden)), dtype=torch.float32)
    addresses = (x.data_ptr(), codes.data_ptr(), scales.data_ptr())
    (context or shared_context()).quantize(dtype, (rows, hidden), *addresses)
    return codes, scales


def dequantize(codes: Tensor, scales: Tensor, dtype: torch.dtype, context: HostContext | None = None) -> Tensor:
    """The inverse of quantize: code times scale, rounded once to `dtype`.

    Args:
        codes: float8_e4m3fn [rows, hidden], contiguous.
        scales: float32 [rows, ceil(hidden / 128)], contiguous.
        dtype: float32, float16 or bfloat16.

    Returns:
        [rows, hidden].

    Raises:
        FuscoError: E_SHAPE, E_DTYPE, E_BUFFER
    """
    rows, hidden = check_pair(codes, scales)
    number = float_dtype("the values", dtype)
    values = torch.empty((rows, hidden), dtype=dtype)
    addresses = (values.data_ptr(), codes.data_ptr(), scales.data_ptr())
    (context or shared_context()).dequantize(number, (rows, hidden), *addresses)
    return values


def check_pair(codes: Tensor, scales: Tensor) -> tuple[int, int]:
    """Shape of codes whose scales fit. Raises E_DTYPE, E_SHAPE, E_BUFFER."""
    if codes.dtype != torch.float8_e4m3fn or scales.dtype != torch.float32:
        raise FuscoError("E_DTYPE", f"codes are {codes.dtype} and scales {scales.dtype}, not float8_e4m3fn and float32")
    rows, hidden = _shape_of(codes)
    if tuple(scales.shape) != (rows, scale_blocks(hidden)) or not scales.is_contiguous():
        raise FuscoError("E_SHAPE", f"scales have shape {tuple(scales.shape)}, not ({rows}, {scale_blocks(hidden)})")
    return rows, hidden


def _shape_of(rows: Tensor) -> tuple[int, int]:
    if rows.dim() != 2 or not rows.is_contiguous():
        raise FuscoError("E_SHAPE", f"rows have shape {tuple(rows.shape)}; they must be [rows, hidden] and contiguous")
    return rows.shape[0], rows.shape[1]
