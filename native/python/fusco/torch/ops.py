"""Operators of torch.library: the fusco:: namespace. They take the name of a group, and a plan as one uint8 tensor.

    fusco::plan(ids, group, splits) -> (state, expert_offsets, expert_counts)
    fusco::dispatch(x, state, rows, group) -> rows                          gradient: combine, unweighted
    fusco::combine(rows, weights, state, tokens, group) -> tokens           gradient: combine_gradient, or dispatch
    fusco::combine_gradient(gradient, rows, weights, state, group) -> (rows, weights)
    fusco::dispatch_weights(weights, state, rows, group) -> rows            gradient: gather_weights
    fusco::gather_weights(rows, state, tokens, group) -> weights
    fusco::dispatch_fp8(x, state, rows, group) -> rows                      gradient: combine, unweighted
    fusco::dispatch_quantized(codes, scales, state, rows, group) -> (codes, scales)
    fusco::origins(state, rows, group) -> origins

``rows`` is the first axis of the received rows; -1 means what the plan says, a size that depends on data.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from ..errors import FuscoError
from . import calls, fp8
from .groups import Group, find
from .plan_cache import Prepared

__all__ = ["SAVED_OPS"]

# Whose values int32 holds.
_IDS = (torch.int8, torch.int16, torch.int32, torch.uint8)


def _operator(name: str, schema: str) -> Any:
    # For the host backend; tensors of other devices find no kernel.
    return torch.library.custom_op(f"fusco::{name}", mutates_args=(), device_types="cpu", schema=schema)


def _open(name: str, state: Tensor) -> tuple[Group, Prepared]:
    group = find(name)
    return group, group.prepared(state)


def _received(prepared: Prepared, rows: int, like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """A receive buffer; rows behind those of the plan are zero."""
    total = prepared.recv_rows if rows < 0 else rows
    made = like.new_empty((total, *shape), dtype=dtype or like.dtype)
    if total > prepared.recv_rows:
        _bytes_of(made)[prepared.recv_rows :].zero_()
    return made


def _check_received(group: Group, prepared: Prepared, rows: Tensor) -> None:
    needed = group.rows_of(prepared)
    if rows.shape[0] != needed:
        raise FuscoError(
            "E_SHAPE",
            f"combine was given {rows.shape[0]} rows; dispatch returned {needed}",
            hint="Give one row for each row that dispatch returned with this handle.",
            value=rows.shape[0],
            limit=needed,
        )


def _check_weights(group: Group, prepared: Prepared, weights: Tensor) -> None:
    wanted = (prepared.tokens, group.options.topk)
    if weights.dtype != torch.float32:
        raise FuscoError("E_DTYPE", f"weights are {weights.dtype}, not float32", hint="Give weights.float().")
    if tuple(weights.shape) != wanted:
        raise FuscoError("E_SHAPE", f"weights have shape {tuple(weights.shape)}, not {wanted}")


def _check_tokens(prepared: Prepared, tokens: int) -> None:
    if tokens != prepared.tokens:
        raise FuscoError("E_SHAPE", f"{tokens} tokens; the plan has {prepared.tokens}", hint="Give handle.tokens.")


def _check_ids(group: Group, ids: Tensor, counts: list[int]) -> None:
    topk, most = group.options.topk, group.max_tokens
    if ids.dtype not in _IDS:
        raise FuscoError("E_ROUTING_DTYPE", f"ids are {ids.dtype}", hint="Give int32 ids.")
    if ids.dim() != 2 or ids.shape[1] != topk:
        raise FuscoError("E_ROUTING_SHAPE", f"ids have shape {tuple(ids.shape)}, not [tokens, {topk}]")
    if sum(counts) != ids.shape[0] or len(counts) != len(group.local_experts) or min(counts) < 0:
        raise FuscoError("E_SHAPE", f"splits {counts} do not divide {ids.shape[0]} tokens among the local ranks")
    if max(counts) > most:
        raise FuscoError("E_LIMIT", f"{max(counts)} tokens > max_tokens {most}", value=max(counts), limit=most)


def _bytes_of(tensor: Tensor) -> Tensor:
    """The same memory as bytes, for dtypes that have no kernels that fill."""
    return tensor.view(torch.uint8) if tensor.dtype.itemsize == 1 else tensor


def _fake_rows(rows: int) -> Any:
    return rows if rows >= 0 else torch.library.get_ctx().new_dynamic_size()


# -- plan


@_operator("plan", "(Tensor ids, str group, SymInt[]? splits) -> (Tensor, Tensor, Tensor)")
def plan(ids: Tensor, group: str, splits: Optional[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Plans, collectively. ids: int32, or narrower, [tokens, topk]; splits: tokens of each local rank."""
    found = find(group)
    counts = [ids.shape[0]] if splits is None else splits
    _check_ids(found, ids, counts)
    state = found.plan(list(ids.to(torch.int32).split(counts)))
    prepared = found.prepared(state)
    offsets = torch.tensor(prepared.expert_offsets, dtype=torch.int32)
    return state, offsets, torch.tensor(prepared.expert_counts, dtype=torch.int32)


