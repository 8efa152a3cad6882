"""Runs a function on several ranks: processes of this machine that share a gloo group."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

#: Imported once, in the server from which all ranks are forked.
PRELOADED = [
    "torch",
    "fusco.torch",
    "transformers.models.mixtral.modeling_mixtral",
    "transformers.models.qwen3_moe.modeling_qwen3_moe",
]


def run_ranks(ranks: int, function: Callable[..., Any], *args: Any, timeout_s: float = 120) -> list[Any]:
    """Results of `function(*args)` on each of the ranks of a new gloo group; fails with the traceback of a rank."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        jobs = (ranks, folder, function, args)
        processes = [context.Process(target=_rank, args=(rank, *jobs)) for rank in range(ranks)]
        for process in processes:
            process.start()
        late = _join(processes, timeout_s)
        for process in processes:
            process.kill()
        failures = [path.read_text() for path in sorted(Path(folder).glob("*.failed"))]
        if failures or late:
            raise AssertionError("\n".join([*failures, f"ranks {late} did not end in {timeout_s} s" if late else ""]))
        return [torch.load(f"{folder}/{rank}.result", weights_only=False) for rank in range(ranks)]


def _join(processes: list[BaseProcess], timeout_s: float) -> list[int]:
    """Waits until all processes have ended or one has failed; returns the late ranks."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end and all(process.exitcode in (None, 0) for process in processes):
        running = [process.sentinel for process in processes if process.exitcode is None]
        if not running:
            return []
        wait(running, end - time.monotonic())
    failed = any(process.exitcode for process in processes)
    return [] if failed else [rank for rank, process in enumerate(processes) if process.exitcode is None]


def _rank(rank: int, ranks: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks, timeout=timedelta(seconds=60)
        )
        torch.save(function(*args), f"{folder}/{rank}.result")
        dist.destroy_process_group()
    except BaseException:
        Path(folder, f"{rank}.failed").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        os._exit(1)
