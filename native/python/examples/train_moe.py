"""Trains a Qwen3-MoE model on 1, 2 and 4 ranks and compares every loss bit for bit.

    python train_moe.py --out losses.json              # 200 steps of all runs
    python train_moe.py --small --ranks 1,2 --steps 20
    python train_moe.py --backend nccl                 # a GPU for each rank; cuda: all ranks on one GPU
    python train_moe.py --backend nccl --at-once       # runs that fit next to each other on the GPUs, at the same time

The model is that of Hugging Face transformers, with random weights; its experts are sharded with
`fusco.integrations.transformers`. The text is the Debian documentation on this machine. A run with the unsharded MoE
block of the model shows that the loss curve is the same up to rounding; further ones, with the sequences of each step
rotated, show how much rounding alone changes the curve. Runs named "batched" do without `per_sequence.py`;
they differ in their last bits. `--out` is written after each run, with what has run until then. Exit code 1: losses or
weights of two numbers of ranks differ, or the curve is not that of the unsharded run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
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

#: 19.8 million parameters, 18.9 million of them in experts.
MODEL: dict[str, int] = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 192,
}
# Matrix products on GPUs have the same bits in every run only with it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
#: By how many places the sequences of the further unsharded runs are rotated.
SHIFTS = (2, 3, 5)
#: Steps before rounding changes the experts of a token, and the largest difference of their losses.
FIRST_STEPS = 20
FIRST_STEPS_LIMIT = 1e-4
#: How far the mean of the last quarter may be from that of the unsharded runs, by their own range.
NOISE_MARGIN = 3
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
    backend: str = "host"

    @property
    def device(self) -> torch.device:
        """Where a process computes: on the CPU, or on the GPU that it has chosen."""
        return torch.device("cpu") if self.backend == "host" else torch.device("cuda", torch.cuda.current_device())


@dataclass
class Run:
    """Result of a run: losses of all steps, a digest of all weights at the end, and the time of a step."""

    losses: list[float]
    weights: str
    step_ms: float

    @property
    def last_quarter(self) -> float:
        """Mean of the last quarter of the losses."""
        last = self.losses[len(self.losses) * 3 // 4 :]
        return sum(last) / len(last)


def make_model(training: Training) -> nn.Module:
    """The model with its random weights, in float32."""
    torch.manual_seed(0)
    return Qwen3MoeForCausalLM(model_config(training.model, "eager")).to(training.device)


def model_config(sizes: dict[str, int], attention: str) -> Qwen3MoeConfig:
    """The configuration of a model of bytes with these sizes; `attention` is its implementation in transformers."""
    return Qwen3MoeConfig(**sizes, vocab_size=256, norm_topk_prob=True, attn_implementation=attention, use_cache=False)


def train_sharded(training: Training, text: bytes, batched: bool = False, ranks_here: int = 1) -> Run:
    """Trains on the ranks of the default process group, which divide the sequences. Collective.

    Args:
        training: the model, and how it is trained.
        text: the bytes to learn from.
        ranks_here: ranks that this process holds.
        batched: the usual way: a rank's sequences in one batch, and gradients added per rank, then over the ranks.
    """
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model = make_model(training)
    share = training.sequences // ranks
    in_one = {"ranks": ranks_here} if ranks == 1 else {}
    shard_experts(model, max_tokens=share * training.length, sum="token", backend=training.backend, **in_one)
    sharded = {name for name, _ in expert_parameters(model)}
    dense = [name for name, _ in model.named_parameters() if name not in sharded]
    copies = [] if batched else [DenseCopy(model, dense) for _ in range(share)]

    def loss_per_sequence(batch: Tensor) -> float:
        losses = torch.stack(sequence_losses(copies, batch[rank * share : (rank + 1) * share]))
        (losses.sum() / training.sequences).backward()
        set_gradients(model, copies)
        return sum(gather_in_order(losses.detach()).tolist()) / training.sequences

    def loss_batched(batch: Tensor) -> float:
        loss = mean_loss(model, batch[rank * share : (rank + 1) * share]) / ranks
        loss.backward()
        for reduced in (loss.detach(), *(model.get_parameter(name).grad for name in dense)):
            dist.all_reduce(reduced)
        return loss.item()

    losses, step_ms = run_steps(training, model, text, loss_batched if batched else loss_per_sequence)
    return Run(losses, digest(gathered_state_dict(model)), step_ms)


def train_unsharded(training: Training, text: bytes, shift: int = 0) -> Run:
    """Trains the model as transformers has it, in this process.

    Args:
        training: as in train_sharded.
        text: as in train_sharded.
        shift: by how many places the sequences of each step are rotated, which only changes rounding.
    """
    model = make_model(training)

    def loss_of(batch: Tensor) -> float:
        loss = mean_loss(model, batch.roll(shift, 0))
        loss.backward()
        return loss.item()

    losses, step_ms = run_steps(training, model, text, loss_of)
    return Run(losses, digest(model.state_dict()), step_ms)


def mean_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """Mean loss of all bytes of a batch, computed as transformers does, in float32."""
    return F.cross_entropy(model(tokens[:, :-1]).logits.float().flatten(0, 1), tokens[:, 1:].flatten())


def run_steps(
    training: Training, model: nn.Module, text: bytes, loss_of: Callable[[Tensor], float]
) -> tuple[list[float], float]:
    """Losses of all steps, and the median milliseconds of a step."""
    batches = Batches(text, training.sequences, training.length)
    torch.use_deterministic_algorithms(True)
    # No result depends on memory that was not written; filling it would be a kernel for most operators.
    torch.utils.deterministic.fill_uninitialized_memory = False
    # Both work on each element alone, so their results do not depend on which experts a rank has.
    kind = {"fused": True} if training.device.type == "cuda" else {"foreach": False}
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, **kind)
    losses, milliseconds = [], []
    for step in range(training.steps):
        start = time.perf_counter()
        optimizer.zero_grad()
        losses.append(loss_of(batches.step(step).to(training.device)))
        optimizer.step()
        milliseconds.append(1000 * (time.perf_counter() - start))
    return losses, sorted(milliseconds)[len(milliseconds) // 2]


def digest(state: dict[str, Tensor]) -> str:
    """SHA-256 of all weights, in the order of their names."""
    sha = hashlib.sha256()
    for name in sorted(state):
        sha.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


@dataclass(frozen=True)
class Job:
    """Runs of one group of processes.

    Attributes:
        gpus: GPUs that they need.
        make: gives the runs by name; takes the first of the GPUs.
    """

    gpus: int
    make: Callable[[int], dict[str, Run]]


def sharded_job(ranks: int, training: Training, text: bytes, batched: bool = False) -> Job:
    """A sharded run with one process for each rank; with the cuda backend one process has all ranks."""
    processes = 1 if training.backend == "cuda" else ranks
    train = partial(train_sharded, training, text, batched, ranks // processes)
    name = f"batched, ranks {ranks}" if batched else f"ranks {ranks}"
    return Job(processes, lambda first: {name: in_processes(processes, first, training, train)})


def unsharded_job(training: Training, text: bytes) -> Job:
    """The unsharded runs, one after the other. They differ by rounding only."""
    runs = {"unsharded": 0} | {f"unsharded, rotated by {shift}": shift for shift in SHIFTS}
    return Job(
        1,
        lambda first: {
            name: in_processes(1, first, training, partial(train_unsharded, training, text, shift))
            for name, shift in runs.items()
        },
    )


def in_processes(processes: int, first: int, training: Training, train: Callable[[], Run]) -> Run:
    """What `train` returns on rank 0 of a new process group; with GPUs, on those from `first` on."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_process, (processes, first, folder, training.backend, train), nprocs=processes)
        return torch.load(f"{folder}/run", weights_only=False)


