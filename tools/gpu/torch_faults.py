"""Faults planted in a PyTorch pipeline of several processes, which `fusco audit` must name, for tools/gpu/multi.sh.

torchrun --nproc-per-node N torch_faults.py OUT.json FUSCO...      FUSCO: the command, for example: node tools/fusco.js

The pipeline, its faults and their kinds are those of native/python/tests/audited_pipeline.py. The row that an audit
must name first is the first one that differs from the right run, and the tokens that it names must have the contents of
that row. N is 2, 4 or 8. Runs on GPUs over NCCL, or without one on the CPU over Gloo. Exit 1: a verdict was wrong.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import torch
import torch.distributed as dist

sys.path.append(str(Path(__file__).parents[2] / "native/python/tests"))
import audited_pipeline as pipeline


def save(folder, name, parts):
    """A directory with one tensor per rank."""
    (folder / name).mkdir(exist_ok=True)
    for rank, part in enumerate(parts):
        torch.save(part.contiguous(), folder / name / f"rank{rank}.pt")
    return str(folder / name)


def audit(folder, stage, run):
    """The JSON of the command for the rows that one run received or combined."""
    received, outputs, combined = run
    more = ["--received", save(folder, "received", received)]
    if stage == "combine":
        more = ["--combined", save(folder, "combined", combined), "--outputs", save(folder, "outputs", outputs)]
        more += ["--weights", str(folder / "weights")]
    inputs = ["--input", str(folder / "rows"), "--previous", str(folder / "previous")]
    subject = [str(folder / "ids.npy"), "--experts", str(pipeline.EXPERTS)]
    command = [*sys.argv[2:], "audit", *subject, *inputs, *more, "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode not in (0, 1):
        sys.exit(ran.stderr)
    return json.loads(ran.stdout)


def differing(right, wrong):
    """(rank, row) of each row that differs in a byte, or that only one of the two has."""
    found = []
    for rank, (a, b) in enumerate(zip(right, wrong)):
        common = min(len(a), len(b))
        same = (a[:common].view(torch.int16) == b[:common].view(torch.int16)).all(1)
        rows = (~same).nonzero().flatten().tolist() + list(range(common, max(len(a), len(b))))
        found += [(rank, row) for row in rows]
    return found


def problems_of(answer, kinds, stage, right, wrong, rows):
    """What is wrong with an answer, one text each."""
    first, counts = answer["first"], answer["differences"]
    if answer["ok"] or first is None:
        return ["nothing was found"]
    problems = [] if counts.keys() == kinds else [f"kinds {counts}, not {kinds}"]
    if stage == "combine" and kinds == {"rounding"}:
        return problems  # Some sums in bf16 are within the bound.
    differ = differing(right, wrong)
    rank, row = differ[0]
    if sum(counts.values()) != len(differ):
        problems.append(f"counts {counts}, not {len(differ)} rows")
    if (first["rank"], first["slot"]) != differ[0]:
        return [*problems, f"rank {first['rank']} slot {first['slot']}, not {differ[0]}"]
    if stage == "combine":
        return problems
    named = [(first["expected"], right)]
    if "other-token" in kinds:
        named.append((first["found"], wrong))
    for token, where in named:
        if (
            token
            and row < len(where[rank])
            and not torch.equal(rows[token["sourceRank"], token["token"]], where[rank][row])
        ):
            problems.append(f"{token} is not the row at rank {rank} slot {row}")
    return problems


def judge(folder, ranks):
    """The problems of each run, by its name."""
    ids, rows, weights = pipeline.step(1, ranks)
    numpy.save(folder / "ids.npy", ids.numpy())
    parts = {"rows": rows, "previous": pipeline.step(2, ranks)[1], "weights": weights}
    for name, values in parts.items():
        save(folder, name, values)
    right, *runs = pipeline.load_runs(folder, ranks)
    results = {}
    for stage in ("dispatch", "combine"):
        answer = audit(folder, stage, right)
        found = [] if answer["ok"] else ["it finds faults where none are"]
        if stage == "combine" and "k" not in answer["combine"]["orders"]:
            found.append(f"orders {answer['combine']['orders']}, without k")
        results[f"nothing is wrong: {stage}"] = found
    for (name, (_, _, stage, kinds)), run in zip(pipeline.FAULTS.items(), runs):
        at = 0 if stage == "dispatch" else 2
        results[name] = problems_of(audit(folder, stage, run), kinds, stage, right[at], run[at], rows)
    return results


def main():
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    shared = [tempfile.mkdtemp() if rank == 0 else None]
    dist.broadcast_object_list(shared)
    pipeline.run_all(device, shared[0])
    dist.barrier()
    dist.destroy_process_group()
    if rank > 0:
        return 0
    results = judge(Path(shared[0]), ranks)
    where = torch.cuda.get_device_name() if on_gpu else "CPU"
    summary = {"ranks": ranks, "device": where, "faults": len(pipeline.FAULTS), "problems": results}
    Path(sys.argv[1]).write_text(json.dumps(summary, indent=2))
    for name, problems in results.items():
        for problem in problems:
            print(f"{name}: {problem}")
    named = sum(not results[name] for name in pipeline.FAULTS)
    print(f"{named} of {len(pipeline.FAULTS)} faults named, {ranks} ranks on {where}")
    shutil.rmtree(shared[0])
    return 1 if any(results.values()) else 0


sys.exit(main())
