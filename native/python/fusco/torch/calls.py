"""Calls of the host backend in terms of tensors, independent of where the ranks live."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from ..errors import FuscoError
from ..host import Buffers, HostPlan

#: Numbers of fusco_dtype for what can be computed with.
FLOATS = {torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}
FLOAT_NAMES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
BYTES = 0
F32 = 1


class Array(NamedTuple):
    """One array of a call: the rows of the local ranks, one rank after the other.

    Attributes:
        tensor: contiguous; its first axis counts tokens or received rows.
        axis: ``tokens`` or ``rows``.
        is_output: whether the call writes it.
    """

    tensor: torch.Tensor
    axis: str
    is_output: bool

    @property
    def row_bytes(self) -> int:
        """Bytes of one element of the first axis."""
        shape = self.tensor.shape[1:]
        return int(shape.numel()) * self.tensor.element_size()


class Call(NamedTuple):
    """One call of a group.

    Attributes:
        name: what errors call it; identical on all ranks.
        signature: what ranks compare, in addition to the plan.
        arrays: its arrays by name.
        run: runs it on a plan, given the buffers of all ranks by name.
    """

    name: str
    signature: str
    arrays: Mapping[str, Array]
    run: Callable[[HostPlan, Mapping[str, Buffers]], None]


def float_dtype(what: str, dtype: torch.dtype) -> int:
    """Number of a floating-point dtype. Raises E_DTYPE."""
    number = FLOATS.get(dtype)
    if number is None:
        raise FuscoError("E_DTYPE", f"{what} are {dtype}; they must be float32, float16 or bfloat16")
    return number


def _token(tensor: torch.Tensor, is_output: bool = False) -> Array:
    return Array(tensor, "tokens", is_output)


def _rows(tensor: torch.Tensor, is_output: bool = False) -> Array:
    return Array(tensor, "rows", is_output)


def dispatch(sources: list[torch.Tensor], targets: list[torch.Tensor]) -> Call:
    """Moves arrays to the slots of their experts.

    Args:
        sources: [tokens, width], one or several.
        targets: [rows, width], written, in the order and with the dtypes of the sources.
    """
    arrays: dict[str, Array] = {}
    for i, (source, target) in enumerate(zip(sources, targets)):
        arrays[f"from{i}"] = _token(source)
        arrays[f"to{i}"] = _rows(target, True)
    widths = [arrays[f"to{i}"].row_bytes for i in range(len(targets))]

    def run(plan: HostPlan, at: Mapping[str, Buffers]) -> None:
        plan.dispatch([(False, BYTES, width, at[f"from{i}"], at[f"to{i}"]) for i, width in enumerate(widths)])

    dtypes = [str(target.dtype).removeprefix("torch.") for target in targets]
    return Call("dispatch", f"{widths} {dtypes}", arrays, run)


def dispatch_entries(source: torch.Tensor, target: torch.Tensor) -> Call:
    """Moves one element per entry, [tokens, topk], to the slots of the entries, [rows], written."""
    arrays = {"from": _token(source), "to": _rows(target, True)}
    width = arrays["to"].row_bytes

    def run(plan: HostPlan, at: Mapping[str, Buffers]) -> None:
        plan.dispatch([(True, BYTES, width, at["from"], at["to"])])

    return Call("dispatch_entries", f"{width}", arrays, run)


def origins(target: torch.Tensor) -> Call:
    """Writes (source rank, token, k) of every row into i32 [rows, 3]; -1 in padding."""

    def run(plan: HostPlan, at: Mapping[str, Buffers]) -> None:
        plan.dispatch([], origins=at["origins"])

    return Call("origins", "", {"origins": _rows(target, True)}, run)


def combine(rows: torch.Tensor, weights: torch.Tensor | None, target: torch.Tensor) -> Call:
    """Sums the rows of each token.

    Args:
        rows: [rows, hidden].
        weights: f32 [tokens, topk], or None.
        target: [tokens, hidden], written.
    """
    arrays = {"rows": _rows(rows), "tokens": _token(target, True)}
    if weights is not None:
        arrays["weights"] = _token(weights)
    dtype, width = float_dtype("rows", rows.dtype), arrays["rows"].row_bytes

    def run(plan: HostPlan, at: Mapping[str, Buffers]) -> None:
        plan.combine(dtype, width, at["rows"], at["tokens"], at.get("weights"))

    return Call("combine", f"{dtype} {width} {weights is not None}", arrays, run)


def combine_gradient(
    gradient: torch.Tensor,
    rows: torch.Tensor,
    weights: torch.Tensor,
    rows_gradient: torch.Tensor,
    weights_gradient: torch.Tensor,
) -> Call:
    """Both gradients of a weighted combine.

    Args:
        gradient: [tokens, hidden]: that of the output.
        rows: [rows, hidden]: what combine read.
        weights: f32 [tokens, topk].
        rows_gradient: [rows, hidden], written.
        weights_gradient: f32 [tokens, topk], written.
    """
    arrays = {
        "gradient": _token(gradient),
        "rows": _rows(rows),
        "weights": _token(weights),
        "rows_gradient": _rows(rows_gradient, True),
        "weights_gradient": _token(weights_gradient, True),
    }
    dtype, width = float_dtype("rows", rows.dtype), arrays["rows"].row_bytes

    def run(plan: HostPlan, at: Mapping[str, Buffers]) -> None:
        plan.combine_gradient(
            dtype, width, at["gradient"], at["rows"], at["weights"], at["rows_gradient"], at["weights_gradient"]
        )

    return Call("combine_gradient", f"{dtype} {width}", arrays, run)


def weight_gradient(gradient: torch.Tensor, rows: torch.Tensor, target: torch.Tensor) -> Call:
    """Dot products of each entry's two rows.

    Args:
        gradient: [tokens, hidden].
        rows: [rows, hidden].
        target: f32 [tokens, topk], written; 0 for masked and dropped entries.
    """
    arrays = {"gradient": _token(gradient), "rows": _rows(rows), "target": _token(target, True)}
    dtype, width = float_dtype("rows", rows.dtype), arrays["rows"].row_bytes

    def run(plan: HostPlan, at: Mapping[str, Buffers]) -> None:
        plan.weight_gradient(dtype, width, at["gradient"], at["rows"], at["target"])

    return Call("weight_gradient", f"{dtype} {width}", arrays, run)
