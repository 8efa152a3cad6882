"""Time of training steps of a MoE transformer whose experts are on all ranks, by the exchange of its MoE blocks.

    torchrun --nproc-per-node 2 model_step.py OUT.json [--rounds 20] [--sequences 8] [--length 512]

The model is Qwen3-MoE as in examples/train_moe.py, larger, in bfloat16, with the sequences of a rank in one batch and
grouped matrix products. Three copies with the same weights take the same data; they differ in the exchange alone:
sorted_exchange.py, ExpertShuffle with buffers of the exact size, and with a bound. Their steps take turns. Times are
medians of the slowest rank: `stepMs` of a step (forward and backward passes, reduced gradients, AdamW) and `exchangeMs`
of its exchanges alone, with the routing of a step, experts that return their rows, and both gradients. `gains` has the
differences to sorted_exchange.py. Exit 1: losses differ by more than rounding, or rows did not fit into the bound.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from sorted_exchange import SortedExchange
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen3MoeForCausalLM
from turns import medians_ms

import fusco.torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

from debian_text import Batches
from train_moe import mean_loss, model_config

#: 1.28 billion parameters, 1.21 billion of them in experts.
MODEL = {
    "hidden_size": 2048,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
}
TEXT = Path(__file__).resolve().parents[3] / "ARCHITECTURE.md"
BASELINE = "all_to_all_single"
#: What the bound admits, relative to the mean rows of a rank: no loss balances the load of the experts.
BOUND = 1.75
WARM_UP = 4
#: Relative differences of losses that rounding may cause: of the first step, and of the mean of the last quarter.
TOLERANCES = (0.01, 0.03)


@dataclass(frozen=True)
class Sizes:
    """What is trained, and how often a step is timed. `sequences` are those of a rank."""

    model: dict[str, int]
    sequences: int = 8
    length: int = 512
    rounds: int = 20
    backend: str = "nccl"

    @property
    def device(self) -> torch.device:
        """Where a rank computes: on the CPU, or on the GPU that it has chosen."""
        return torch.device("cpu") if self.backend == "host" else torch.device("cuda", torch.cuda.current_device())

    @property
    def tokens(self) -> int:
        return self.sequences * self.length


class GroupedExperts(nn.Module):
    """The local experts of a MoE block, in grouped matrix products; `exchange` brings them their rows.

    Args:
        experts: those of all ranks, of which this rank keeps its block.
    """

    def __init__(self, experts: Any) -> None:
        super().__init__()
        local = experts.num_experts // dist.get_world_size()
        first = dist.get_rank() * local
        self.gate_up = nn.Parameter(experts.gate_up_proj.detach()[first : first + local].clone())
        self.down = nn.Parameter(experts.down_proj.detach()[first : first + local].clone())
        self.act = experts.act_fn
        self.exchange: Any = None
        #: The routing of the last step, and the rows that did not fit in all steps.
        self.routing: tuple[Tensor, Tensor] | None = None
        self.overflow: Tensor | int = 0

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        self.routing = (ids, weights.detach())
        rows, handle = self.exchange.dispatch(x, ids, weights)
        if isinstance(handle, fusco.torch.Handle):
            self.overflow = self.overflow + handle.overflow_rows
        # Rows behind the last block, where there is a bound, belong to no product and to no token.
        ends = handle.expert_offsets[1:]
        gate, up = F.grouped_mm(rows, self.gate_up.transpose(1, 2), offs=ends).chunk(2, dim=-1)
        made = F.grouped_mm(self.act(gate) * up, self.down.transpose(1, 2), offs=ends)
        return self.exchange.combine(made, handle)


def make_model(sizes: Sizes) -> nn.Module:
    """The model with its random weights and this rank's experts, without an exchange."""
    torch.manual_seed(0)
    with sizes.device:
        model = Qwen3MoeForCausalLM(model_config(sizes.model, "sdpa")).to(torch.bfloat16)
    for layer in model.model.layers:
        layer.mlp.experts = GroupedExperts(layer.mlp.experts)
    return model


class Variant:
    """A copy of the model with an exchange, its optimizer, and this rank's part of the losses of its steps."""

    def __init__(self, model: nn.Module, exchange: Any, sizes: Sizes, batches: Batches) -> None:
        self.model = copy.deepcopy(model)
        self.exchange = exchange
        self.experts = [layer.mlp.experts for layer in self.model.model.layers]
        for experts in self.experts:
            experts.exchange = exchange
        local = {id(parameter) for experts in self.experts for parameter in experts.parameters()}
        self.replicated = [parameter for parameter in self.model.parameters() if id(parameter) not in local]
        fused = sizes.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=fused)
        self.sizes, self.batches = sizes, batches
        self.losses: list[Tensor] = []

    def step(self) -> None:
        """Trains on the next sequences of this rank. Collective."""
        rank, ranks = dist.get_rank(), dist.get_world_size()
        share = self.sizes.sequences
        tokens = self.batches.step(len(self.losses))[rank * share : (rank + 1) * share].to(self.sizes.device)
        self.optimizer.zero_grad()
        loss = mean_loss(self.model, tokens) / ranks
        loss.backward()
        # The experts have complete gradients; all others are added over the ranks, in one vector.
        flat = torch.cat([parameter.grad.flatten() for parameter in self.replicated])
        dist.all_reduce(flat)
        for parameter, part in zip(self.replicated, flat.split([each.numel() for each in self.replicated])):
            parameter.grad.copy_(part.view_as(parameter))
        self.optimizer.step()
        self.losses.append(loss.detach())

    def all_losses(self) -> list[float]:
        """Mean losses of all steps until now. Collective."""
        losses = torch.stack(self.losses)
        dist.all_reduce(losses)
        return losses.tolist()

    def exchanges(self, routings: list[tuple[Tensor, Tensor]], x: Tensor, gradient: Tensor) -> None:
        """The exchanges of a step, one for each layer, and their gradients. Collective."""
        for ids, weights in routings:
            rows, handle = self.exchange.dispatch(x.requires_grad_(), ids, weights.requires_grad_())
            out = self.exchange.combine(rows, handle)
            torch.autograd.grad(out, (x, weights), gradient)


