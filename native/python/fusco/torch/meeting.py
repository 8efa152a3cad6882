"""Calls of a process group meet over its torch.distributed store: who is late is named, who differs as well."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import torch.distributed as dist
from torch.distributed import distributed_c10d

from .. import __version__
from ..errors import FuscoError
from ..options import count

Notes = Mapping[str, Any]
_MOST_LISTED = 16
_MOST_PARTING_MS = 10_000
# Between two questions to the store.
_SHORTEST_PAUSE_S = 0.0001
_LONGEST_PAUSE_S = 0.004
_DEFAULT_DEADLINE_MS = 60_000


def name_ranks(ranks: Sequence[int]) -> str:
    """`rank 3`, `ranks 0, 1, 2`, at most 16 of them."""
    listed = ", ".join(str(rank) for rank in ranks[:_MOST_LISTED])
    more = f" and {len(ranks) - _MOST_LISTED} more" if len(ranks) > _MOST_LISTED else ""
    return f"rank{'' if len(ranks) == 1 else 's'} {listed}{more}"


class Meeting:
    """Numbered calls of all ranks. Not for several threads at a time.

    After a failure the ranks no longer make the same calls, so every later call raises the same error.
    """

    def __init__(self, store: distributed_c10d.Store, rank: int, ranks: int, deadline_ms: int) -> None:
        self._store = store
        self._rank = rank
        self._ranks = ranks
        self._deadline_ms = deadline_ms
        self._call = -1
        self._failure: Optional[FuscoError] = None
        self._posted: list[str] = []

    def enter(self, what: str, signature: str, notes: Optional[Notes] = None) -> list[Notes]:
        """Waits until all ranks have entered the same call, and returns the notes of each.

        Raises:
            FuscoError: E_PEER_TIMEOUT names the ranks that did not arrive; E_PEER_MISMATCH those that differ
        """
        self._check()
        self._call += 1
        mine = {"what": what, "signature": signature, **(notes or {})}
        self._post("in", mine)
        entered = self._collect("in", what, range(self._ranks))
        # All ranks are here, so all have read what this one posted for the call before.
        for key in self._posted[:-1]:
            self._store.delete_key(key)
        del self._posted[:-1]
        differing = [rank for rank, note in enumerate(entered) if _identity(note) != _identity(mine)]
        if differing:
            rank = differing[0]
            verb = "differs" if len(differing) == 1 else "differ"
            text = f"{name_ranks(differing)} {verb}: {self._difference(mine, rank, entered[rank])}"
            self._part([])
            raise self._fail(FuscoError("E_PEER_MISMATCH", text, rank=rank))
        return entered

    def enter_opening(self, settings: Mapping[str, Any], notes: Optional[Notes] = None) -> list[Notes]:
        """The first call: compares settings, and tells in `host` which ranks share memory."""
        signature = json.dumps({"version": __version__, **settings}, default=int)
        return self.enter("open", signature, {"host": _host_identity(), **(notes or {})})

    def agree(self, what: str, failure: Optional[FuscoError] = None) -> None:
        """Waits for the other ranks. Raises the failure of any of them, on all."""
        entered = self.enter(what, "", report_of(failure))
        if failure is not None:
            raise failure
        for rank, notes in enumerate(entered):
            raise_reported(rank, notes)

    def report(self, notes: Notes) -> None:
        """Tells the other ranks the outcome of the call."""
        self._post("out", notes)

    def outcome(self, what: str, rank: int) -> Notes:
        """Waits for the outcome of the call, which another rank reports. Raises E_PEER_TIMEOUT."""
        return self._collect("out", what, [rank])[0]

    def leave(self) -> None:
        """Ends the calls. Rank 0, whose process usually serves the store, waits until the others need it no more."""
        if self._failure is not None:
            return
        self._failure = FuscoError("E_CLOSED", "the ExpertShuffle is closed")
        try:
            self._store.set(f"left/{self._rank}", "")
            if self._rank == 0:
                # Who does not leave has failed, and says so itself.
                self._wait([f"left/{rank}" for rank in range(self._ranks)], min(_MOST_PARTING_MS, self._deadline_ms))
        except RuntimeError:
            pass  # The store is gone, and with it those who serve it.

    def _wait(self, keys: list[str], most_ms: int, verdict: Optional[str] = None) -> bool:
        """Waits for keys; false if one is not there in time, or when the key of a verdict is there.

        The store is asked again and again: its own wait keeps the connection of the process busy, so that another
        thread could not enter the call of another group which a rank has to make first, and it cannot be interrupted.
        """
        end = time.monotonic() + most_ms / 1000
        pause_s = _SHORTEST_PAUSE_S
        while not self._store.check(keys):
            left_s = end - time.monotonic()
            is_long = pause_s == _LONGEST_PAUSE_S
            if left_s <= 0 or (is_long and verdict is not None and self._store.check([verdict])):
                return False
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return True

    def _get(self, keys: list[str]) -> list[bytes]:
        if self._store.has_extended_api():  # type: ignore[attr-defined]
            return list(self._store.multi_get(keys))
        return [self._store.get(key) for key in keys]

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _fail(self, error: FuscoError) -> FuscoError:
        self._failure = error
        return error

    def _key(self, phase: str, rank: int, call: int) -> str:
        return f"{call}/{phase}/{rank}"

    def _post(self, phase: str, notes: Notes) -> None:
        key = self._key(phase, self._rank, self._call)
        self._posted.append(key)
        try:
            self._store.set(key, json.dumps(notes))
        except RuntimeError as error:
            raise self._fail(self._lost(error)) from error

    def _collect(self, phase: str, what: str, ranks: Sequence[int]) -> list[Notes]:
        """What each of these ranks posted."""
        keys = [self._key(phase, rank, self._call) for rank in ranks]
        verdict = f"{self._call}/late"
        try:
            if self._wait(keys, self._deadline_ms, verdict):
                return [json.loads(value) for value in self._get(keys)]
            # The first rank whose deadline passes decides for all who is late.
            if not self._store.check([verdict]):
                missing = [rank for rank, key in zip(ranks, keys) if not self._store.check([key])]
                # Who arrived just now is too late as well.
                self._store.set(verdict, json.dumps(missing or list(ranks)))
            late = json.loads(self._store.get(verdict))
        except RuntimeError as error:
            raise self._fail(self._lost(error)) from error
        self._part(late)
        raise self._fail(self._late(what, late))

    def _part(self, late: Sequence[int]) -> None:
        """Says that this rank knows why the calls end. Rank 0, whose process usually serves the store, waits until all
        ranks know it that are not late: its process may end next."""
        knows = [self._key("knows", rank, self._call) for rank in range(self._ranks) if rank not in late]
        try:
            self._store.set(self._key("knows", self._rank, self._call), "")
            if self._rank == 0:
                self._wait(knows, min(_MOST_PARTING_MS, self._deadline_ms))
        except RuntimeError:
            pass  # The store is gone; what this rank knows is raised.

    def _difference(self, mine: Notes, rank: int, other: Notes) -> str:
        what, other_what = mine["what"], other["what"]
        if what == other_what == "open":
            ours, theirs = (json.loads(notes["signature"]) for notes in (mine, other))
            name = next(name for name in ours if ours[name] != theirs.get(name))
            return f"{name} is {ours[name]!r} on rank {self._rank} and {theirs.get(name)!r} on rank {rank}"
        ours = f"rank {self._rank} calls {what} {mine['signature']}".rstrip()
        return f"{ours}; rank {rank} calls {other_what} {other['signature']}".rstrip()

    def _late(self, what: str, missing: Sequence[int]) -> FuscoError:
        text = f"{name_ranks(missing)} did not enter call {self._call} ({what}) within {self._deadline_ms} ms"
        return FuscoError("E_PEER_TIMEOUT", text, rank=missing[0])

    def _lost(self, error: RuntimeError) -> FuscoError:
        text = f"the store of the process group does not answer in call {self._call}: {error}"
        return FuscoError("E_PEER_TIMEOUT", " ".join(text.split()))


def _identity(notes: Notes) -> tuple[Any, Any]:
    return notes["what"], notes["signature"]


def open_meeting(process_group: dist.ProcessGroup, name: str, deadline_ms: Optional[int]) -> Meeting:
    """The meeting of a process group over the store of its torch.distributed. Raises E_OPTION."""
    store = distributed_c10d.PrefixStore(name, distributed_c10d._get_default_store())
    rank, ranks = dist.get_rank(process_group), dist.get_world_size(process_group)
    return Meeting(store, rank, ranks, deadline_of(deadline_ms))


def deadline_of(deadline_ms: Optional[int]) -> int:
    """The longest wait for other ranks, in milliseconds: as given, or FUSCO_DEADLINE_MS. Raises E_OPTION."""
    if deadline_ms is not None:
        return count("deadline_ms", deadline_ms, 100, 86_400_000)
    text = os.environ.get("FUSCO_DEADLINE_MS", "")
    if not text:
        return _DEFAULT_DEADLINE_MS
    return count("FUSCO_DEADLINE_MS", int(text) if text.isdigit() else text, 100, 86_400_000)


def report_of(error: Optional[Exception]) -> Notes:
    """What other ranks are told of a failure."""
    if error is None:
        return {}
    return {"code": getattr(error, "code", "E_INTERNAL"), "text": getattr(error, "message", str(error))}


def raise_reported(rank: int, notes: Notes) -> None:
    """Raises the failure that a rank has reported, if there is one."""
    if "code" in notes:
        raise FuscoError(notes["code"], f"rank {rank} reports: {notes['text']}", rank=rank)


def _host_identity() -> str:
    """Equal for processes that share memory."""
    given = os.environ.get("FUSCO_HOSTID")
    if given:
        return given
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    return f"{socket.gethostname()}/{boot}/{os.stat('/dev/shm').st_dev}"
