"""Every example of a framework runs as its head says, on two ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"
PRINTED = {
    "shard_transformers.py": "parameters, unsharded",
    "megatron_dispatcher.py": "rank 1:",
    "torchtitan_dispatcher.py": "rank 1:",
    "sglang_dispatcher.py": "rank 1:",
}


def run(*command: object) -> str:
    """Runs Python with the stand-ins in reach; returns what it prints."""
    paths = [str(HERE / "standins"), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", PRINTED)
def test_example_runs_on_two_ranks(name: str) -> None:
    if "transformers" in name:
        pytest.importorskip("transformers", minversion="5.0")
    printed = run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", EXAMPLES / name)
    assert PRINTED[name] in printed
