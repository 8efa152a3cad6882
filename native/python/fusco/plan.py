"""A whole plan: made by a planner or read from a file, written to a file, compared with a routing."""

from __future__ import annotations

import ctypes
import hashlib
import os
import tempfile
from collections.abc import Iterable
from ctypes import byref
from typing import Any

from . import _structs as s
from ._library import Handle, call, library
from .errors import FuscoError
from .ids import IdTable, of_each_rank
from .options import PlanOptions, count

__all__ = ["Plan", "load_plan", "parse_plan"]


class Plan:
    """An immutable plan of all ranks. Make one with ``fusco.plan`` or ``fusco.load_plan``.

    Attributes:
        options: the options, every default filled in for plans that were read. Their strategy is never ``auto``.
        reason: why ``auto`` chose the strategy; empty for other strategies. Not part of the plan id.
        shard_bytes: bytes of each rank's shard.
    """

    def __init__(
        self,
        native_options: s.PlanOptions,
        rule: int,
        rail_groups: Any,
        shards: Any,
        owner: Any,
        file: Handle | None = None,
        reason: bytes = b"",
    ) -> None:
        """For this package: `shards` is fusco_buffer[ranks], and `owner` or `file` keeps alive what it points to."""
        self.reason = reason.decode()
        self._native_options = native_options
        self._rule = rule
        self._rail_groups = rail_groups
        self._buffers = shards
        self._owner = owner
        self._file = file
        self.options = PlanOptions.from_native(native_options)
        self._plan_id: str | None = None
        self._reread: Plan | None = None

    @property
    def ranks(self) -> int:
        """Ranks of the plan."""
        return self.options.ranks

    @property
    def shard_bytes(self) -> tuple[int, ...]:
        """Bytes of the shard of each rank."""
        return tuple(buffer.bytes for buffer in self._buffers)

    def shard(self, rank: int) -> memoryview:
        """The bytes of a rank's shard, read-only; valid as long as the plan. Raises E_OPTION for an unknown rank."""
        buffer = self._buffers[count("rank", rank, 0, self.options.ranks - 1)]
        return memoryview((ctypes.c_char * buffer.bytes).from_address(buffer.data)).toreadonly()

    def shard_digest(self, rank: int) -> str:
        """SHA-256 of a rank's shard, in hex: the digest that the header of a plan file names."""
        return hashlib.sha256(self.shard(rank)).hexdigest()

    def plan_id(self) -> str:
        """SHA-256 of the options, decisions and shards, in hex: the id that ``fusco inspect`` prints."""
        if self._plan_id is None:
            self._plan_id = self.reread().plan_id()
        return self._plan_id

    def reread(self) -> Plan:
        """The plan as its file states it, with every default filled in; a plan that was read is itself."""
        if self._file is not None:
            return self
        if self._reread is None:
            # Ids are computed, and defaults stated, where plan files are made.
            self._reread = parse_plan(self.file_bytes())
        return self._reread

    def file_bytes(self) -> bytes:
        """The bytes of the plan file."""
        with tempfile.TemporaryDirectory(prefix="fusco-") as folder:
            path = os.path.join(folder, "plan.fusco")
            self.save(path)
            with open(path, "rb") as file:
                return file.read()

    def save(self, path: str | os.PathLike[str]) -> str:
        """Writes the plan file, under a temporary name that is renamed at the end, and returns the plan id.

        Raises:
            FuscoError: E_FILE_WRITE
        """
        info = s.sized(
            s.PlanFileInfo,
            options=ctypes.pointer(self._native_options),
            rail_groups=self._rail_groups,
            shards=ctypes.cast(self._buffers, ctypes.POINTER(s.Buffer)),
            rule=self._rule,
            reason=self.reason.encode(),
        )
        plan_id = (ctypes.c_uint8 * 32)()
        call(library.fusco_plan_file_write, os.fsencode(path), byref(info), plan_id)
        self._plan_id = bytes(plan_id).hex()
        return self._plan_id

    def check_routing(self, tables: Iterable[Any]) -> None:
        """Proves that this is the plan of a routing.

        Args:
            tables: the ids of each rank, [tokens, topk]: see IdTable.

        Raises:
            FuscoError: E_RANKS; E_ENTRY names the rank and the first entry that differs; E_ROUTING_*
        """
        opened = [IdTable(table, self.options.topk) for table in of_each_rank("the routing", tables)]
        if len(opened) != self.ranks:
            raise FuscoError("E_RANKS", f"{len(opened)} routing tables for {self.ranks} ranks")
        ids = (s.Ids * len(opened))(*[table.to_native() for table in opened])
        file = self.reread()._file
        assert file is not None
        call(library.fusco_plan_file_check_routing, file.pointer, ids)

    def description(self) -> s.PlanDesc:
        """What a backend prepares the plan from; valid as long as the plan."""
        options = self._native_options
        return s.sized(
            s.PlanDesc,
            ranks=options.ranks,
            ranks_per_node=options.ranks_per_node,
            strategy=options.strategy,
            partial=options.partial,
            sum=options.sum,
            shards=ctypes.cast(self._buffers, ctypes.POINTER(s.Buffer)),
        )


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """Reads and verifies a plan file, for example one that ``fusco plan`` wrote.

    Raises:
        FuscoError: E_FILE_NOT_FOUND, E_FILE_READ; E_PLAN_*, E_SHARD_* and others if it is no valid plan
    """
    file = Handle(library.fusco_plan_file_close)
    call(library.fusco_plan_file_open, os.fsencode(path), byref(file.pointer))
    return _plan_of(file)


def parse_plan(data: bytes | memoryview) -> Plan:
    """Verifies the bytes of a plan file, which are copied. Raises as load_plan."""
    file = Handle(library.fusco_plan_file_close)
    copy = bytes(data)
    call(library.fusco_plan_file_parse, ctypes.c_char_p(copy), len(copy), byref(file.pointer))
    return _plan_of(file)


def _plan_of(file: Handle) -> Plan:
    info = s.sized(s.PlanFileInfo)
    call(library.fusco_plan_file_describe, file.pointer, byref(info))
    options = info.options.contents
    shards = (s.Buffer * options.ranks).from_address(ctypes.addressof(info.shards.contents))
    plan = Plan(options, info.rule, info.rail_groups, shards, None, file, info.reason)
    plan._plan_id = bytes(info.plan_id).hex()
    return plan
