"""The command line of the checkout, for tests that compare with it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import configuration

ROOT = Path(__file__).resolve().parents[3]
configuration.set_hypothesis_home_dir(ROOT / "build" / "python" / "hypothesis")
_LAUNCHER = ROOT / "tools" / "fusco.js"


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
