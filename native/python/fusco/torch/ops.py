"""Operators of torch.library: the fusco:: namespace. They take the name of a group, and a plan as uint8 tensors.

    fusco::plan(ids, group, splits) -> state
    fusco::blocks(state, group) -> (expert_offsets, expert_counts)
    fusco::dispatch(x, state, rows, group) -> rows                          gradient: combine, unweighted
    fusco::combine(rows, weights, state, tokens, group) -> tokens           gradient: combine_gradient, or dispatch
    fusco::combine_gradient(gradient, rows, weights, state, group) -> (rows, weights)
    fusco::dispatch_weights(weights, state, rows, group) -> rows            gradient: gather_weights
    fusco::gather_weights(rows, state, tokens, group) -> weights
    fusco::dispatch_fp8(x, state, rows, group) -> rows                      gradient: combine, unweighted
    fusco::dispatch_quantized(codes, scales, state, rows, group) -> (codes, scales)
    fusco::origins(state, rows, group) -> origins

``rows`` is the first axis of the received rows; -1 means what the plan says, a size that depends on data. Each operator
``fusco::name`` has a twin ``fusco::name_each`` with a list where this one has a tensor, ``rows`` or ``tokens``: one
element for each local rank. All kernels and gradients below are written for lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import torch
from torch import Tensor

from ..errors import FuscoError
from . import calls, fp8
from .calls import Parts
from .groups import Group, find
from .lifted import define

__all__ = ["SAVED_OPS"]


def _open(name: str, states: Parts) -> tuple[Group, Any]:
    group = find(name)
    return group, group.open(states)


def _received(
    group: Group, opened: Any, rows: Sequence[int], likes: Parts, *shape: int, dtype: torch.dtype | None = None
) -> list[Tensor]:
    """Receive buffers."""
    return [
        group.new_rows(opened, part, count, like, shape, dtype or like.dtype)
        for part, (count, like) in enumerate(zip(rows, likes))
    ]


def _check_rows(group: Group, opened: Any, rows: Parts) -> None:
    for part, given in enumerate(rows):
        group.check_rows(opened, part, given.shape[0])


def _check_tokens(group: Group, opened: Any, tokens: Sequence[int]) -> None:
    for part, given in enumerate(tokens):
        group.check_tokens(opened, part, given)


def _check_weights(group: Group, opened: Any, weights: Parts) -> None:
    for part, given in enumerate(weights):
        if given.dtype != torch.float32:
            raise FuscoError("E_DTYPE", f"weights are {given.dtype}, not float32", hint="Give weights.float().")
        if given.dim() != 2 or given.shape[1] != group.options.topk:
            shape = tuple(given.shape)
            raise FuscoError("E_SHAPE", f"weights have shape {shape}, not [tokens, {group.options.topk}]")
        group.check_tokens(opened, part, given.shape[0])


def _check_ids(group: Group, ids: Parts, counts: Sequence[int]) -> None:
    topk, most = group.options.topk, group.max_tokens
    for table in ids:
        if table.dtype not in group.id_dtypes:
            raise FuscoError("E_ROUTING_DTYPE", f"ids are {table.dtype}", hint="Give int32 ids.")
        if table.dim() != 2 or table.shape[1] != topk:
            raise FuscoError("E_ROUTING_SHAPE", f"ids have shape {tuple(table.shape)}, not [tokens, {topk}]")
    tokens = sum(table.shape[0] for table in ids)
    if sum(counts) != tokens or len(counts) != len(group.local_ranks) or min(counts) < 0:
        raise FuscoError("E_SHAPE", f"splits {counts} do not divide {tokens} tokens among the local ranks")
    if max(counts) > most:
        raise FuscoError("E_LIMIT", f"{max(counts)} tokens > max_tokens {most}", value=max(counts), limit=most)


def _contiguous(parts: Parts) -> list[Tensor]:
    return [part.contiguous() for part in parts]


def _fake_rows(rows: int) -> Any:
    return rows if rows >= 0 else torch.library.get_ctx().new_dynamic_size()


def _fake_received(rows: Sequence[int], likes: Parts) -> list[Tensor]:
    return [like.new_empty(_fake_rows(count), *like.shape[1:]) for count, like in zip(rows, likes)]


# -- plan


@define("plan", "(T ids, str group, SymInt[]? splits) -> T")
def plan(ids: Parts, group: str, splits: Optional[list[int]]) -> list[Tensor]:
    """Plans, collectively. ids: [tokens, topk]; splits: tokens of each local rank, if one tensor holds several."""
    found = find(group)
    counts = [table.shape[0] for table in ids] if splits is None else splits
    _check_ids(found, ids, counts)
    if splits is not None:
        ids = [part for table in ids for part in table.split(splits)]
    return found.plan(_contiguous(ids))


@plan.register_fake
def _(ids: Parts, group: str, splits: Optional[list[int]]) -> list[Tensor]:
    size = find(group).state_bytes
    return [table.new_empty(size, dtype=torch.uint8) for table in ids]


# -- blocks


@define("blocks", "(T state, str group) -> (T, T)")
def blocks(states: Parts, group: str) -> tuple[list[Tensor], list[Tensor]]:
    """expert_offsets i32 [local experts + 1] and expert_counts i32 [local experts] of a handle."""
    found, opened = _open(group, states)
    made = found.blocks(opened, states)
    return [offsets for offsets, _ in made], [counts for _, counts in made]


@blocks.register_fake
def _(states: Parts, group: str) -> tuple[list[Tensor], list[Tensor]]:
    found = find(group)
    sizes = [len(experts) for experts in found.local_experts]
    if len(states) == 1:
        sizes = [sum(sizes)]
    offsets = [state.new_empty(size + 1, dtype=torch.int32) for state, size in zip(states, sizes)]
    return offsets, [state.new_empty(size, dtype=torch.int32) for state, size in zip(states, sizes)]


# -- dispatch


@define("dispatch", "(T x, T state, N rows, str group) -> T")
def dispatch(x: Parts, states: Parts, rows: Sequence[int], group: str) -> list[Tensor]:
    """Copies tokens [tokens, hidden] to the slots of their experts, [rows, hidden]."""
    found, opened = _open(group, states)
    received = _received(found, opened, rows, x, x[0].shape[1])
    found.execute(opened, calls.dispatch([_contiguous(x)], [received]))
    return received


@dispatch.register_fake
def _(x: Parts, states: Parts, rows: Sequence[int], group: str) -> list[Tensor]:
    return _fake_received(rows, x)


def _save_dispatch(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, states, _, group = inputs
    ctx.save_for_backward(*states)
    ctx.tokens, ctx.group = [part.shape[0] for part in x], group


def _dispatch_backward(ctx: Any, gradients: Parts) -> tuple[Any, ...]:
    states = ctx.saved_tensors
    return combine.like(ctx, gradients, None, states, ctx.tokens, ctx.group), None, None, None


dispatch.register_autograd(_dispatch_backward, _save_dispatch)


# -- combine


@define("combine", "(T rows, T? weights, T state, N tokens, str group) -> T")
def combine(rows: Parts, weights: Optional[Parts], states: Parts, tokens: Sequence[int], group: str) -> list[Tensor]:
    """Sums the rows [rows, hidden] of each token, weighted by f32 [tokens, topk] if given: [tokens, hidden]."""
    found, opened = _open(group, states)
    _check_rows(found, opened, rows)
    _check_tokens(found, opened, tokens)
    if weights is not None:
        _check_weights(found, opened, weights)
        weights = _contiguous(weights)
    summed = [part.new_empty((count, part.shape[1])) for part, count in zip(rows, tokens)]
    found.execute(opened, calls.combine(_contiguous(rows), weights, summed))
    return summed


@combine.register_fake
def _(rows: Parts, weights: Optional[Parts], states: Parts, tokens: Sequence[int], group: str) -> list[Tensor]:
    return [part.new_empty(count, part.shape[1]) for part, count in zip(rows, tokens)]


def _save_combine(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    rows, weights, states, _, group = inputs
    ctx.save_for_backward(*states, *((*rows, *weights) if weights is not None else ()))
    ctx.rows, ctx.group = [part.shape[0] for part in rows], group


def _combine_backward(ctx: Any, gradients: Parts) -> tuple[Any, ...]:
    parts = len(ctx.rows)
    # Asked for once: a checkpoint counts.
    all_saved = ctx.saved_tensors
    states, saved = all_saved[:parts], all_saved[parts:]
    if not saved:
        return dispatch.like(ctx, gradients, states, ctx.rows, ctx.group), None, None, None, None
    rows, weights = saved[:parts], saved[parts:]
    rows_gradient, weights_gradient = combine_gradient.like(ctx, gradients, rows, weights, states, ctx.group)
    return rows_gradient, weights_gradient, None, None, None


combine.register_autograd(_combine_backward, _save_combine)


@define("combine_gradient", "(T gradient, T rows, T weights, T state, str group) -> (T, T)")
def combine_gradient(
    gradients: Parts, rows: Parts, weights: Parts, states: Parts, group: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of a weighted combine: of its rows [rows, hidden] and of its weights f32 [tokens, topk]."""
    found, opened = _open(group, states)
    _check_rows(found, opened, rows)
    _check_weights(found, opened, weights)
    rows_gradient = _received(found, opened, [part.shape[0] for part in rows], rows, rows[0].shape[1])
    weights_gradient = [found.new_entries(i, part) for i, part in enumerate(weights)]
    given, made, router = (_contiguous(parts) for parts in (gradients, rows, weights))
    found.execute(opened, calls.combine_gradient(given, made, router, rows_gradient, weights_gradient))
    return rows_gradient, weights_gradient


