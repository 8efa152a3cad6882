"""Faults planted in the usual PyTorch pipeline, each of which `fusco audit` must name, for tools/gpu/multi.sh.

The pipeline is index_select, all_to_all_single, index_select, and back; its rows are bf16. First it runs as it should,
and the audit must find nothing; then once for each fault. What the audit must say does not come from it: the kind of a
fault is known, its first row is the first one that differs from the right run, and which token belongs there and which is
there instead is seen by sending the numbers of tokens through the same pipeline.

torchrun --nproc-per-node N torch_faults.py OUT.json FUSCO...      FUSCO: the command, for example: node tools/fusco.js

Runs on GPUs over NCCL, or without one on the CPU over gloo. Exit 1: a verdict was wrong.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import torch
import torch.distributed as dist

TOKENS, HIDDEN, TOPK = 96, 256, 4
HALF = HIDDEN // 2
rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
EXPERTS = 8 * ranks
on_gpu = torch.cuda.is_available()
device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
if on_gpu:
    torch.cuda.set_device(device)
dist.init_process_group("nccl" if on_gpu else "gloo")
#: The rank in which faults are planted.
FAULTY = 1


class Pipeline:
    """One layer's exchanges on this rank. A fault changes what is between two of its stages."""

    def __init__(self, ids: torch.Tensor, fault: dict):
        self.fault = fault if rank == FAULTY else {}
        flat = ids.reshape(-1)
        order = flat.argsort(stable=True)
        counts = torch.bincount(flat, minlength=EXPERTS).reshape(ranks, -1)
        theirs = torch.empty_like(counts)
        dist.all_to_all_single(theirs, counts)
        self.send, self.receive = counts.sum(1).tolist(), theirs.sum(1).tolist()
        local = torch.arange(EXPERTS // ranks, device=device).repeat(ranks)
        self.unpack = torch.repeat_interleave(local, theirs.reshape(-1)).argsort(stable=True)
        self.source = order // TOPK
        self.repack, self.home = self.unpack.argsort(), order.argsort()

    def at(self, stage: str, value: torch.Tensor) -> torch.Tensor:
        change = self.fault.get(stage)
        return value if change is None else change(value.clone(), self)

    def dispatch(self, rows: torch.Tensor) -> torch.Tensor:
        packed = self.at("packed", rows.index_select(0, self.at("source", self.source)))
        arrived = packed.new_empty(sum(self.receive), rows.shape[1])
        dist.all_to_all_single(arrived, packed, self.receive, self.send)
        return self.at("rows", self.at("arrived", arrived).index_select(0, self.at("unpack", self.unpack)))

    def combine(self, y: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        returned = y.new_empty(sum(self.send), y.shape[1])
        dist.all_to_all_single(returned, y.index_select(0, self.repack), self.send, self.receive)
        terms = returned.index_select(0, self.home).reshape(-1, TOPK, y.shape[1]).float()
        terms = self.at("terms", terms * self.at("weights", weights).unsqueeze(2))
        dtype = self.fault.get("accumulate", torch.float32)
        total = torch.zeros_like(terms[:, 0], dtype=dtype)
        for k in range(TOPK):
            total = total + terms[:, k].to(dtype)
        return self.at("sum", total.to(y.dtype))


generator = torch.Generator().manual_seed(rank + 1)
scores = torch.rand(TOKENS, EXPERTS, generator=generator)
ids = scores.topk(TOPK, dim=1).indices.to(device)
x, previous = (torch.randn(TOKENS, HIDDEN, generator=generator).to(torch.bfloat16).to(device) for _ in range(2))
weights = torch.rand(TOKENS, TOPK, generator=generator).add(0.25).to(device)
#: What the receive buffer holds after the step before, along the same routing.
left_over = Pipeline(ids, {}).dispatch(previous)
arrived_before = left_over.index_select(0, Pipeline(ids, {}).repack)


def rows_set(indices, value):
    """A change that sets some rows, or parts of rows, to what `value` returns."""

    def change(rows, pipeline):
        rows[indices] = value(rows, pipeline) if callable(value) else value
        return rows

    return change


def through_e4m3(rows, _):
    scale = rows.float().abs().amax(1, keepdim=True) / 448
    return ((rows.float() / scale).to(torch.float8_e4m3fn).float() * scale).to(rows.dtype)


def flip_sign(rows, _):
    rows.view(torch.int16)[7, 40] ^= -0x8000
    return rows


def exchanged(indices, _):
    indices[[2, 9]] = indices[[9, 2]]
    return indices


def sources_rotated(rows, pipeline):
    return rows.roll(pipeline.receive[0], 0)


def last_source_left_over(rows, pipeline):
    rows[-pipeline.receive[-1] :] = arrived_before[-pipeline.receive[-1] :]
    return rows


#: The kind that the audit must report, and stage -> change: faults of dispatch, then of combine.
DISPATCH = {
    "index_select is off by one": ("other-token", {"source": lambda index, _: index.roll(1)}),
    "index_select takes the entries backwards": ("other-token", {"source": lambda index, _: index.flip(0)}),
    "rows stay in the order of arrival": (
        "other-token",
        {"unpack": lambda index, _: torch.arange(len(index), device=device)},
    ),
    "two rows are exchanged": ("other-token", {"unpack": exchanged}),
    "sources arrive in other places": ("other-token", {"arrived": sources_rotated}),
    "the exchange was not waited for": ("stale", {"arrived": last_source_left_over}),
    "a row of the step before is left": ("stale", {"rows": rows_set(4, lambda *_: left_over[4])}),
    "a row was never sent": ("zeros", {"packed": rows_set(-1, 0)}),
    "the second half is not written": ("partial", {"rows": rows_set((6, slice(HALF, None)), 0)}),
    "the first half is of the step before": (
        "partial",
        {"rows": rows_set((6, slice(None, HALF)), lambda *_: left_over[6, :HALF])},
    ),
    "half a row is of another token": (
        "partial",
        {"rows": rows_set((6, slice(HALF, None)), lambda rows, _: rows[20, HALF:])},
    ),
    "rows went through e4m3": ("rounding", {"packed": through_e4m3}),
    "a number is NaN": ("nan", {"rows": rows_set((5, 11), float("nan"))}),
    "a bit is flipped": ("values", {"rows": flip_sign}),
    "a row is missing at the end": ("missing", {"rows": lambda rows, _: rows[:-1]}),
    "there is a row too many": ("extra", {"rows": lambda rows, _: torch.cat([rows, rows[:1]])}),
}
COMBINE = {
    "a term is left out": ("term-missing", {"terms": rows_set((4, 1), 0)}),
    "a term is added twice": ("term-twice", {"terms": rows_set((7, 2), lambda terms, _: 2 * terms[7, 2])}),
    "weights are not applied": ("unweighted", {"weights": lambda w, _: torch.ones_like(w)}),
    "sums are those of other tokens": ("other-token", {"sum": lambda out, _: out.roll(1, 0)}),
    "a token is not combined": ("zeros", {"sum": rows_set(9, 0)}),
    "half a row is not combined": ("partial", {"sum": rows_set((3, slice(None, HALF)), 0)}),
    "sums are kept in bf16": ("rounding", {"accumulate": torch.bfloat16}),
    "a row is scaled": ("scaled", {"weights": rows_set(6, lambda w, _: 1.25 * w[6])}),
    "a sum is NaN": ("nan", {"sum": rows_set((1, 0), float("nan"))}),
    "an element is changed": ("values", {"sum": rows_set((2, 30), lambda out, _: out[2, 30] + 8)}),
}


def differing(a: torch.Tensor, b: torch.Tensor) -> list:
    """Rows that differ in a byte, or that only one of the two has."""
    common = min(len(a), len(b))
    same = (a[:common].view(torch.int16) == b[:common].view(torch.int16)).all(1)
    return (~same).nonzero().flatten().tolist() + list(range(common, max(len(a), len(b))))


def gathered(value):
    everything = [None] * ranks
    dist.all_gather_object(everything, value)
    return everything


def save(folder: Path, name: str, rows: torch.Tensor) -> str:
    (folder / name).mkdir(parents=True, exist_ok=True)
    host = rows.cpu()
    numpy.save(
        folder / name / f"rank{rank}.npy",
        host.view(torch.int16).numpy().view("u2") if host.dtype == torch.bfloat16 else host.numpy(),
    )
    return str(folder / name)


def audit(folder: Path, stage: str, rows: torch.Tensor) -> dict:
    """The answer of the command on the rows of all ranks; {} except on rank 0."""
    path = save(folder, stage, rows)
    dist.barrier()
    answer = {}
    if rank == 0:
        more = (
            ["--combined", path, "--weights", files["weights"], "--outputs", files["outputs"]]
            if stage == "combined"
            else ["--received", path]
        )
        command = [*sys.argv[2:], "audit", files["ids"], "--experts", str(EXPERTS), "--input", files["x"], *more]
        ran = subprocess.run([*command, "--previous", files["previous"], "--json"], capture_output=True, text=True)
        if ran.returncode not in (0, 1):
            sys.exit(ran.stderr)
        answer = json.loads(ran.stdout)
    dist.barrier()
    return answer


def expectation(kind: str, stage: str, right: torch.Tensor, wrong: torch.Tensor, tags: list) -> dict:
    """What the audit must say first: the same on all ranks. `tags`: of the right and of the faulty run."""
    rows = differing(right, wrong)
    mine = None
    if rows:
        row = rows[0]
        expected = [rank, row, -1] if stage == "combined" else tags[0][row].tolist() if row < len(right) else None
        moved = stage == "received" and kind == "other-token"
        mine = {
            "rank": rank,
            "slot": row,
            "rows": len(rows),
            "expected": expected,
            "found": tags[1][row].tolist() if moved else None,
        }
    every = [one for one in gathered(mine) if one]
    return {**every[0], "kind": kind, "rows": sum(one["rows"] for one in every)}


def verdict(answer: dict, wanted: dict, stage: str) -> list:
    """What is wrong with the answer."""
    first = answer["first"]
    if first is None:
        return ["nothing was found"]
    problems = []
    inside = wanted["kind"] == "rounding" and stage == "combined"  # Some sums in bf16 are within the bound.
    if answer["ok"]:
        problems.append("it says ok")
    if answer["differences"].keys() != {wanted["kind"]}:
        problems.append(f"kinds {answer['differences']}, not {wanted['kind']}")
    if not inside and answer["differences"].get(wanted["kind"]) != wanted["rows"]:
        problems.append(f"counts {answer['differences']}, not {wanted['rows']}")
    if first["rank"] != wanted["rank"] or (not inside and first["slot"] != wanted["slot"]):
        problems.append(f"rank {first['rank']} slot {first['slot']}, not {wanted['rank']} {wanted['slot']}")
    if not inside and wanted["expected"] is not None:
        source, token, k = wanted["expected"]
        named = first["expected"] or {}
        if (named.get("sourceRank"), named.get("token")) != (source, token) or (k >= 0 and named.get("k") != k):
            problems.append(f"expected {named}, not {wanted['expected']}")
    if (
        wanted["found"] is not None
        and [first["found"].get(name) for name in ("sourceRank", "token")] != wanted["found"][:2]
    ):
        problems.append(f"found {first['found']}, not {wanted['found']}")
    return problems


shared = [tempfile.mkdtemp() if rank == 0 else None]
dist.broadcast_object_list(shared)
folder = Path(shared[0])
files = {
    name: save(folder, name, value)
    for name, value in {"ids": ids, "x": x, "previous": previous, "weights": weights}.items()
}
results, failed = [], False


def tags_of(fault: dict) -> torch.Tensor:
    """(source rank, token, k) of each received row, seen by sending these numbers along the pipeline."""
    pipeline = Pipeline(ids, fault)
    moved = {stage: change for stage, change in pipeline.fault.items() if stage in ("source", "unpack", "arrived")}
    pipeline.fault = moved
    # k is that of the entry, which the pipeline does not send: the order of entries gives it.
    order = ids.reshape(-1).argsort(stable=True)
    token = pipeline.at("source", pipeline.source)
    packed = torch.stack([torch.full_like(token, rank), token, order % TOPK], 1).to(torch.int32)
    arrived = packed.new_empty(sum(pipeline.receive), 3)
    dist.all_to_all_single(arrived, packed, pipeline.receive, pipeline.send)
    return pipeline.at("arrived", arrived).index_select(0, pipeline.at("unpack", pipeline.unpack))


right = Pipeline(ids, {})
received = right.dispatch(x)
# Experts scale elements by different factors, so that no sum of a token's rows looks like another one.
factors = (
    1 + (7 * torch.arange(len(received), device=device).unsqueeze(1) + torch.arange(HIDDEN, device=device)) % 16 / 16
)
outputs = received * factors.to(torch.bfloat16)
files["outputs"] = save(folder, "outputs", outputs)
combined = right.combine(outputs, weights)
tags = tags_of({})
for stage, rows in (("received", received), ("combined", combined)):
    answer = audit(folder / "right", stage, rows)
    if rank == 0:
        problems = [] if answer["ok"] else ["it finds faults where none are"]
        if stage == "combined" and "k" not in answer["combine"]["orders"]:
            problems.append(f"orders {answer['combine']['orders']}, without k")
        results.append({"case": f"nothing is wrong: {stage}", "problems": problems})
for stage, faults in (("received", DISPATCH), ("combined", COMBINE)):
    for name, (kind, fault) in faults.items():
        pipeline = Pipeline(ids, fault)
        wrong = pipeline.dispatch(x) if stage == "received" else pipeline.combine(outputs, weights)
        moved = tags_of(fault) if kind == "other-token" and stage == "received" else tags
        wanted = expectation(kind, stage, received if stage == "received" else combined, wrong, [tags, moved])
        answer = audit(folder / name, stage, wrong)
        if rank == 0:
            results.append({"case": name, "kind": kind, "problems": verdict(answer, wanted, stage)})

if rank == 0:
    for result in results:
        for problem in result["problems"]:
            print(f"{result['case']}: {problem}")
    failed = any(result["problems"] for result in results)
    where = torch.cuda.get_device_name() if on_gpu else "CPU"
    summary = {"ranks": ranks, "device": where, "faults": len(DISPATCH) + len(COMBINE), "results": results}
    Path(sys.argv[1]).write_text(json.dumps(summary, indent=2))
    named = sum(not result["problems"] for result in results[2:])
    print(f"{named} of {summary['faults']} faults named, {ranks} ranks on {where}")
    subprocess.run(["rm", "-r", str(folder)], check=True)
dist.barrier()
dist.destroy_process_group()
sys.exit(failed)
