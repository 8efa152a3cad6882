"""Shared memory between the processes of a machine: one POSIX segment per rank, which its owner writes and others map.

A segment is a file of /dev/shm. Its name is removed in the call after the one in which all ranks have mapped it: from
then on a killed process leaves nothing behind.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import secrets
from multiprocessing.util import Finalize
from typing import Optional

from ..errors import FuscoError

_FOLDER = "/dev/shm"
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


def _create(length: int) -> Mapping:
    name = f"fusco-{os.getpid()}-{secrets.token_hex(8)}"
    try:
        descriptor = os.open(f"{_FOLDER}/{name}", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Reserved at once: a full /dev/shm is an error here and not a bus error at the first store.
            os.posix_fallocate(descriptor, 0, length)
            return Mapping(name, descriptor, length)
        finally:
            os.close(descriptor)
    except OSError as error:
        _unlink(name)
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
            self._mapping = _create(-(-max(length, 1) // _STEP_BYTES) * _STEP_BYTES)
            # Also runs where a process of multiprocessing ends, and never in a fork of this process.
            self._finalizer = Finalize(self, _unlink, (self._mapping.name,), exitpriority=0)
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