def _process(rank: int, processes: int, first: int, folder: str, backend: str, train: Callable[[], Run]) -> None:
    torch.set_num_threads(1)
    if backend != "host":
        torch.cuda.set_device(first + rank)
    collectives = "gloo" if backend == "host" else "nccl"
    where = {} if backend == "host" else {"device_id": torch.device("cuda", first + rank)}
    place = {"init_method": f"file://{folder}/store", "rank": rank, "world_size": processes}
    dist.init_process_group(collectives, **place, **where)
    run = train()
    if rank == 0:
        torch.save(run, f"{folder}/run")
    dist.destroy_process_group()


def rounds_of(jobs: Iterable[Job], gpus: int) -> list[list[tuple[Job, int]]]:
    """Jobs in rounds, in their order, each with its first GPU: those of a round fit next to each other on the GPUs."""
    rounds: list[list[tuple[Job, int]]] = []
    used = gpus
    for job in jobs:
        if used + job.gpus > gpus:
            rounds.append([])
            used = 0
        rounds[-1].append((job, used))
        used += job.gpus
    return rounds


def is_same_curve(run: Run, unsharded: Run, rotated: list[Run]) -> bool:
    """Whether the losses of a run are those of the unsharded runs within noise.

    Rounding differs, and sometimes changes the experts of a token; from then on runs go apart. So the first steps must
    be equal but for rounding, and the mean of the last quarter as near as the unsharded runs, which differ by rounding
    only, are to one another, times a margin.
    """
    first = max(abs(a - b) for a, b in zip(run.losses[:FIRST_STEPS], unsharded.losses[:FIRST_STEPS]))
    means = [each.last_quarter for each in (unsharded, *rotated)]
    noise = max(means) - min(means)
    distance = abs(run.last_quarter - sum(means) / len(means))
    return first <= FIRST_STEPS_LIMIT and distance <= NOISE_MARGIN * noise + FIRST_STEPS_LIMIT