def measure(sizes: Sizes, text: bytes) -> dict[str, Any]:
    """Times, losses and gains of all variants. Collective, over the default process group."""
    ranks = dist.get_world_size()
    batches = Batches(text, sizes.sequences * ranks, sizes.length)
    experts, topk, hidden = (sizes.model[name] for name in ("num_experts", "num_experts_per_tok", "hidden_size"))
    shape = {"experts": experts, "hidden": hidden, "topk": topk, "max_tokens": sizes.tokens, "backend": sizes.backend}
    bound = min(ranks * sizes.tokens * topk, int(BOUND * sizes.tokens * topk))
    ours = {
        "fusco, exact size": fusco.torch.ExpertShuffle(**shape),
        "fusco, bounded": fusco.torch.ExpertShuffle(**shape, max_recv_rows=bound),
    }
    model = make_model(sizes)
    shuffles = {BASELINE: SortedExchange(experts), **ours}
    variants = {name: Variant(model, shuffle, sizes, batches) for name, shuffle in shuffles.items()}
    del model
    for _ in range(WARM_UP):
        for variant in variants.values():
            variant.step()
    step_ms = medians_ms({name: variant.step for name, variant in variants.items()}, sizes.rounds, sizes.device)
    # The same routing for all of them.
    routings = [each.routing for each in variants[BASELINE].experts]
    x, gradient = torch.randn(2, sizes.tokens, hidden, device=sizes.device).to(torch.bfloat16).unbind(0)
    calls: dict[str, Callable[[], None]] = {
        name: partial(variant.exchanges, routings, x.detach(), gradient) for name, variant in variants.items()
    }
    for call in calls.values():
        call()
    exchange_ms = medians_ms(calls, sizes.rounds, sizes.device)
    losses = {name: variant.all_losses() for name, variant in variants.items()}
    overflow = torch.tensor([sum(int(each.overflow) for variant in variants.values() for each in variant.experts)])
    overflow = overflow.to(sizes.device)
    dist.all_reduce(overflow)
    for shuffle in ours.values():
        shuffle.close()
    return {
        "stepMs": step_ms,
        "exchangeMs": exchange_ms,
        "gains": {
            name: {
                "stepMs": round(step_ms[BASELINE] - step_ms[name], 4),
                "exchangeMs": round(exchange_ms[BASELINE] - exchange_ms[name], 4),
            }
            for name in ours
        },
        "lossDifferences": {name: differences(losses[name], losses[BASELINE]) for name in ours},
        "rowsBeyondBound": overflow.item(),
        "losses": losses,
    }


def differences(losses: list[float], baseline: list[float]) -> list[float]:
    """Relative differences: of the first loss, and of the means of the last quarters."""
    last = -(-len(losses) // 4)
    pairs = [(losses[0], baseline[0]), (sum(losses[-last:]) / last, sum(baseline[-last:]) / last)]
    return [round(abs(ours - theirs) / theirs, 6) for ours, theirs in pairs]


def agrees(result: dict[str, Any]) -> bool:
    """Whether all variants trained the same model up to rounding."""
    found = result["lossDifferences"].values()
    return result["rowsBeyondBound"] == 0 and all(
        difference <= tolerance for each in found for difference, tolerance in zip(each, TOLERANCES)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for name, default in (("rounds", 20), ("sequences", 8), ("length", 512)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--text", type=Path, default=TEXT, help="a file to learn from")
    options = parser.parse_args()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", device_id=device)
    sizes = Sizes(MODEL, options.sequences, options.length, options.rounds)
    result = measure(sizes, options.text.read_bytes())
    is_same = agrees(result)
    if dist.get_rank() == 0:
        where = {"device": torch.cuda.get_device_name(), "ranks": dist.get_world_size(), "torch": torch.__version__}
        setting = {"model": MODEL, "sequences": sizes.sequences, "length": sizes.length, "rounds": sizes.rounds}
        options.out.write_text(json.dumps({**where, **setting, "sameLosses": is_same, **result}, indent=2))
        print(json.dumps({"sameLosses": is_same, **{name: result[name] for name in list(result)[:5]}}))
    dist.destroy_process_group()
    return 0 if is_same else 1


if __name__ == "__main__":
    sys.exit(main())