@combine_gradient.register_fake
def _(gradients: Parts, rows: Parts, weights: Parts, states: Parts, group: str) -> tuple[list[Tensor], list[Tensor]]:
    return [part.new_empty(part.shape) for part in rows], [part.new_empty(part.shape) for part in weights]


# -- weights along their rows


@define("dispatch_weights", "(T weights, T state, N rows, str group) -> T")
def dispatch_weights(weights: Parts, states: Parts, rows: Sequence[int], group: str) -> list[Tensor]:
    """Copies f32 [tokens, topk] to the slots of the entries: f32 [rows]; 0 in padding."""
    found, opened = _open(group, states)
    _check_weights(found, opened, weights)
    received = _received(found, opened, rows, weights)
    found.execute(opened, calls.dispatch_entries(_contiguous(weights), received))
    return received


@dispatch_weights.register_fake
def _(weights: Parts, states: Parts, rows: Sequence[int], group: str) -> list[Tensor]:
    return [part.new_empty(_fake_rows(count)) for count, part in zip(rows, weights)]


@define("gather_weights", "(T rows, T state, N tokens, str group) -> T")
def gather_weights(rows: Parts, states: Parts, tokens: Sequence[int], group: str) -> list[Tensor]:
    """Brings f32 [rows] back to the entries: f32 [tokens, topk]; 0 for masked and dropped entries."""
    found, opened = _open(group, states)
    _check_rows(found, opened, rows)
    _check_tokens(found, opened, tokens)
    gathered = [part.new_empty((count, found.options.topk)) for part, count in zip(rows, tokens)]
    ones = [part.new_ones((count, 1)) for part, count in zip(rows, tokens)]
    columns = [part.contiguous().view(-1, 1) for part in rows]
    found.execute(opened, calls.weight_gradient(ones, columns, gathered))
    return gathered