def compare(runs: dict[str, Run], sharded: list[str]) -> dict[str, Any]:
    """Whether the sharded runs have the same bits, and how far their curve is from the unsharded one.

    Args:
        runs: those that have ended. What needs others is None.
        sharded: names of the sharded runs.
    """
    ended = [runs[name] for name in sharded if name in runs]
    is_complete = len(ended) == len(sharded)
    batched = [run for name, run in runs.items() if "batched" in name]
    unsharded = runs.get("unsharded")
    rotated = [run for name, run in runs.items() if "rotated" in name]
    to_unsharded = differences(ended[0], unsharded) if ended and unsharded else None
    return {
        "sameLosses": all(run.losses == ended[0].losses for run in ended) if is_complete else None,
        "sameWeights": all(run.weights == ended[0].weights for run in ended) if is_complete else None,
        "sameCurve": is_same_curve(ended[0], unsharded, rotated) if ended and unsharded and rotated else None,
        "toUnsharded": to_unsharded,
        "unshardedRotated": [differences(run, unsharded) for run in rotated] if unsharded else [],
        "batchedOnTwoNumbersOfRanks": [differences(run, batched[0]) for run in batched[1:]],
    }


def report(runs: dict[str, Run], sharded: list[str], training: Training, text: bytes) -> dict[str, Any]:
    """What the runs that have ended show."""
    return {
        "backend": training.backend,
        "steps": training.steps,
        "stepMs": {name: round(run.step_ms, 2) for name, run in runs.items()},
        "textSha256": hashlib.sha256(text).hexdigest(),
        "lossesSha256": {
            name: hashlib.sha256(torch.tensor(run.losses, dtype=torch.float64).numpy().tobytes()).hexdigest()
            for name, run in runs.items()
        },
        "weightsSha256": {name: run.weights for name, run in runs.items()},
        **compare(runs, sharded),
    }


def differences(run: Run, other: Run) -> dict[str, Any]:
    """How far the losses of two runs are apart: where first, how far at most, and the means of their last quarters."""
    steps = [abs(x - y) for x, y in zip(run.losses, other.losses)]
    last_quarter = abs(run.last_quarter - other.last_quarter)
    first = next((step for step, difference in enumerate(steps) if difference > 0), None)
    return {"firstStep": first, "largest": max(steps), "lastQuarter": last_quarter}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="1,2,4", help="numbers of ranks, each a divisor of 8")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--backend", default="host", choices=("host", "cuda", "nccl"))
    parser.add_argument("--small", action="store_true", help="a model of 0.16 million parameters")
    parser.add_argument(
        "--batched", action=argparse.BooleanOptionalAction, default=True, help="whether to make the batched runs"
    )
    parser.add_argument("--at-once", action="store_true", help="runs at the same time, each on its own GPUs")
    parser.add_argument("--text", type=Path, help="a file to learn from instead of the Debian documentation")
    parser.add_argument("--out", type=Path, help="all losses, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    training = Training(steps=options.steps, model=SMALL if options.small else MODEL, backend=options.backend)
    text = options.text.read_bytes() if options.text else debian_text()
    numbers = [int(ranks) for ranks in options.ranks.split(",")]
    jobs = [sharded_job(ranks, training, text) for ranks in numbers]
    jobs += [sharded_job(ranks, training, text, batched=True) for ranks in (numbers[:2] if options.batched else [])]
    jobs.append(unsharded_job(training, text))
    # Those of many GPUs last, so that the others share a round.
    if options.at_once:
        jobs.sort(key=lambda job: job.gpus)
    sharded = [f"ranks {ranks}" for ranks in numbers]
    runs: dict[str, Run] = {}
    for jobs_of_round in rounds_of(jobs, torch.cuda.device_count() if options.at_once else 0):
        with ThreadPoolExecutor() as pool:
            made = [pool.submit(job.make, first) for job, first in jobs_of_round]
            for future in as_completed(made):
                found = future.result()
                runs |= found
                for name, run in found.items():
                    loss = f"loss {run.losses[0]:.4f} to {run.losses[-1]:.4f}"
                    print(f"{name}: {loss}, {run.step_ms:.0f} ms a step", flush=True)
                result = report(runs, sharded, training, text)
                if options.out:
                    losses = {name: run.losses for name, run in runs.items()}
                    options.out.write_text(json.dumps({**result, "losses": losses}))
    print(json.dumps(result, indent=2))
    return 0 if result["sameLosses"] and result["sameWeights"] and result["sameCurve"] else 1


if __name__ == "__main__":
    sys.exit(main())
