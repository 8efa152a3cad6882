"""Dispatch and combine as a program writes them with index_select and all_to_all_single, and faults to plant in them.

One process per rank, in a group of 2, 4 or 8 ranks. test_audit_pipeline.py audits the results in Python,
tools/gpu/torch_faults.py with the command line, on GPUs over NCCL if there are any.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist

EXPERTS, TOPK, TOKENS, HIDDEN = 8, 3, 12, 64
HALF = HIDDEN // 2
#: The rank in which faults are planted.
RANK = 1


def step(seed, ranks):
    """Ids [ranks, tokens, topk], rows [ranks, tokens, hidden] and weights [ranks, tokens, topk]."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randperm(EXPERTS, generator=generator)[:TOPK] for _ in range(ranks * TOKENS)])
    rows = torch.randn(ranks, TOKENS, HIDDEN, generator=generator).bfloat16()
    return ids.view(ranks, TOKENS, TOPK), rows, torch.rand(ranks, TOKENS, TOPK, generator=generator)


def exchange(rows, sent, received):
    out = rows.new_empty((sum(received), *rows.shape[1:]))
    dist.all_to_all_single(out, rows.contiguous(), received, sent)
    return out


def scale(experts):
    """Each expert multiplies each element by another number."""
    column = torch.arange(HIDDEN, device=experts.device)
    return (1 + ((7 * experts[:, None] + column) % 16) / 16).bfloat16()


