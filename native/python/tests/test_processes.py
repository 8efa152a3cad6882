"""One rank per process, over shared memory."""

import os
import socket
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("ranks.py")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_ranks(names, ranks, directory, **environment):
    """Runs programs of ranks.py on all ranks; returns exit codes, what is left of shared memory, and the output."""
    env = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(ranks),
        "OMP_NUM_THREADS": "1",
        "FUSCO_DEADLINE_MS": "30000",
        **environment,
    }
    started = [
        subprocess.Popen(
            [sys.executable, PROGRAM, directory, *names],
            env={**env, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    output = "".join(process.communicate(timeout=280)[0] for process in started)
    left = [path.name for process in started for path in Path("/dev/shm").glob(f"fusco-{process.pid}-*")]
    return [process.returncode for process in started], left, output


def test_four_processes(tmp_path):
    codes, left, output = run_ranks(["equal", "use", "threads", "forked", "differ", "late"], 4, tmp_path)
    assert (codes, left) == ([0] * 4, []), output


def test_two_processes_whose_store_is_a_file(tmp_path):
    codes, left, output = run_ranks(
        ["equal", "use", "threads", "fsdp"], 2, tmp_path, INIT_METHOD=f"file://{tmp_path}/store"
    )
    assert (codes, left) == ([0, 0], []), output


def test_a_killed_process_leaves_no_shared_memory(tmp_path):
    codes, left, output = run_ranks(["killed"], 2, tmp_path)
    assert (codes, left) == ([-9, -9], []), output
