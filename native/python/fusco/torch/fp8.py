"""Rows as e4m3 codes with one float32 scale for each 128 elements."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ..errors import FuscoError
from ..exchanges import FP8_BLOCK
from ..host import shared_context
from .calls import float_dtype
from .cuda_ranks import rows_of_device
from .groups import RowWork

__all__ = ["dequantize", "quantize", "scale_blocks"]


def scale_blocks(hidden: int) -> int:
    """Scales of a row of `hidden` elements."""
    return -(-hidden // FP8_BLOCK)


def quantize(x: Tensor, work: RowWork | None = None) -> tuple[Tensor, Tensor]:
    """Rounds rows to fp8: of a block of 128 elements with the largest magnitude a, at least 1e-4, the scale is a / 448.

    On a GPU it is enqueued on the current stream.

    Args:
        x: [rows, hidden], contiguous; float32, float16 or bfloat16.
        work: what computes; None: a context of this process for the device of x.

    Returns:
        codes float8_e4m3fn [rows, hidden] and scales float32 [rows, ceil(hidden / 128)].

    Raises:
        FuscoError: E_SHAPE, E_DTYPE, E_BUFFER, E_BACKEND
    """
    rows, hidden = _shape_of(x)
    dtype = float_dtype("the rows", x.dtype)
    codes = torch.empty((rows, hidden), dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty((rows, scale_blocks(hidden)), dtype=torch.float32, device=x.device)
    with _work_on(x.device, work) as found:
        found.quantize(dtype, (rows, hidden), x.data_ptr(), codes.data_ptr(), scales.data_ptr())
    return codes, scales


def dequantize(codes: Tensor, scales: Tensor, dtype: torch.dtype, work: RowWork | None = None) -> Tensor:
    """The inverse of quantize: code times scale, rounded once to `dtype`.

    Args:
        codes: float8_e4m3fn [rows, hidden], contiguous.
        scales: float32 [rows, ceil(hidden / 128)], contiguous, on the same device.
        dtype: float32, float16 or bfloat16.
        work: as for quantize.

    Returns:
        [rows, hidden].

    Raises:
        FuscoError: E_SHAPE, E_DTYPE, E_BUFFER, E_BACKEND
    """
    rows, hidden = check_pair(codes, scales)
    number = float_dtype("the values", dtype)
    values = torch.empty((rows, hidden), dtype=dtype, device=codes.device)
    with _work_on(codes.device, work) as found:
        found.dequantize(number, (rows, hidden), values.data_ptr(), codes.data_ptr(), scales.data_ptr())
    return values


def _work_on(device: torch.device, work: RowWork | None) -> AbstractContextManager[RowWork]:
    if work is not None:
        return nullcontext(work)
    if device.type == "cpu":
        return nullcontext(shared_context())
    if device.type != "cuda":
        raise FuscoError("E_BACKEND", f"the rows are on {device}; they must be on the CPU or on a GPU")
    return rows_of_device(device.index)


def check_pair(codes: Tensor, scales: Tensor) -> tuple[int, int]:
    """Shape of codes whose scales fit. Raises E_DTYPE, E_SHAPE, E_BUFFER."""
    if codes.dtype != torch.float8_e4m3fn or scales.dtype != torch.float32:
        raise FuscoError("E_DTYPE", f"codes are {codes.dtype} and scales {scales.dtype}, not float8_e4m3fn and float32")
    if codes.device != scales.device:
        raise FuscoError("E_BUFFER", f"codes are on {codes.device} and scales on {scales.device}", hint="Move one.")
    rows, hidden = _shape_of(codes)
    if tuple(scales.shape) != (rows, scale_blocks(hidden)) or not scales.is_contiguous():
        raise FuscoError("E_SHAPE", f"scales have shape {tuple(scales.shape)}, not ({rows}, {scale_blocks(hidden)})")
    return rows, hidden


def _shape_of(rows: Tensor) -> tuple[int, int]:
    if rows.dim() != 2 or not rows.is_contiguous():
        raise FuscoError("E_SHAPE", f"rows have shape {tuple(rows.shape)}; they must be [rows, hidden] and contiguous")
    return rows.shape[0], rows.shape[1]
