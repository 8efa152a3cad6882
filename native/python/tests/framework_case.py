"""One MoE layer, with what a dense computation in float64 gives for it: the case that all adapters are tested with."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

TOKENS, HIDDEN, INTERMEDIATE, EXPERTS, TOPK = 12, 16, 8, 8, 3

sys.path.insert(0, str(Path(__file__).parent / "standins"))


@dataclass
class Layer:
    """Inputs of the layer; or what came out: gradients in place of values, and the output in place of the target."""

    x: Tensor  # [tokens, hidden]
    weights: Tensor  # [tokens, topk]
    up: Tensor  # [experts, intermediate, hidden]
    down: Tensor  # [experts, hidden, intermediate]
    target: Tensor  # [tokens, hidden]: the loss is the sum of output * target

    def part(self, rank: int, ranks: int) -> Layer:
        """What a rank holds: its tokens and its experts, as leaves that take gradients."""
        return Layer(
            **{f.name: getattr(self, f.name).chunk(ranks)[rank].clone().requires_grad_() for f in fields(self)}
        )


def ids_and_layer(masked: bool = False) -> tuple[Tensor, Layer]:
    """Ids [tokens, topk], some of them -1 if `masked`, and the layer."""
    generator = torch.Generator().manual_seed(11)
    ids = torch.rand(TOKENS, EXPERTS, generator=generator).argsort(dim=1)[:, :TOPK]
    if masked:
        ids[::5, 1] = -1
    shapes = [(TOKENS, HIDDEN), (TOKENS, TOPK), (EXPERTS, INTERMEDIATE, HIDDEN), (EXPERTS, HIDDEN, INTERMEDIATE)]
    values = [torch.rand(shape, generator=generator) - 0.5 for shape in [*shapes, (TOKENS, HIDDEN)]]
    return ids, Layer(*values)


def expected(ids: Tensor, layer: Layer) -> Layer:
    """Output and gradients: every token through every expert, weighted with 0 where it did not choose it."""
    whole = Layer(**{f.name: getattr(layer, f.name).double().requires_grad_() for f in fields(layer)})
    chosen = torch.nn.functional.one_hot(ids + 1, EXPERTS + 1)[..., 1:].double()
    made = torch.einsum("ehi,tei->teh", whole.down, torch.einsum("eih,th->tei", whole.up, whole.x).relu())
    output = torch.einsum("teh,tke,tk->th", made, chosen, whole.weights)
    return results(output, whole)


def results(output: Tensor, leaves: Layer) -> Layer:
    """Runs backward, and returns output and gradients."""
    (output * leaves.target).sum().backward()
    gradients = [getattr(leaves, name).grad for name in ("x", "weights", "up", "down")]
    return Layer(*gradients, output.detach())


def expert_rows(rows: Tensor, counts: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Rows in the order of the local experts through their experts."""
    blocks = zip(rows.split(counts.tolist()), up, down)
    return torch.cat([(block @ up_e.T).relu() @ down_e.T for block, up_e, down_e in blocks])


def check(parts: list[Layer], ids: Tensor, layer: Layer) -> None:
    """Compares what all ranks computed with the dense computation."""
    whole = expected(ids, layer)
    for f in fields(layer):
        given = torch.cat([getattr(part, f.name) for part in parts])
        torch.testing.assert_close(given.double(), getattr(whole, f.name), atol=1e-5, rtol=1e-5, msg=f.name)
