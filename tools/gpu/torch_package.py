"""Tests of the Python package on GPUs, for tools/gpu/multi.sh: no pytest, and a library that was built beforehand.

FUSCO_LIBRARY=libfusco.so python3 torch_package.py RESULTS [SECONDS]        default 150 seconds

Runs the cases of native/python/tests/gpu_cases.py and gpu_ranks.py, trains the model of the examples on 1, 2 and 4
GPUs, and times steps against all_to_all_single. RESULTS gets torch-cases.json, torch-training.json and
torch-steps.json. What does not fit into SECONDS is left out and named. Exit 1: a case failed, or was left out.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PYTHON = Path(__file__).resolve().parents[2] / "native/python"
sys.path[:0] = [str(PYTHON), str(PYTHON / "tests")]
# A group that fails waits for its late ranks, at most this long.
MOST_GROUP_S = 70
results = Path(sys.argv[1])
end = time.monotonic() + float(sys.argv[2] if len(sys.argv) > 2 else 150)


def left_s():
    return end - time.monotonic()


def run_cases(folder, names):
    """A process: runs cases of one process, and writes what they gave, until CUDA can no longer be used."""
    import gpu_cases

    done = []
    for case in gpu_cases.ONE_GPU + gpu_cases.SEVERAL_GPUS:
        if case.__name__ in names:
            done.append(gpu_cases.run_case(case))
            Path(folder, "0.json").write_text(json.dumps(done))
            if "CUDA error" in done[-1]["problem"] or "cannot be used any more" in done[-1]["problem"]:
                os._exit(1)


def run_ranks(rank, ranks, folder, names):
    """A process of a group."""
    import gpu_ranks

    gpu_ranks.run_rank(rank, ranks, folder, names)


def in_processes(title, target, ranks, names):
    """Runs cases in new processes; those behind a case that failed get further processes. Returns the results."""
    found, waiting = [], list(names)
    while waiting and left_s() > 10:
        ended = results_of(target, ranks, waiting)
        found += [{"where": title, **each} for each in ended]
        waiting = waiting[len(ended) :]
    return found + [{"where": title, "case": name, "seconds": 0, "problem": "left out"} for name in waiting]


def results_of(target, ranks, names):
    """Results of the first cases: all of them, or up to the first that failed; at least one."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        places = [(rank, ranks) for rank in range(ranks)] or [()]
        processes = [context.Process(target=target, args=(*place, folder, names)) for place in places]
        for process in processes:
            process.start()
        stop = time.monotonic() + min(MOST_GROUP_S, left_s())
        for process in processes:
            process.join(max(0, stop - time.monotonic()))
            if process.is_alive():
                process.kill()
            process.join()
        files = [Path(folder, f"{rank}.json") for rank in range(len(processes))]
        by_rank = [json.loads(file.read_text()) if file.exists() else [] for file in files]
    ended = []
    for position, name in enumerate(names):
        given = [(rank, of_rank[position]) for rank, of_rank in enumerate(by_rank) if len(of_rank) > position]
        problems = [f"rank {rank}: {result['problem']}" for rank, result in given if result["problem"]]
        missing = len(by_rank) - len(given)
        if missing > 0:
            problems.append(f"{missing} of {len(by_rank)} processes did not end it")
        seconds = max((result["seconds"] for _, result in given), default=0)
        ended.append({"case": name, "seconds": seconds, "problem": "\n".join(problems)})
        if problems:
            break
    return ended


def command(title, arguments, limit_s):
    """Runs a program. Returns a result as those of cases."""
    start = time.monotonic()
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=max(1, min(limit_s, left_s())))
        problem = "" if done.returncode == 0 else f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        print(done.stdout[-1500:])
    except subprocess.TimeoutExpired as late:
        problem = f"did not end in {late.timeout:.0f} s: {(late.stderr or b'')[-2000:]}"
    return [{"where": title, "case": title, "seconds": round(time.monotonic() - start, 2), "problem": problem}]


def main():
    import gpu_cases
    import gpu_ranks
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    gpus = torch.cuda.device_count()
    ranks = [case.__name__ for case in gpu_ranks.RANKS]
    found = in_processes("one GPU", run_cases, 0, [case.__name__ for case in gpu_cases.ONE_GPU])
    if gpus >= 2:
        found += in_processes("several GPUs", run_cases, 0, [case.__name__ for case in gpu_cases.SEVERAL_GPUS])
        found += in_processes("2 processes", run_ranks, 2, ranks)
        # x, y and out may come from any allocator; other ranks map none of them.
        for allocator in ("expandable_segments:True", "backend:cudaMallocAsync"):
            os.environ["PYTORCH_CUDA_ALLOC_CONF"] = os.environ["PYTORCH_ALLOC_CONF"] = allocator
            found += in_processes(f"2 processes, {allocator}", run_ranks, 2, ["rank_equal"])
        del os.environ["PYTORCH_CUDA_ALLOC_CONF"], os.environ["PYTORCH_ALLOC_CONF"]
        steps = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29611"]
        found += command(
            "steps against all_to_all_single",
            [*steps, str(PYTHON / "bench/step_time.py"), str(results / "torch-steps.json")],
            60,
        )
    if gpus >= 4:
        found += in_processes("4 processes", run_ranks, 4, ["rank_equal", "rank_graph", "rank_streams", "rank_late"])
    numbers = ",".join(str(count) for count in (1, 2, 4) if count <= gpus)
    train = [sys.executable, str(PYTHON / "examples/train_moe.py"), "--backend", "nccl", "--ranks", numbers]
    train += ["--text", str(PYTHON.parents[1] / "ARCHITECTURE.md")]
    found += command("training", [*train, "--steps", "20", "--out", str(results / "torch-training.json")], 100)
    where = {"gpus": gpus, "device": torch.cuda.get_device_name(), "torch": torch.__version__}
    (results / "torch-cases.json").write_text(json.dumps({**where, "cases": found}, indent=2))
    failed = [each for each in found if each["problem"]]
    for each in found:
        print(f"{'FAILED' if each['problem'] else 'passed'} {each['where']}: {each['case']} ({each['seconds']} s)")
    for each in failed:
        print(f"-- {each['where']}: {each['case']}\n{each['problem'][-3000:]}")
    print(f"{len(found) - len(failed)} of {len(found)} passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
