"""Trains a Qwen3-MoE model on 1, 2 and 4 ranks and compares every loss bit for bit.

    python train_moe.py --out losses.json             # 200 steps on 1, 2 and 4 ranks, and twice unsharded
    python train_moe.py --ranks 1,2 --steps 20 --small

The model is that of Hugging Face transformers, with random weights; its experts are sharded with
`fusco.integrations.transformers`. The text is the Debian documentation on this machine. A run with the model's MoE block
as it is, unsharded, shows that the loss curve is the same up to rounding; a second one, with the sequences of each step
in reverse order, shows how much rounding alone changes the curve. Exit code 1: losses or weights of two numbers of ranks
differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from debian_text import Batches, debian_text
from per_sequence import DenseCopy, gather_in_order, sequence_losses, set_gradients
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from fusco.integrations.transformers import expert_parameters, gathered_state_dict, shard_experts

#: 19.9 million parameters, of which 18.9 million are those of the experts.
MODEL = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 192,
}
SMALL = {**MODEL, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
SMALL |= {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


@dataclass(frozen=True)
class Training:
    """What all runs share."""

    model: dict[str, int] = field(default_factory=lambda: MODEL)
    steps: int = 200
    sequences: int = 8
    length: int = 64
    learning_rate: float = 1e-3


@dataclass
class Run:
    """Result of a run: losses of all steps, a digest of all weights at the end, and the time of a step."""

    losses: list[float]
    weights: str
    step_ms: float
    parameters: int


def make_model(training: Training) -> nn.Module:
    """The model with its random weights, in float32."""
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        **training.model, vocab_size=256, norm_topk_prob=True, attn_implementation="eager", use_cache=False
    )
    return Qwen3MoeForCausalLM(config)


def train_sharded(training: Training, text: bytes) -> Run:
    """Trains on the ranks of the default process group, which divide the sequences. Collective."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model = make_model(training)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    share = training.sequences // ranks
    shard_experts(model, max_tokens=share * training.length, sum="token")
    sharded = {name for name, _ in expert_parameters(model)}
    dense = [name for name, _ in model.named_parameters() if name not in sharded]

    def loss_of(batch: Tensor) -> float:
        copies = [DenseCopy(model, dense) for _ in range(share)]
        losses = torch.stack(sequence_losses(model, copies, batch[rank * share : (rank + 1) * share]))
        (losses.sum() / training.sequences).backward()
        set_gradients(model, copies)
        return sum(gather_in_order(losses.detach()).tolist()) / training.sequences

    losses, step_ms = run_steps(training, model, Batches(text, training.sequences, training.length), loss_of)
    return Run(losses, digest(gathered_state_dict(model)), step_ms, parameters)


def train_unsharded(training: Training, text: bytes, reverse: bool = False) -> Run:
    """Trains the model as transformers has it, in this process.

    Args:
        training: as in train_sharded.
        text: as in train_sharded.
        reverse: the sequences of each step in reverse order, which only changes rounding.
    """
    model = make_model(training)

    def loss_of(batch: Tensor) -> float:
        tokens = batch.flip(0) if reverse else batch
        loss = F.cross_entropy(model(tokens[:, :-1]).logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        return loss.item()

    losses, step_ms = run_steps(training, model, Batches(text, training.sequences, training.length), loss_of)
    return Run(losses, digest(model.state_dict()), step_ms, sum(p.numel() for p in model.parameters()))


def run_steps(training: Training, model: nn.Module, batches: Batches, loss_of: Any) -> tuple[list[float], float]:
    """Losses of all steps, and the median milliseconds of a step."""
    torch.use_deterministic_algorithms(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, foreach=False)
    losses, milliseconds = [], []
    for step in range(training.steps):
        start = time.perf_counter()
        optimizer.zero_grad()
        losses.append(loss_of(batches.step(step)))
        optimizer.step()
        milliseconds.append(1000 * (time.perf_counter() - start))
    return losses, sorted(milliseconds)[len(milliseconds) // 2]


def digest(state: dict[str, Tensor]) -> str:
    """SHA-256 of all weights, in the order of their names."""
    sha = hashlib.sha256()
    for name in sorted(state):
        sha.update(state[name].detach().contiguous().numpy().tobytes())
    return sha.hexdigest()


def run_on(ranks: int, training: Training, text: bytes) -> Run:
    """A sharded run with one process for each rank."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_process, (ranks, folder, training, text), nprocs=ranks)
        return torch.load(f"{folder}/run", weights_only=False)


def _process(rank: int, ranks: int, folder: str, training: Training, text: bytes) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    run = train_sharded(training, text)
    if rank == 0:
        torch.save(run, f"{folder}/run")
    dist.destroy_process_group()


def compare(runs: dict[str, Run], sharded: list[str]) -> dict[str, Any]:
    """Are all sharded runs the same bits, and how far is their curve from the unsharded one?"""
    first = runs[sharded[0]]
    last = len(first.losses) // 4 or 1

    def difference(a: Run, b: Run) -> dict[str, float]:
        steps = [abs(x - y) for x, y in zip(a.losses, b.losses)]
        means = [sum(run.losses[-last:]) / last for run in (a, b)]
        return {"largest": max(steps), "mean": sum(steps) / len(steps), "lastQuarter": means[0] - means[1]}

    return {
        "sameLosses": all(runs[name].losses == first.losses for name in sharded),
        "sameWeights": all(runs[name].weights == first.weights for name in sharded),
        "toUnsharded": difference(first, runs["unsharded"]),
        "unshardedReversed": difference(runs["unsharded reversed"], runs["unsharded"]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="1,2,4", help="numbers of ranks, each a divisor of 8")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--small", action="store_true", help="a model of 0.1 million parameters")
    parser.add_argument("--text", type=Path, help="a file to learn from instead of the Debian documentation")
    parser.add_argument("--out", type=Path, help="all losses, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    training = Training(steps=options.steps, model=SMALL if options.small else MODEL)
    text = options.text.read_bytes() if options.text else debian_text()
    runs: dict[str, Run] = {}

    def report(name: str, run: Run) -> None:
        runs[name] = run
        print(f"{name}: loss {run.losses[0]:.4f} to {run.losses[-1]:.4f}, {run.step_ms:.0f} ms a step", flush=True)

    sharded = [f"{ranks} ranks" for ranks in options.ranks.split(",")]
    for ranks, name in zip(options.ranks.split(","), sharded):
        report(name, run_on(int(ranks), training, text))
    report("unsharded", train_unsharded(training, text))
    report("unsharded reversed", train_unsharded(training, text, reverse=True))
    result = {"textSha256": hashlib.sha256(text).hexdigest(), "parameters": runs["unsharded"].parameters}
    result |= compare(runs, sharded)
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps({**result, "losses": {name: run.losses for name, run in runs.items()}}))
    return 0 if result["sameLosses"] and result["sameWeights"] else 1


if __name__ == "__main__":
    sys.exit(main())
