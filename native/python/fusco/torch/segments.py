"""Shared memory between the processes of a machine: one POSIX segment per rank, which its owner writes and others map.

A segment is a file of /dev/shm. Its name is removed as soon as all ranks have mapped it: from then on a killed process
leaves nothing behind. Until then its owner holds a lock on it, which ends with the process, so that the next group of
any process can remove the names that killed ones left.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import re
import secrets
from multiprocessing.util import Finalize
from typing import Optional

from ..errors import FuscoError

_FOLDER = "/dev/shm"
_NAME = re.compile(r"fusco-[0-9]+-[0-9a-f]{16}\.segment")
#: Segments grow in steps, so that a slightly longer call needs no new one.
_STEP_BYTES = 1 << 20


class Mapping:
    """Mapped memory of a segment.

    Attributes:
        name: of the segment, while it has one.
        bytes: its length.
        address: of its first byte in this process.
    """

    def __init__(self, name: str, descriptor: int, length: int) -> None:
        self.name = name
        self.bytes = length
        self._memory = mmap.mmap(descriptor, length)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))


def _unlink(name: str) -> None:
    try:
        os.unlink(f"{_FOLDER}/{name}")
    except FileNotFoundError:
        pass


def _release(name: str, descriptor: int) -> None:
    _unlink(name)
    os.close(descriptor)


def remove_abandoned() -> None:
    """Removes the names of segments whose processes were killed: nobody holds their locks."""
    for name in os.listdir(_FOLDER) if os.path.isdir(_FOLDER) else ():
        if not _NAME.fullmatch(name):
            continue
        try:
            descriptor = os.open(f"{_FOLDER}/{name}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue  # Another user's, or removed just now.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _unlink(name)
        except BlockingIOError:
            pass  # Its owner lives.
        finally:
            os.close(descriptor)


def _lock_new() -> tuple[str, int]:
    """A new file and its descriptor, which holds the lock. Raises OSError."""
    while True:
        name = f"fusco-{os.getpid()}-{secrets.token_hex(8)}.segment"
        descriptor = os.open(f"{_FOLDER}/{name}", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink > 0:
            return name, descriptor
        # Another process took it for an abandoned one before it was locked.
        os.close(descriptor)


def _create(length: int) -> tuple[Mapping, int]:
    """A new segment, and the descriptor that holds its lock. Raises E_MEMORY."""
    made: Optional[tuple[str, int]] = None
    try:
        made = _lock_new()
        # Reserved at once: a full /dev/shm is an error here and not a bus error at the first store.
        os.posix_fallocate(made[1], 0, length)
        return Mapping(*made, length), made[1]
    except OSError as error:
        if made is not None:
            _release(*made)
        raise FuscoError(
            "E_MEMORY", f"{length} bytes of shared memory in {_FOLDER}: {error.strerror}", value=length
        ) from error


def _open(name: str, length: int) -> Mapping:
    try:
        descriptor = os.open(f"{_FOLDER}/{name}", os.O_RDWR | os.O_CLOEXEC)
        try:
            return Mapping(name, descriptor, length)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise FuscoError(
            "E_BACKEND",
            f"the shared memory {name} of another rank cannot be mapped: {error.strerror}",
            hint="Look for an error of that rank first. Otherwise let the containers of all ranks share /dev/shm.",
        ) from error


class OwnSegment:
    """The segment of this rank; it grows when a call needs more."""

    def __init__(self) -> None:
        self._mapping: Optional[Mapping] = None
        self._finalizer: Optional[Finalize] = None

    def reserve(self, length: int) -> Mapping:
        """A mapping of at least `length` bytes. Raises E_MEMORY."""
        if self._mapping is None or self._mapping.bytes < length:
            self.unlink()
            self._mapping, lock = _create(-(-max(length, 1) // _STEP_BYTES) * _STEP_BYTES)
            # Also runs where a process of multiprocessing ends, and never in a fork of this process.
            self._finalizer = Finalize(self, _release, (self._mapping.name, lock), exitpriority=0)
        return self._mapping

    @property
    def is_named(self) -> bool:
        """Whether the segment still has a name, by which others can map it."""
        return self._finalizer is not None

    def unlink(self) -> None:
        """Removes the name: all ranks have mapped the segment, or nobody will."""
        if self._finalizer is not None:
            self._finalizer()
            self._finalizer = None


class PeerSegments:
    """The segments of other ranks, mapped once each."""

    def __init__(self) -> None:
        self._mapped: dict[int, Mapping] = {}

    def open(self, rank: int, name: str, length: int) -> Mapping:
        """The segment that a rank names in this call. Raises E_BACKEND."""
        found = self._mapped.get(rank)
        if found is None or found.name != name:
            found = self._mapped[rank] = _open(name, length)
        return found

    def close(self) -> None:
        """Unmaps all."""
        self._mapped.clear()