class Pipeline:
    """One step of one rank. A fault changes what a stage leaves: an attribute of this object."""

    def __init__(self, device, plant):
        self.rank, self.ranks, self.device = dist.get_rank(), dist.get_world_size(), device
        self.plant = plant if self.rank == RANK else lambda stage, pipeline: None
        ids, rows, weights = step(1, self.ranks)
        self.ids, self.rows, self.weights = (part[self.rank].to(device) for part in (ids, rows, weights))
        self.before = step(2, self.ranks)[1].to(device)

    def run(self):
        self.dispatch()
        self.outputs = self.received * scale(self.expert)
        self.combine()
        return self.received.cpu(), self.outputs.cpu(), self.combined.cpu()

    def dispatch(self):
        flat = self.ids.flatten()
        self.entry = torch.argsort(flat, stable=True)
        self.token = self.entry // TOPK
        self.plant("ordered", self)
        self.gathered = self.rows.index_select(0, self.token)
        self.plant("gathered", self)
        self.sent = torch.bincount(flat // (EXPERTS // self.ranks), minlength=self.ranks).tolist()
        counts = exchange(torch.tensor(self.sent, device=self.device), [1] * self.ranks, [1] * self.ranks)
        self.counts = counts.tolist()
        arrived = exchange(self.gathered, self.sent, self.counts)
        experts = exchange(flat[self.entry], self.sent, self.counts)
        self.order = torch.argsort(experts, stable=True)
        self.plant("arrived", self)
        self.received = arrived.index_select(0, self.order)
        self.expert = experts.index_select(0, self.order)
        self.plant("received", self)

    def combine(self):
        # What is planted in a receive buffer does not change its length on the way back.
        rows = self.outputs[: len(self.order)]
        rows = torch.cat([rows, rows.new_zeros(len(self.order) - len(rows), HIDDEN)])
        back = exchange(rows[torch.argsort(self.order)], self.counts, self.sent)
        self.terms = torch.empty(TOKENS * TOPK, HIDDEN, dtype=back.dtype, device=self.device)
        self.terms[self.entry] = back
        self.terms = self.terms.view(TOKENS, TOPK, HIDDEN)
        self.plant("returned", self)
        total = torch.zeros(TOKENS, HIDDEN, device=self.device)
        for k in range(TOPK):
            total = total + self.terms[:, k].float() * self.weights[:, k, None]
        self.combined = total.bfloat16()
        self.plant("combined", self)


def _set(name, rows, value):
    def change(pipeline):
        target = getattr(pipeline, name)
        target[rows] = value(pipeline) if callable(value) else value

    return change


def _shifted(pipeline):
    pipeline.token = pipeline.token.roll(1)


def _exchanged(pipeline):
    # Rows of two tokens: entries of the first and the last expert.
    pipeline.gathered[[0, -1]] = pipeline.gathered[[-1, 0]]


def _reversed_sources(pipeline):
    pipeline.order = pipeline.order.flip(0)


def _rounded(pipeline):
    pipeline.gathered = pipeline.gathered.to(torch.float8_e4m3fn).bfloat16()


def _flipped(pipeline):
    pipeline.received.view(torch.int16)[2, 9] ^= 0x2000


def _shorter(pipeline):
    pipeline.received, pipeline.expert = pipeline.received[:-1], pipeline.expert[:-1]


def _longer(pipeline):
    pipeline.received = torch.cat([pipeline.received, pipeline.rows[:1]])
    pipeline.expert = torch.cat([pipeline.expert, pipeline.expert[:1]])


def _twice(pipeline):
    pipeline.combined[4] = (
        pipeline.combined[4].float() + pipeline.terms[4, 2].float() * pipeline.weights[4, 2]
    ).bfloat16()


def _unweighted(pipeline):
    pipeline.combined = pipeline.terms.float().sum(1).bfloat16()


def _narrow(pipeline):
    total = torch.zeros_like(pipeline.combined)
    for k in range(TOPK):
        total = total + (pipeline.terms[:, k] * pipeline.weights[:, k, None].bfloat16()).bfloat16()
    pipeline.combined = total


#: Faults: the stage that they change, how, and the kinds that an audit must name, of a dispatch or of a combine.
FAULTS = {
    "a row that is not sent": ("gathered", _set("gathered", 5, 0), "dispatch", {"zeros"}),
    "a row of the step before that is sent": (
        "gathered",
        _set("gathered", 7, lambda of: of.before[0, 3]),
        "dispatch",
        {"stale"},
    ),
    "an index that is off by one": ("ordered", _shifted, "dispatch", {"other-token"}),
    "two rows exchanged": ("gathered", _exchanged, "dispatch", {"other-token"}),
    "half of a row not sent": ("gathered", _set("gathered", (6, slice(HALF, None)), 0), "dispatch", {"partial"}),
    "half of a row of the step before": (
        "gathered",
        _set("gathered", (6, slice(0, HALF)), lambda of: of.before[0, 1, :HALF]),
        "dispatch",
        {"partial"},
    ),
    "half of a row of another token": (
        "gathered",
        _set("gathered", (8, slice(0, HALF)), lambda of: of.rows[(of.token[8] + 1) % TOKENS, :HALF]),
        "dispatch",
        {"partial"},
    ),
    "rows rounded to fp8": ("gathered", _rounded, "dispatch", {"rounding"}),
    "a NaN": ("gathered", _set("gathered", (3, 17), float("nan")), "dispatch", {"nan"}),
    "a flipped bit": ("received", _flipped, "dispatch", {"values"}),
    "a row that was not overwritten": (
        "received",
        _set("received", 0, lambda of: of.before[0, 5]),
        "dispatch",
        {"stale"},
    ),
    "a slot that was not written": ("received", _set("received", 1, 0), "dispatch", {"zeros"}),
    "rows in the order of arrival reversed": ("arrived", _reversed_sources, "dispatch", {"other-token"}),
    "a buffer that is one row too short": ("received", _shorter, "dispatch", {"missing"}),
    "a buffer that is one row too long": ("received", _longer, "dispatch", {"extra"}),
    "a row that is not returned": ("returned", _set("terms", (3, 1), 0), "combine", {"term-missing"}),
    "a row that is added twice": ("combined", _twice, "combine", {"term-twice"}),
    "weights that are not applied": ("combined", _unweighted, "combine", {"unweighted"}),
    "sums kept in bf16": ("combined", _narrow, "combine", {"rounding"}),
    "sums of other tokens": (
        "combined",
        lambda of: setattr(of, "combined", of.combined.roll(1, 0)),
        "combine",
        {"other-token"},
    ),
    "a token that is not combined": ("combined", _set("combined", 2, 0), "combine", {"zeros"}),
    "half of a token that is not combined": (
        "combined",
        _set("combined", (2, slice(HALF, None)), 0),
        "combine",
        {"partial"},
    ),
    "weights that add up to more": ("combined", lambda of: of.combined.mul_(1.25), "combine", {"scaled"}),
    "a NaN in a sum": ("combined", _set("combined", (1, 2), float("nan")), "combine", {"nan"}),
}


def run_all(device, folder):
    """Runs the pipeline right, then with each fault, on this rank.

    Each run writes (received, outputs of the experts, combined) to FOLDER/NUMBER-rank{r}.pt; run 0 is the right one.
    """
    for number, (stage, change, *_) in enumerate([("", lambda of: None), *FAULTS.values()]):

        def plant(at, pipeline, stage=stage, change=change):
            if at == stage:
                change(pipeline)

        torch.save(Pipeline(device, plant).run(), Path(folder) / f"{number}-rank{dist.get_rank()}.pt")


def load_runs(folder, ranks):
    """(received, outputs, combined) of all ranks, by the number of the run; each a list with a tensor per rank."""
    parts = (
        [torch.load(Path(folder) / f"{number}-rank{rank}.pt") for rank in range(ranks)]
        for number in range(1 + len(FAULTS))
    )
    return [list(zip(*of_ranks)) for of_ranks in parts]
