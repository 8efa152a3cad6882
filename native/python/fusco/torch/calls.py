"""Calls of a plan in terms of tensors, independent of where the ranks live.

An array of a call is a list of tensors, its parts: one for each local rank, or a single one with the rows of all local
ranks, one rank after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from ..errors import FuscoError
from ..exchanges import Buffers, Exchanges

Parts = Sequence[torch.Tensor]

#: Numbers of fusco_dtype for what can be computed with.
FLOATS = {torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}
FLOAT_NAMES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
BYTES = 0
F32 = 1

NEVER = "never"
ALWAYS = "always"
#: If a row or an address is no multiple of 16 bytes.
NARROW = "narrow"
#: Likewise, or if the plan does not add per rank.
UNSUMMED = "unsummed"


class Array(NamedTuple):
    """One array of a call.

    Attributes:
        parts: contiguous; their first axis counts tokens or received rows.
        axis: ``tokens`` or ``rows``.
        is_output: whether the call writes it.
        reach: when the kernels of other ranks read or write it: NEVER, ALWAYS, NARROW or UNSUMMED.
        has_zeros: whether rows that no entry fills become zero.
    """

    parts: Parts
    axis: str
    is_output: bool
    reach: str
    has_zeros: bool = True

    @property
    def row_bytes(self) -> int:
        """Bytes of one element of the first axis."""
        first = self.parts[0]
        return int(first.shape[1:].numel()) * first.element_size()


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
    run: Callable[[Exchanges, Mapping[str, Buffers]], None]


def float_dtype(what: str, dtype: torch.dtype) -> int:
    """Number of a floating-point dtype. Raises E_DTYPE."""
    number = FLOATS.get(dtype)
    if number is None:
        raise FuscoError("E_DTYPE", f"{what} are {dtype}; they must be float32, float16 or bfloat16")
    return number


def _token(parts: Parts, is_output: bool = False, reach: str = NEVER) -> Array:
    return Array(parts, "tokens", is_output, reach)


def _rows(parts: Parts, is_output: bool = False, reach: str = ALWAYS) -> Array:
    return Array(parts, "rows", is_output, reach)


def dispatch(sources: Sequence[Parts], targets: Sequence[Parts]) -> Call:
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

    def run(plan: Exchanges, at: Mapping[str, Buffers]) -> None:
        plan.dispatch([(False, BYTES, width, at[f"from{i}"], at[f"to{i}"]) for i, width in enumerate(widths)])

    dtypes = [str(target[0].dtype).removeprefix("torch.") for target in targets]
    return Call("dispatch", f"{widths} {dtypes}", arrays, run)


def dispatch_entries(source: Parts, target: Parts) -> Call:
    """Moves one element per entry, [tokens, topk], to the slots of the entries, [rows], written."""
    arrays = {"from": _token(source), "to": _rows(target, True)}
    width = arrays["to"].row_bytes

    def run(plan: Exchanges, at: Mapping[str, Buffers]) -> None:
        plan.dispatch([(True, BYTES, width, at["from"], at["to"])])

    return Call("dispatch_entries", f"{width}", arrays, run)


def origins(target: Parts) -> Call:
    """Writes (source rank, token, k) of every row into i32 [rows, 3]; -1 in padding."""

    def run(plan: Exchanges, at: Mapping[str, Buffers]) -> None:
        plan.dispatch([], origins=at["origins"])

    return Call("origins", "", {"origins": _rows(target, True)._replace(has_zeros=False)}, run)


def combine(rows: Parts, weights: Parts | None, target: Parts) -> Call:
    """Sums the rows of each token.

    Args:
        rows: [rows, hidden].
        weights: f32 [tokens, topk], or None.
        target: [tokens, hidden], written.
    """
    arrays = {"rows": _rows(rows, reach=UNSUMMED), "tokens": _token(target, True)}
    if weights is not None:
        arrays["weights"] = _token(weights)
    dtype, width = float_dtype("rows", rows[0].dtype), arrays["rows"].row_bytes

    def run(plan: Exchanges, at: Mapping[str, Buffers]) -> None:
        plan.combine(dtype, width, at["rows"], at["tokens"], at.get("weights"))

    return Call("combine", f"{dtype} {width} {weights is not None}", arrays, run)


def combine_gradient(
    gradient: Parts,
    rows: Parts,
    weights: Parts,
    rows_gradient: Parts,
    weights_gradient: Parts,
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
        "rows": _rows(rows, reach=NARROW),
        "weights": _token(weights),
        "rows_gradient": _rows(rows_gradient, True),
        "weights_gradient": _token(weights_gradient, True, ALWAYS),
    }
    dtype, width = float_dtype("rows", rows[0].dtype), arrays["rows"].row_bytes

    def run(plan: Exchanges, at: Mapping[str, Buffers]) -> None:
        plan.combine_gradient(
            dtype, width, at["gradient"], at["rows"], at["weights"], at["rows_gradient"], at["weights_gradient"]
        )

    return Call("combine_gradient", f"{dtype} {width}", arrays, run)


def weight_gradient(gradient: Parts, rows: Parts, target: Parts) -> Call:
    """Dot products of each entry's two rows.

    Args:
        gradient: [tokens, hidden].
        rows: [rows, hidden].
        target: f32 [tokens, topk], written; 0 for masked and dropped entries.
    """
    arrays = {"gradient": _token(gradient), "rows": _rows(rows), "target": _token(target, True)}
    dtype, width = float_dtype("rows", rows[0].dtype), arrays["rows"].row_bytes

    def run(plan: Exchanges, at: Mapping[str, Buffers]) -> None:
        plan.weight_gradient(dtype, width, at["gradient"], at["rows"], at["target"])

    return Call("weight_gradient", f"{dtype} {width}", arrays, run)
