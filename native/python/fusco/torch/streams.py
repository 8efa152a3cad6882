"""Native calls follow PyTorch's current streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..cuda import CudaContext
from ..errors import FuscoError
from . import accelerator

__all__ = ["Streams"]

# cudaStreamLegacy: the default stream of PyTorch, whose own handle 0 means the stream of the context to native code.
_LEGACY = 1


class Streams:
    """The streams of the ranks of a context. Ranks of one device share PyTorch's current stream.

    A call on another stream than the call before waits for that one, because both use the signals and the landing rows
    of the context. The default streams of several devices have the same handle, by which native code would take them
    for one stream: there calls run on the context's streams, which wait for the default streams before, and for which
    these wait afterwards.

    Not for several threads at a time.
    """

    def __init__(self, context: CudaContext) -> None:
        self._context = context
        self._ranks: dict[int, list[int]] = {}
        for rank, index in enumerate(context.devices):
            self._ranks.setdefault(index, []).append(rank)
        self._set: dict[int, int] = {}
        self._last: dict[int, Any] = {}
        self._own: dict[int, Any] = {}
        self._takes_legacy = len(self._ranks) == 1

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Calls inside follow the work on the current streams, and later work there follows the calls."""
        bridged = [pair for index in self._ranks if (pair := self._follow(index)) is not None]
        try:
            yield
        finally:
            for own, current in bridged:
                current.wait_stream(own)

    def _follow(self, index: int) -> tuple[Any, Any] | None:
        """Sets the stream of a device; returns it with the current stream if these are two."""
        current = accelerator.current_stream(index)
        handle = current.cuda_stream
        if handle == 0 and self._takes_legacy:
            try:
                self._use(index, _LEGACY, current)
                return None
            except FuscoError as error:
                if error.code != "E_BACKEND":
                    raise
                # The driver does not tell the device of this stream.
                self._takes_legacy = False
        if handle == 0:
            own = self._own_stream(index)
            self._use(index, own.cuda_stream, own)
            own.wait_stream(current)
            return own, current
        self._use(index, handle, current)
        return None

    def _use(self, index: int, handle: int, stream: Any) -> None:
        if self._set.get(index) == handle:
            return
        with accelerator.on_device(index):
            for rank in self._ranks[index]:
                self._context.set_stream(rank, handle)
            last = self._last.get(index)
            # A capture begins when all work before it is done; its graph is ordered by whoever launches it.
            if last is not None and not accelerator.is_capturing():
                stream.wait_stream(last)
        self._set[index], self._last[index] = handle, stream

    def _own_stream(self, index: int) -> Any:
        if index not in self._own:
            with accelerator.on_device(index):
                handle = self._context.own_stream(self._ranks[index][0])
            self._set.pop(index, None)
            self._own[index] = accelerator.external_stream(handle, index)
        return self._own[index]
