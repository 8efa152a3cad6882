"""Runs a Qwen3-MoE model so that no result depends on how many sequences a rank holds.

The shuffle delivers the same rows in the same order on any number of ranks, and adds in a fixed order. The rest of a
model does not: a matrix product of 8 sequences may round differently from two products of 4, and gradients that are
added per rank and then over the ranks are added in another order than on one rank. Here the dense part runs once for
each sequence, always with the same shapes, and each sequence has separate gradients, which are added in the order of
the sequences.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F


class DenseCopy:
    """A model for one sequence, for all steps: the values of its parameters are those of the original, in the same
    memory, and the gradients of the replicated ones are separate.

    Args:
        model: whose parameters an optimizer changes in place.
        names: its replicated parameters.
    """

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        self.parameters = {name: nn.Parameter(model.get_parameter(name).detach()) for name in names}
        # What the copy has in common with the original: all other parameters, and the experts with their shuffle.
        shared: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
        shared |= {id(layer.mlp.experts): layer.mlp.experts for layer in model.model.layers}
        shared |= {id(model.get_parameter(name)): parameter for name, parameter in self.parameters.items()}
        self.model = copy.deepcopy(model, shared)

    def take_gradient(self) -> Tensor:
        """The gradients of the replicated parameters in one vector; the copy has none after it."""
        gradient = torch.cat([value.grad.flatten() for value in self.parameters.values()])
        for value in self.parameters.values():
            value.grad = None
        return gradient


def sequence_losses(copies: list[DenseCopy], batch: Tensor) -> list[Tensor]:
    """Mean loss of each sequence; the tokens of all sequences go through the experts together.

    Args:
        copies: of a Qwen3-MoE model with eager attention, one for each sequence.
        batch: int64 [sequences, length + 1].
    """
    length = batch.shape[1] - 1
    models = [each.model for each in copies]
    hidden = [model.model.embed_tokens(tokens[None, :-1]) for model, tokens in zip(models, batch)]
    attention = {
        "position_embeddings": models[0].model.rotary_emb(hidden[0], torch.arange(length, device=batch.device)[None]),
        "attention_mask": torch.full((length, length), float("-inf"), device=batch.device).triu(1)[None, None],
    }
    for layers in zip(*(model.model.layers for model in models)):
        hidden = [x + layer.self_attn(layer.input_layernorm(x), **attention)[0] for layer, x in zip(layers, hidden)]
        tokens = [layer.post_attention_layernorm(x)[0] for layer, x in zip(layers, hidden)]
        routes = [layer.mlp.gate(x) for layer, x in zip(layers, tokens)]
        weights, ids = (torch.cat([route[i] for route in routes]) for i in (1, 2))
        combined = layers[0].mlp.experts(torch.cat(tokens), ids, weights)
        hidden = [x + part for x, part in zip(hidden, combined.split(length))]
    logits = [model.lm_head(model.model.norm(x)[0]) for model, x in zip(models, hidden)]
    return [F.cross_entropy(values, tokens[1:]) for values, tokens in zip(logits, batch)]


def gather_in_order(local: Tensor) -> Tensor:
    """Rows of all ranks, [ranks * rows, ...], in the order of the ranks; all ranks have the same number of rows."""
    gathered = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, local)
    return torch.cat(gathered)


def set_gradients(model: nn.Module, copies: list[DenseCopy]) -> None:
    """Gradients of the replicated parameters: those of all sequences of all ranks, added one after the other."""
    gradients = gather_in_order(torch.stack([each.take_gradient() for each in copies]))
    total = gradients[0].clone()
    for gradient in gradients[1:]:
        total += gradient
    names = list(copies[0].parameters)
    parameters = [model.get_parameter(name) for name in names]
    for parameter, part in zip(parameters, total.split([parameter.numel() for parameter in parameters])):
        parameter.grad = part.view_as(parameter)
