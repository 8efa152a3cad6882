"""Routings and layers that tests run, and a dense reference for them; none of it shares code with the package."""

from __future__ import annotations

import numpy
import torch

import fusco.torch as ft

HIDDEN = 16


def make(experts=8, topk=2, ranks=4, max_tokens=64, hidden=HIDDEN, **options):
    return ft.ExpertShuffle(experts=experts, hidden=hidden, topk=topk, max_tokens=max_tokens, ranks=ranks, **options)


def step(seed, tokens, topk, experts, hidden=HIDDEN, masked=0.0):
    """x, ids, weights, experts and output gradient of one step."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    ids = torch.from_numpy(draw_ids(seed, tokens, topk, experts, masked))
    return random(tokens, hidden), ids, random(tokens, topk), random(experts, hidden, hidden), random(tokens, hidden)


def draw_ids(seed, tokens, topk, experts, masked=0.0):
    """int32 [tokens, topk]: distinct experts per token, some masked."""
    rng = numpy.random.default_rng(seed)
    ids = numpy.empty((tokens, topk), dtype=numpy.int32)
    for token in range(tokens):
        ids[token] = rng.permutation(experts)[:topk]
    ids[rng.random(ids.shape) < masked] = -1
    return ids


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
