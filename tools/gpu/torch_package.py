"""Tests of the Python package on GPUs, for tools/gpu/check.sh and multi.sh: no pytest, and a library that is built.

FUSCO_LIBRARY=libfusco.so python3 torch_package.py RESULTS [SECONDS [one-by-one]]        default 150 seconds

Runs the cases of native/python/tests/gpu_cases.py and gpu_ranks.py, and times steps of a layer and of a model against
all_to_all_single. RESULTS gets torch-cases.json, torch-steps.json and torch-model-steps.json. What does not fit into
SECONDS is left out and named. `one-by-one` runs nothing at the same time, to look for the cause of a failure. Exit 1: a
case failed, or was left out.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path

PYTHON = Path(__file__).resolve().parents[2] / "native/python"
sys.path[:0] = [str(PYTHON), str(PYTHON / "tests")]
# A group that fails waits for its late ranks, at most this long.
MOST_GROUP_S = 100
# After one of its processes has failed: a little more than the deadline of what waits for it.
MOST_FAILING_S = 25
# What a program may need to end its own processes.
PARTING_S = 10
results = Path(sys.argv[1])
told = []
programs = []
telling = threading.Lock()
end = time.monotonic() + float(sys.argv[2] if len(sys.argv) > 2 else 150)
one_by_one = sys.argv[3:] == ["one-by-one"]


def left_s():
    return end - time.monotonic()


def end_programs(*_):
    """Where this program is ended: the programs that it runs have sessions of their own."""
    for running in programs:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
    os._exit(1)


def tell(found):
    """Prints results and writes all so far, so that they are there however this program ends."""
    with telling:
        told.extend(found)
        (results / "torch-cases.json").write_text(json.dumps({"cases": told}, indent=2))
        for each in found:
            verdict = "FAILED" if each["problem"] else "passed"
            print(f"{verdict} {each['where']}: {each['case']} ({each['seconds']} s)")
            if each["problem"]:
                print(each["problem"][-3000:])
        sys.stdout.flush()


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


def in_environment(allocator, target, *arguments):
    """A process: sets what PyTorch reads when it is imported."""
    # What waits for a rank that has failed ends, and names it.
    os.environ.setdefault("FUSCO_DEADLINE_MS", "20000")
    if allocator:
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = os.environ["PYTORCH_ALLOC_CONF"] = allocator
    target(*arguments)


def in_processes(title, target, ranks, names, allocator=""):
    """Runs cases in new processes; those behind a case that failed get further processes."""
    waiting = list(names)
    while waiting and left_s() > 10:
        ended = results_of(target, ranks, waiting, allocator)
        tell([{"where": title, **each} for each in ended])
        waiting = waiting[len(ended) :]
    tell([{"where": title, "case": name, "seconds": 0, "problem": "left out"} for name in waiting])


def results_of(target, ranks, names, allocator):
    """Results of the first cases: all of them, or up to the one after which a process ended; at least one."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        places = [(rank, ranks) for rank in range(ranks)] or [()]
        processes = [
            context.Process(target=in_environment, args=(allocator, target, *place, folder, names)) for place in places
        ]
        for process in processes:
            process.start()
        end_all(processes, time.monotonic() + min(MOST_GROUP_S, left_s()))
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
        if problems and position + 1 >= min(len(of_rank) for of_rank in by_rank):
            break
    return ended


def end_all(processes, stop):
    """Waits for the processes of a group until `stop`; after one has failed, only until the others have noticed."""
    while running := [process for process in processes if process.exitcode is None]:
        if any(process.exitcode for process in processes):
            stop = min(stop, time.monotonic() + MOST_FAILING_S)
            for process in running:
                process.join(max(0, stop - time.monotonic()))
        if time.monotonic() >= stop:
            break
        wait([process.sentinel for process in running], max(0, stop - time.monotonic()))
    for process in processes:
        process.kill()
        process.join()


def command(program, title, arguments):
    """Runs a program, whose result is told as that of a case."""
    start, limit_s = time.monotonic(), max(1, left_s())
    environment = {**os.environ, "PYTHONPATH": str(PYTHON), "FUSCO_DEADLINE_MS": "20000"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # In a separate session its processes, which hold the pipes, can be killed together.
    running = subprocess.Popen([*program, *arguments], **pipes, env=environment, start_new_session=True)
    programs.append(running)
    problem = ""
    try:
        output, errors = running.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        problem = f"did not end in {limit_s:.0f} s\n"
        # It ends its own processes, unless it is killed.
        running.terminate()
        try:
            output, errors = running.communicate(timeout=PARTING_S)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            output, errors = running.communicate()
    if running.returncode != 0:
        problem += f"{output[-2000:]}\n{errors[-4000:]}"
    print(output[-1500:])
    tell([{"where": title, "case": title, "seconds": round(time.monotonic() - start, 2), "problem": problem}])


def lanes(gpus):
    """Lists of steps: lists run at the same time, since most of their time goes into starting processes."""
    import gpu_cases
    import gpu_ranks

    ranks = [case.__name__ for case in gpu_ranks.RANKS if case is not gpu_ranks.rank_steady]
    one = [case.__name__ for case in gpu_cases.ONE_GPU if case is not gpu_cases.steady_memory]
    several = [case.__name__ for case in gpu_cases.SEVERAL_GPUS]
    first = [partial(in_processes, "one GPU", run_cases, 0, one)]
    second = []
    if gpus == 1:
        names = ["rank_equal", "rank_graph", "rank_late"]
        second.append(partial(in_processes, "2 processes of one GPU", run_ranks, 2, names))
    if gpus >= 2:
        first.append(partial(in_processes, "several GPUs", run_cases, 0, several))
        second.append(partial(in_processes, "2 processes", run_ranks, 2, ranks))
        # x, y and out may come from any allocator; other ranks map none of them.
        for allocator in ("expandable_segments:True", "backend:cudaMallocAsync"):
            names = ["rank_allocators"]
            first.append(partial(in_processes, f"2 processes, {allocator}", run_ranks, 2, names, allocator))
    if gpus >= 4:
        names = ["rank_equal", "rank_graph", "rank_streams", "rank_late"]
        second.append(partial(in_processes, "4 processes", run_ranks, 4, names))
    return [first, second]


def alone(gpus):
    """Steps that measure memory and time, with nothing next to them."""
    steps = [partial(in_processes, "one GPU", run_cases, 0, ["steady_memory"])]
    if gpus >= 2:
        steps.append(partial(in_processes, "2 processes", run_ranks, 2, ["rank_steady"]))
        two = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
        for title, port, bench, result in (
            ("steps against all_to_all_single", "29611", "step_time.py", "torch-steps.json"),
            ("steps of a model against all_to_all_single", "29612", "model_step.py", "torch-model-steps.json"),
        ):
            steps.append(partial(command, two, title, [port, str(PYTHON / "bench" / bench), str(results / result)]))
    return steps


def main():
    import torch

    gpus = torch.cuda.device_count()
    signal.signal(signal.SIGTERM, end_programs)

    def run_all(steps):
        for step in steps:
            step()

    with ThreadPoolExecutor() as pool:
        if one_by_one:
            run_all([step for lane in lanes(gpus) for step in lane])
        else:
            list(pool.map(run_all, lanes(gpus)))
    run_all(alone(gpus))
    where = {"gpus": gpus, "device": torch.cuda.get_device_name(), "torch": torch.__version__}
    (results / "torch-cases.json").write_text(json.dumps({**where, "cases": told}, indent=2))
    failed = [each for each in told if each["problem"]]
    print(f"{len(told) - len(failed)} of {len(told)} passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
