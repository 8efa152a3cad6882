"""Runs a Qwen3-MoE model so that no result depends on how many sequences a rank holds.

The shuffle delivers the same rows in the same order on any number of ranks, and adds in a fixed order. The rest of a
model does not: a matrix product of 8 sequences may round differently from two products of 4, and gradients that are
added per rank and then over the ranks are added in another order than on one rank. Here the dense part runs once for
each sequence, always with the same shapes, and each sequence has separate gradients, which are added in the order of
the sequences.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F


class DenseCopy:
    """The replicated parameters of a model for one sequence: the values are shared, the gradients are not."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        self.model = model
        self.parameters = {name: model.get_parameter(name).detach().requires_grad_() for name in names}

    def call(self, path: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a module of the model with the parameters of this copy."""
        prefix = f"{path}."
        parameters = {
            name.removeprefix(prefix): value for name, value in self.parameters.items() if name.startswith(prefix)
        }
        return functional_call(self.model.get_submodule(path), parameters, args, kwargs)

    def flat_gradient(self) -> Tensor:
        """The gradients of all parameters in one vector."""
        return torch.cat([value.grad.flatten() for value in self.parameters.values()])


def sequence_losses(model: nn.Module, copies: list[DenseCopy], batch: Tensor) -> list[Tensor]:
    """Mean loss of each sequence; the tokens of all sequences go through the experts together.

    Args:
        model: a Qwen3-MoE model with eager attention.
        copies: one for each sequence.
        batch: int64 [sequences, length + 1].
    """
    length = batch.shape[1] - 1
    hidden = [copy.call("model.embed_tokens", tokens[None, :-1]) for copy, tokens in zip(copies, batch)]
    attention = {
        "position_embeddings": model.model.rotary_emb(hidden[0], torch.arange(length, device=batch.device)[None]),
        "attention_mask": torch.full((length, length), float("-inf"), device=batch.device).triu(1)[None, None],
    }
    for index, layer in enumerate(model.model.layers):
        path = f"model.layers.{index}"
        hidden = [x + _attention(copy, path, x, attention) for copy, x in zip(copies, hidden)]
        tokens = [copy.call(f"{path}.post_attention_layernorm", x)[0] for copy, x in zip(copies, hidden)]
        routes = [copy.call(f"{path}.mlp.gate", x) for copy, x in zip(copies, tokens)]
        weights, ids = (torch.cat([route[i] for route in routes]) for i in (1, 2))
        combined = layer.mlp.experts(torch.cat(tokens), ids, weights)
        hidden = [x + part for x, part in zip(hidden, combined.split(length))]
    logits = [copy.call("lm_head", copy.call("model.norm", x)[0]) for copy, x in zip(copies, hidden)]
    return [F.cross_entropy(values, tokens[1:]) for values, tokens in zip(logits, batch)]


def _attention(copy: DenseCopy, path: str, x: Tensor, attention: dict[str, Any]) -> Tensor:
    return copy.call(f"{path}.self_attn", copy.call(f"{path}.input_layernorm", x), **attention)[0]


def gather_in_order(local: Tensor) -> Tensor:
    """Rows of all ranks, [ranks * rows, ...], in the order of the ranks; all ranks have the same number of rows."""
    gathered = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, local)
    return torch.cat(gathered)


def set_gradients(model: nn.Module, copies: list[DenseCopy]) -> None:
    """Gradients of the replicated parameters: those of all sequences of all ranks, added one after the other."""
    gradients = gather_in_order(torch.stack([copy.flat_gradient() for copy in copies]))
    total = gradients[0].clone()
    for gradient in gradients[1:]:
        total += gradient
    names = list(copies[0].parameters)
    parameters = [model.get_parameter(name) for name in names]
    for parameter, part in zip(parameters, total.split([parameter.numel() for parameter in parameters])):
        parameter.grad = part.view_as(parameter)
