"""Records the routing of every step in files that ``fusco plan`` reads, as executor/training/recorder.ts does.

    recording/
      index.jsonl            one line a step
      step-000000/rank0.npy  ids [tokens, topk] of rank 0

A step is recorded when its line is complete. Before that its directory is written under another name, synced and
renamed, so that a crash leaves complete steps and at most one directory that no line names, which the next recorder
removes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import FuscoError
from .options import DTYPE_BYTES, PlanOptions
from .plan import Plan

__all__ = ["Recorder"]

FORMAT_VERSION = 1
_INDEX = "index.jsonl"
_UNFINISHED = ".unfinished-"
_STEP = re.compile(r"step-\d{6,}")


class Recorder:
    """Starts a recording in a directory, or continues the one that is there. A context manager.

    Raises:
        FuscoError: E_FILE_WRITE if the directory cannot be made or written; E_FILE_READ if its index is broken
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.closed = False
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._index = open(self.path / _INDEX, "a+b")
            steps = self._repair()
        except OSError as error:
            raise _write_error(self.path, error) from error
        self._step = steps[-1]["step"] + 1 if steps else 0

    def add(self, tables: Sequence[Any], plan: Plan) -> None:
        """Writes a step.

        Args:
            tables: ids of every rank, NumPy arrays [tokens, topk].
            plan: the plan of these ids.

        Raises:
            FuscoError: E_CLOSED; E_FILE_WRITE
        """
        if self.closed:
            raise FuscoError("E_CLOSED", "the recorder is closed", hint="Start another recording.")
        directory = f"step-{self._step:06d}"
        try:
            recorded = self._write_tables(directory, tables)
            line = {
                "formatVersion": FORMAT_VERSION,
                "step": self._step,
                "directory": directory,
                "planId": plan.plan_id(),
                "options": json_options(plan),
                "tables": recorded,
            }
            self._index.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
            self._index.flush()
            os.fsync(self._index.fileno())
        except OSError as error:
            raise _write_error(self.path, error) from error
        self._step += 1

    def close(self) -> None:
        """Ends the recording. Closing twice is harmless."""
        if not self.closed:
            self.closed = True
            self._index.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_tables(self, directory: str, tables: Sequence[Any]) -> list[dict[str, Any]]:
        import numpy

        unfinished = self.path / f"{_UNFINISHED}{secrets.token_hex(8)}"
        unfinished.mkdir()
        recorded = []
        for rank, table in enumerate(tables):
            file = io.BytesIO()
            numpy.save(file, table)
            data = file.getvalue()
            _write_synced(unfinished / f"rank{rank}.npy", data)
            recorded.append(
                {
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "dtype": f"{table.dtype.kind}{8 * table.dtype.itemsize}",
                    "tokens": table.shape[0],
                    "topk": table.shape[1],
                }
            )
        _sync_directory(unfinished)
        unfinished.rename(self.path / directory)
        _sync_directory(self.path)
        return recorded

    def _repair(self) -> list[dict[str, Any]]:
        """The steps of the whole lines; what a crash left behind is removed."""
        self._index.seek(0)
        data = self._index.read()
        whole = data.rfind(b"\n") + 1
        steps = [_parse(line, self.path / _INDEX, i + 1) for i, line in enumerate(data[:whole].splitlines())]
        self._index.truncate(whole)
        named = {step["directory"] for step in steps}
        for entry in self.path.iterdir():
            is_ours = entry.name.startswith(_UNFINISHED) or _STEP.fullmatch(entry.name)
            if is_ours and entry.name not in named:
                shutil.rmtree(entry)
        return steps


def json_options(plan: Plan) -> dict[str, Any]:
    """The options of a plan as the TypeScript planner takes them; it omits the same ones at their default."""
    options = resolved(plan)
    assert options.hidden is not None and options.slice_rows is not None
    flat = options.strategy == "flat"
    replicated = any(not isinstance(entry, int) for entry in options.placement)
    default_combine = "bf16" if options.dtype == "fp8" else options.dtype
    made: dict[str, Any] = {
        "experts": options.experts,
        "ranks": options.ranks,
        "ranksPerNode": options.ranks_per_node,
        "hidden": options.hidden,
        "dtype": options.dtype,
        "align": options.align,
        "capacity": options.capacity,
        "strategy": options.strategy,
        "tileTokens": options.tile_tokens,
        "placement": [entry if isinstance(entry, int) else list(entry) for entry in options.placement],
    }
    if not flat and options.sum != "node":
        made["sum"] = options.sum
    if replicated and options.replicas != "quota-1":
        made["replicas"] = options.replicas
    if options.combine_dtype != default_combine:
        made["combineDtype"] = options.combine_dtype
    made["sliceBytes"] = options.slice_rows * options.hidden * DTYPE_BYTES[options.dtype]
    if not flat:
        made |= {"balance": options.balance, "partial": options.partial}
    return made


def resolved(plan: Plan) -> PlanOptions:
    """The options of a plan with every default filled in, as its file states them."""
    return plan.reread().options


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        step = json.loads(line)
        if step["formatVersion"] == FORMAT_VERSION and _STEP.fullmatch(step["directory"]) and step["step"] >= 0:
            return dict(step)
    except (ValueError, KeyError, TypeError):
        pass
    raise FuscoError("E_FILE_READ", f"{path}:{number}: the line is not that of a step")


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    """Makes a rename inside the directory durable. File systems that cannot sync a directory are skipped."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _write_error(path: Path, error: OSError) -> FuscoError:
    return FuscoError("E_FILE_WRITE", f"{path}: {error.strerror or error}")
