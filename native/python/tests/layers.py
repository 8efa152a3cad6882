"""Layers that tests run, and a dense reference for them that shares no code with the package."""

from __future__ import annotations

import torch


def dense(x, ids, weights, experts):
    """out[t] = sum over k of weights[t, k] * experts[ids[t, k]] x[t], by one-hot products in float64.

    Args:
        x: [tokens, hidden].
        ids: [tokens, topk]; -1 is masked.
        weights: [tokens, topk], or None: 1.
        experts: [experts, hidden, hidden].
    """
    one_hot = torch.nn.functional.one_hot(ids.clamp(min=0).long(), len(experts)).double() * (ids >= 0).unsqueeze(-1)
    gate = one_hot.sum(1) if weights is None else torch.einsum("tk,tke->te", weights.double(), one_hot)
    return torch.einsum("te,th,ehg->tg", gate, x.double(), experts.double())


def products(rows, expert_offsets, experts):
    """One matrix product per block."""
    bounds = expert_offsets.tolist()
    made = [rows[first:end] @ expert for first, end, expert in zip(bounds, bounds[1:], experts)]
    return torch.cat([*made, rows[bounds[-1] :]])


def leaves(*tensors):
    """Copies that collect gradients."""
    return [tensor.clone().requires_grad_() for tensor in tensors]


def forward_backward(shuffle, x, ids, weights, experts, gradient, **options):
    """Output and gradients of x, weights and experts of one step; `experts` are those of the local instances."""
    x, weights, experts = leaves(x, weights, experts)
    rows, handle = shuffle.dispatch(x, ids, weights, **options)
    output = shuffle.combine(products(rows, handle.expert_offsets, experts), handle)
    output.backward(gradient)
    return output.detach(), x.grad, weights.grad, experts.grad


def dense_step(x, ids, weights, experts, gradient):
    """As forward_backward, on the dense reference."""
    x, weights, experts = leaves(x, weights, experts)
    output = dense(x, ids, weights, experts)
    output.backward(gradient.double())
    return output.detach(), x.grad, weights.grad, experts.grad
