"""All ranks in this process, on one or several GPUs."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from ..cuda import CudaContext, CudaPlanner
from ..device_plan import DeviceIds, DevicePlan
from ..errors import FuscoError
from ..exchanges import Buffers
from ..options import PlanOptions
from .calls import Call
from .device_memory import DeviceMemory
from .groups import RowWork
from .streams import Streams

__all__ = ["CudaRanks", "rows_of_device"]


class CudaRanks:
    """The transport of a group whose ranks all live in this process.

    Args:
        options: of the plans.
        max_tokens: of a rank.
        max_recv_rows: rows of a rank's receive buffer, or 0.
        devices: number of each rank's GPU.
        sms: most SMs of a device that exchanges occupy; 0: the default.

    Raises:
        FuscoError: E_BACKEND, E_OPTION, E_LIMIT
    """

    def __init__(
        self, options: PlanOptions, max_tokens: int, max_recv_rows: int, devices: Sequence[int], sms: int
    ) -> None:
        self.local_ranks = range(len(devices))
        self.devices = tuple(devices)
        self._context = CudaContext(devices)
        self._context.limit_sms(sms)
        self._streams = Streams(self._context)
        self._planner = CudaPlanner(self._context, options, max_tokens, max_recv_rows)
        of_device = {index: _memory_on(self._context, rank) for rank, index in enumerate(devices)}
        self.memory = [of_device[index] for index in devices]
        self.has_peers = len(of_device) > 1

    def followed(self) -> AbstractContextManager[None]:
        """Calls inside follow PyTorch's current streams."""
        return self._streams.followed()

    def plan(self, ids: Sequence[DeviceIds], buffers: Buffers) -> DevicePlan:
        """Enqueues planning."""
        return self._planner.plan(ids, buffers)

    def attach(self, buffers: Buffers) -> DevicePlan:
        """The plan in plan buffers that are filled."""
        return self._planner.attach(buffers)

    def execute(self, plan: DevicePlan, call: Call, at: Mapping[str, Buffers]) -> None:
        """Enqueues a call."""
        call.run(plan, at)

    def check(self) -> None:
        """Raises what exchanges have recorded until now, without waiting."""
        self._context.check()

    def clear_rows(self, part: int, rows: tuple[int, int], row_bytes: int, first: int) -> None:
        """Enqueues zeros into the rows from the u32 at `first` on."""
        self._context.clear_rows(part, rows, row_bytes, first)

    def row_work(self, part: int) -> RowWork:
        """Work on the rows of a rank."""
        return self._context.row_work(part)

    def gather(self, what: str, local: Sequence[bytes]) -> list[bytes]:
        """The bytes of all ranks."""
        return list(local)

    def agree(self, what: str, failure: FuscoError | None = None) -> None:
        """Waits for the other ranks: there are none. Raises the failure."""
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Releases the planner. Memory is freed when no tensor uses it any more."""
        self._planner.close()


def _memory_on(context: CudaContext, rank: int) -> DeviceMemory:
    return DeviceMemory(context.devices[rank], lambda length: context.alloc(rank, length))


@contextmanager
def rows_of_device(index: int) -> Iterator[RowWork]:
    """Work on rows of a GPU on PyTorch's current stream, without a group."""
    context, streams, turn = _context_on(index, os.getpid())
    with turn, streams.followed():
        yield context.row_work(0)


@functools.cache
def _context_on(index: int, process: int) -> tuple[CudaContext, Streams, threading.Lock]:
    context = CudaContext([index])
    return context, Streams(context), threading.Lock()