@gather_weights.register_fake
def _(rows: Parts, states: Parts, tokens: Sequence[int], group: str) -> list[Tensor]:
    topk = find(group).options.topk
    return [part.new_empty(count, topk) for part, count in zip(rows, tokens)]


def _weights_backward(ctx: Any, gradients: Parts) -> tuple[Any, ...]:
    return gather_weights.like(ctx, gradients, ctx.saved_tensors, ctx.tokens, ctx.group), None, None, None


dispatch_weights.register_autograd(_weights_backward, _save_dispatch)


# -- fp8


@define("dispatch_fp8", "(T x, T state, N rows, str group) -> T")
def dispatch_fp8(x: Parts, states: Parts, rows: Sequence[int], group: str) -> list[Tensor]:
    """As dispatch; the rows travel as e4m3 codes with a float32 scale for each 128 elements."""
    found, opened = _open(group, states)
    pairs = []
    # Copied before: the work may run on another stream, which follows what is enqueued until then.
    for part, values in enumerate(_contiguous(x)):
        with found.row_work(part) as work:
            pairs.append(fp8.quantize(values, work))
    received = _move_pairs(found, opened, [codes for codes, _ in pairs], [scales for _, scales in pairs], rows)
    made = []
    for part, (codes, scales) in enumerate(zip(*received)):
        with found.row_work(part) as work:
            made.append(fp8.dequantize(codes, scales, x[0].dtype, work))
    return made


def _move_pairs(
    group: Group, opened: Any, codes: Parts, scales: Parts, rows: Sequence[int]
) -> tuple[list[Tensor], list[Tensor]]:
    row_codes = _received(group, opened, rows, codes, codes[0].shape[1])
    row_scales = _received(group, opened, rows, scales, scales[0].shape[1])
    group.execute(opened, calls.dispatch([codes, scales], [row_codes, row_scales]))
    return row_codes, row_scales


@dispatch_fp8.register_fake
def _(x: Parts, states: Parts, rows: Sequence[int], group: str) -> list[Tensor]:
    return _fake_received(rows, x)


dispatch_fp8.register_autograd(_dispatch_backward, _save_dispatch)


@define("dispatch_quantized", "(T codes, T scales, T state, N rows, str group) -> (T, T)")
def dispatch_quantized(
    codes: Parts, scales: Parts, states: Parts, rows: Sequence[int], group: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Copies e4m3 codes [tokens, hidden] and scales f32 [tokens, ceil(hidden / 128)] to their slots."""
    found, opened = _open(group, states)
    return _move_pairs(found, opened, codes, scales, rows)


@dispatch_quantized.register_fake
def _(codes: Parts, scales: Parts, states: Parts, rows: Sequence[int], group: str) -> tuple[list[Tensor], list[Tensor]]:
    received = [_fake_rows(count) for count in rows]
    return _fake_received(received, codes), _fake_received(received, scales)


# -- origins


@define("origins", "(T state, N rows, str group) -> T")
def origins(states: Parts, rows: Sequence[int], group: str) -> list[Tensor]:
    """(source rank, token, k) of every row: i32 [rows, 3]; -1 in padding."""
    found, opened = _open(group, states)
    written = _received(found, opened, rows, states, 3, dtype=torch.int32)
    for part in written:
        part.fill_(-1)
    found.execute(opened, calls.origins(written))
    return written


@origins.register_fake
def _(states: Parts, rows: Sequence[int], group: str) -> list[Tensor]:
    return [state.new_empty(_fake_rows(count), 3, dtype=torch.int32) for count, state in zip(rows, states)]


#: Operators whose results selective checkpointing should save: planning again would be a collective call.
SAVED_OPS = (torch.ops.fusco.plan.default, torch.ops.fusco.plan_each.default)
