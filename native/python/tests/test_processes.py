"""One rank per process, over shared memory."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("ranks.py")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_ranks(name, ranks, directory, **environment):
    """Runs a program of ranks.py on all ranks; returns the exit codes, the output, and what is left of shared memory."""
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
            [sys.executable, PROGRAM, name, directory],
            env={**env, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    output = "".join(process.communicate(timeout=240)[0] for process in started)
    left = [path.name for process in started for path in Path("/dev/shm").glob(f"fusco-{process.pid}-*")]
    return [process.returncode for process in started], output, left


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", ["equal", "use"])
def test_ranks_in_processes(name, ranks, tmp_path):
    codes, output, left = run_ranks(name, ranks, tmp_path)
    assert (codes, left) == ([0] * ranks, []), output


def test_a_group_whose_store_is_a_file(tmp_path):
    codes, output, left = run_ranks("use", 2, tmp_path, INIT_METHOD=f"file://{tmp_path}/store")
    assert (codes, left) == ([0, 0], []), output


@pytest.mark.parametrize("name", ["late", "differ"])
def test_ranks_that_fail_name_the_others(name, tmp_path):
    codes, output, left = run_ranks(name, 3, tmp_path)
    assert (codes, left) == ([0, 0, 0], []), output


def test_a_killed_process_leaves_no_shared_memory(tmp_path):
    codes, output, left = run_ranks("killed", 2, tmp_path)
    assert (codes, left) == ([-9, -9], []), output
