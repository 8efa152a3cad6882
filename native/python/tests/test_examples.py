"""Every example of a framework runs as its head says, on two ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
PRINTED = {
    "shard_transformers.py": "parameters, unsharded",
    "megatron_dispatcher.py": "rank 1:",
    "torchtitan_dispatcher.py": "rank 1:",
    "sglang_dispatcher.py": "rank 1:",
}


@pytest.mark.parametrize("name", PRINTED)
def test_example_runs_on_two_ranks(name: str) -> None:
    if "transformers" in name:
        pytest.importorskip("transformers", minversion="5.0")
    paths = [str(HERE / "standins"), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", EXAMPLES / name]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert PRINTED[name] in done.stdout
