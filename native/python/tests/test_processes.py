"""One rank per process, over shared memory."""

import atexit
import os
import socket
import subprocess
import sys
from pathlib import Path

from fusco.torch.segments import OwnSegment, remove_abandoned

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


def test_a_process_that_is_killed_after_its_first_call_leaves_no_shared_memory(tmp_path):
    codes, left, output = run_ranks(["killed"], 2, tmp_path)
    assert (codes, left) == ([-9, -9], []), output


def test_what_a_process_leaves_that_is_killed_in_its_first_call_goes_with_the_next_group(tmp_path):
    codes, left, output = run_ranks(["killed_waiting"], 2, tmp_path)
    assert (codes, len(left)) == ([-9, -9], 1), output
    codes, _, output = run_ranks(["late"], 2, tmp_path)
    assert codes == [0, 0], output
    assert not Path("/dev/shm", left[0]).exists()


def test_all_ranks_learn_who_is_late_even_if_the_first_one_ends_at_once(tmp_path):
    codes, _, output = run_ranks(["leader_ends"], 4, tmp_path)
    assert codes == [0] * 4, output
    assert [f"rank {rank} knows who is late" in output for rank in range(4)] == [True] * 3 + [False]


def test_all_ranks_learn_who_differs_even_if_the_first_one_ends_at_once(tmp_path):
    codes, _, output = run_ranks(["leader_differs"], 4, tmp_path)
    assert codes == [0] * 4, output
    assert output.count("knows who differs") == 4


def test_only_segments_of_processes_that_ended_are_removed():
    segment = OwnSegment()
    path = Path("/dev/shm", segment.reserve(10).name)
    child = os.fork()
    if child == 0:
        # What the end of a process runs, for a segment of its parent.
        atexit._run_exitfuncs()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    remove_abandoned()
    assert path.exists()
    abandoned = Path("/dev/shm", f"fusco-{os.getpid()}-0123456789abcdef.segment")
    others = [Path("/dev/shm", name) for name in ("fusco-0123456789abcdef-0", f"fusco-{os.getpid()}-0123456789abcdef")]
    for each in (abandoned, *others):
        each.touch()
    remove_abandoned()
    assert [each.exists() for each in (abandoned, *others, path)] == [False, True, True, True]
    segment.unlink()
    assert not path.exists()
    for each in others:
        each.unlink()