@plan.register_fake
def _(ids: Tensor, group: str, splits: Optional[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    found = find(group)
    local = found.local_instances
    return (
        ids.new_empty(found.state_bytes, dtype=torch.uint8),
        ids.new_empty(local + 1, dtype=torch.int32),
        ids.new_empty(local, dtype=torch.int32),
    )


# -- dispatch


@_operator("dispatch", "(Tensor x, Tensor state, SymInt rows, str group) -> Tensor")
def dispatch(x: Tensor, state: Tensor, rows: int, group: str) -> Tensor:
    """Copies tokens [tokens, hidden] to the slots of their experts, [rows, hidden]."""
    found, prepared = _open(group, state)
    received = _received(prepared, rows, x, x.shape[1])
    found.execute(prepared, calls.dispatch([x.contiguous()], [received]))
    return received


@dispatch.register_fake
def _(x: Tensor, state: Tensor, rows: int, group: str) -> Tensor:
    return x.new_empty(_fake_rows(rows), x.shape[1])


def _save_dispatch(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, state, _, group = inputs
    ctx.save_for_backward(state)
    ctx.tokens, ctx.group = x.shape[0], group


def _dispatch_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    (state,) = ctx.saved_tensors
    return combine(gradient, None, state, ctx.tokens, ctx.group), None, None, None


dispatch.register_autograd(_dispatch_backward, setup_context=_save_dispatch)


# -- combine


@_operator("combine", "(Tensor rows, Tensor? weights, Tensor state, SymInt tokens, str group) -> Tensor")
def combine(rows: Tensor, weights: Optional[Tensor], state: Tensor, tokens: int, group: str) -> Tensor:
    """Sums the rows [rows, hidden] of each token, weighted by f32 [tokens, topk] if given: [tokens, hidden]."""
    found, prepared = _open(group, state)
    _check_received(found, prepared, rows)
    _check_tokens(prepared, tokens)
    if weights is not None:
        _check_weights(found, prepared, weights)
    summed = rows.new_empty((tokens, rows.shape[1]))
    given = None if weights is None else weights.contiguous()
    found.execute(prepared, calls.combine(rows.contiguous(), given, summed))
    return summed


@combine.register_fake
def _(rows: Tensor, weights: Optional[Tensor], state: Tensor, tokens: int, group: str) -> Tensor:
    return rows.new_empty(tokens, rows.shape[1])


def _save_combine(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    rows, weights, state, _, group = inputs
    weighted = weights is not None
    ctx.save_for_backward(state, *((rows, weights) if weighted else ()))
    ctx.rows, ctx.group = rows.shape[0], group


def _combine_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    state, *saved = ctx.saved_tensors
    if not saved:
        return dispatch(gradient, state, ctx.rows, ctx.group), None, None, None, None
    rows, weights = saved
    rows_gradient, weights_gradient = combine_gradient(gradient, rows, weights, state, ctx.group)
    return rows_gradient, weights_gradient, None, None, None


combine.register_autograd(_combine_backward, setup_context=_save_combine)


@_operator(
    "combine_gradient", "(Tensor gradient, Tensor rows, Tensor weights, Tensor state, str group) -> (Tensor, Tensor)"
)
def combine_gradient(
    gradient: Tensor, rows: Tensor, weights: Tensor, state: Tensor, group: str
) -> tuple[Tensor, Tensor]:
    """Gradients of a weighted combine: of its rows [rows, hidden] and of its weights f32 [tokens, topk]."""
    found, prepared = _open(group, state)
    _check_received(found, prepared, rows)
    _check_weights(found, prepared, weights)
    rows_gradient = _received(prepared, rows.shape[0], rows, rows.shape[1])
    weights_gradient = torch.empty_like(weights, memory_format=torch.contiguous_format)
    found.execute(
        prepared,
        calls.combine_gradient(
            gradient.contiguous(), rows.contiguous(), weights.contiguous(), rows_gradient, weights_gradient
        ),
    )
    return rows_gradient, weights_gradient


@combine_gradient.register_fake
def _(gradient: Tensor, rows: Tensor, weights: Tensor, state: Tensor, group: str) -> tuple[Tensor, Tensor]:
    return rows.new_empty(rows.shape), weights.new_empty(weights.shape)


# -- weights along their rows


@_operator("dispatch_weights", "(Tensor weights, Tensor state, SymInt rows, str group) -> Tensor")
def dispatch_weights(weights: Tensor, state: Tensor, rows: int, group: str) -> Tensor:
    """Copies f32 [tokens, topk] to the slots of the entries: f32 [rows]; 0 in padding."""
    found, prepared = _open(group, state)
    _check_weights(found, prepared, weights)
    received = _received(prepared, rows, weights)
    found.execute(prepared, calls.dispatch_entries(weights.contiguous(), received))
    return received


@dispatch_weights.register_fake
def _(weights: Tensor, state: Tensor, rows: int, group: str) -> Tensor:
    return weights.new_empty(_fake_rows(rows))


@_operator("gather_weights", "(Tensor rows, Tensor state, SymInt tokens, str group) -> Tensor")
def gather_weights(rows: Tensor, state: Tensor, tokens: int, group: str) -> Tensor:
    """Brings f32 [rows] back to the entries: f32 [tokens, topk]; 0 for masked and dropped entries."""
    found, prepared = _open(group, state)
    _check_received(found, prepared, rows)
    _check_tokens(prepared, tokens)
    gathered = rows.new_empty((tokens, found.options.topk))
    ones = rows.new_ones((tokens, 1))
    found.execute(prepared, calls.weight_gradient(ones, rows.contiguous().view(-1, 1), gathered))
    return gathered


@gather_weights.register_fake
def _(rows: Tensor, state: Tensor, tokens: int, group: str) -> Tensor:
    return rows.new_empty(tokens, find(group).options.topk)


def _weights_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    (state,) = ctx.saved_tensors
    return gather_weights(gradient, state, ctx.tokens, ctx.group), None, None, None


dispatch_weights.register_autograd(_weights_backward, setup_context=_save_dispatch)


# -- fp8


@_operator("dispatch_fp8", "(Tensor x, Tensor state, SymInt rows, str group) -> Tensor")
def dispatch_fp8(x: Tensor, state: Tensor, rows: int, group: str) -> Tensor:
    """As dispatch; the rows travel as e4m3 codes with a float32 scale for each 128 elements."""
    found, prepared = _open(group, state)
    codes, scales = fp8.quantize(x.contiguous(), found.transport.context)
    row_codes = _received(prepared, rows, codes, codes.shape[1])
    row_scales = _received(prepared, rows, scales, scales.shape[1])
    found.execute(prepared, calls.dispatch([codes, scales], [row_codes, row_scales]))
    return fp8.dequantize(row_codes, row_scales, x.dtype, found.transport.context)


@dispatch_fp8.register_fake
def _(x: Tensor, state: Tensor, rows: int, group: str) -> Tensor:
    return x.new_empty(_fake_rows(rows), x.shape[1])


dispatch_fp8.register_autograd(_dispatch_backward, setup_context=_save_dispatch)


@_operator(
    "dispatch_quantized", "(Tensor codes, Tensor scales, Tensor state, SymInt rows, str group) -> (Tensor, Tensor)"
)
def dispatch_quantized(codes: Tensor, scales: Tensor, state: Tensor, rows: int, group: str) -> tuple[Tensor, Tensor]:
    """Copies e4m3 codes [tokens, hidden] and scales f32 [tokens, ceil(hidden / 128)] to their slots."""
    found, prepared = _open(group, state)
    row_codes = _received(prepared, rows, codes, codes.shape[1])
    row_scales = _received(prepared, rows, scales, scales.shape[1])
    found.execute(prepared, calls.dispatch([codes, scales], [row_codes, row_scales]))
    return row_codes, row_scales


@dispatch_quantized.register_fake
def _(codes: Tensor, scales: Tensor, state: Tensor, rows: int, group: str) -> tuple[Tensor, Tensor]:
    received = _fake_rows(rows)
    return codes.new_empty(received, codes.shape[1]), scales.new_empty(received, scales.shape[1])


# -- origins


@_operator("origins", "(Tensor state, SymInt rows, str group) -> Tensor")
def origins(state: Tensor, rows: int, group: str) -> Tensor:
    """(source rank, token, k) of every row: i32 [rows, 3]; -1 in padding."""
    found, prepared = _open(group, state)
    total = prepared.recv_rows if rows < 0 else rows
    written = torch.full((total, 3), -1, dtype=torch.int32)
    found.execute(prepared, calls.origins(written))
    return written


@origins.register_fake
def _(state: Tensor, rows: int, group: str) -> Tensor:
    return state.new_empty(_fake_rows(rows), 3, dtype=torch.int32)


#: Operators whose results selective checkpointing should save: planning again would be a collective call.
SAVED_OPS = (torch.ops.fusco.plan.default,)
