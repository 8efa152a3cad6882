"""What tests of several files use: routings drawn without the code under test, and the command line of the checkout."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy
import pytest
from hypothesis import configuration

ROOT = Path(__file__).resolve().parents[3]
configuration.set_hypothesis_home_dir(ROOT / "build" / "python" / "hypothesis")
_LAUNCHER = ROOT / "tools" / "fusco.js"


def draw_ids(seed, tokens, topk, experts, masked=0.0):
    """int32 [tokens, topk]: distinct experts per token, some masked."""
    rng = numpy.random.default_rng(seed)
    ids = numpy.empty((tokens, topk), dtype=numpy.int32)
    for token in range(tokens):
        ids[token] = rng.permutation(experts)[:topk]
    ids[rng.random(ids.shape) < masked] = -1
    return ids


def run_fusco(*arguments):
    """Runs the command line; returns what it prints."""
    command = ["node", str(_LAUNCHER), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def run_json(*arguments):
    return json.loads(run_fusco(*arguments, "--json"))


@pytest.fixture(scope="session")
def fusco_cli():
    """The command line of the checkout, built."""
    if shutil.which("node") is None or not (ROOT / "dist" / "tools").exists():
        pytest.skip("needs node and a built checkout: npm ci")
    return run_fusco
