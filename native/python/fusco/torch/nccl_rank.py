"""One rank per process, each with a GPU, on one machine.

The processes meet over the store of torch.distributed to open a group. After that kernels find each other through the
memory that they map: no call asks the store, except those that say so.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Optional

import torch.distributed as dist

from ..cuda import CudaContext, device_count
from ..device_plan import DeviceIds, DevicePlan
from ..errors import FuscoError
from ..exchanges import Buffers
from ..nccl import NcclGroup, NcclPlan, NcclPlanner, open_nccl, unique_id
from ..options import PlanOptions
from . import accelerator
from .calls import Call
from .device_memory import DeviceMemory
from .groups import RowWork
from .meeting import Notes, deadline_of, name_ranks, open_meeting
from .streams import Streams

__all__ = ["NcclRank", "loaded_nccl"]


class NcclRank:
    """The transport of a process group. Collective: all ranks make it, with the same settings.

    Args:
        process_group: of torch.distributed, any backend; its store is where the processes meet.
        name: of the group.
        settings: what must be identical on all ranks.
        options: of the plans.
        max_tokens: of a rank.
        max_recv_rows: rows of a rank's receive buffer, or 0.
        device: number of this process's GPU; None: the current one.
        sms: most SMs that exchanges occupy; 0: the default.
        deadline_ms: longest wait for other ranks, 100..86400000; None: FUSCO_DEADLINE_MS.

    Raises:
        FuscoError: E_BACKEND if a process has no GPU, shares it, or is on another machine, or NCCL cannot be opened;
            E_PEER_TIMEOUT, E_PEER_MISMATCH; E_OPTION, E_LIMIT
    """

    def __init__(
        self,
        process_group: dist.ProcessGroup,
        name: str,
        settings: Mapping[str, Any],
        options: PlanOptions,
        max_tokens: int,
        max_recv_rows: int,
        device: Optional[int],
        sms: int,
        deadline_ms: Optional[int],
    ) -> None:
        rank = dist.get_rank(process_group)
        self.local_ranks = (rank,)
        self._meeting = open_meeting(process_group, name, deadline_ms)
        index, notes = _find_gpu(device)
        hello = self._meeting.enter_opening(settings, notes)
        _check_places(rank, hello)
        self.devices = (index,)
        made = {"id": unique_id().hex(), "mailbox": secrets.token_hex(8)} if rank == 0 else {}
        shared = self._meeting.enter("open NCCL", "", made)[0]
        with accelerator.on_device(index):
            self._context = CudaContext([index])
            self._context.limit_sms(sms)
            self._group = NcclGroup(
                self._context,
                rank,
                [0] * len(hello),
                f"/fusco-{shared['mailbox']}",
                bytes.fromhex(shared["id"]),
                deadline_of(deadline_ms),
            )
            self._streams = Streams(self._context)
            with self._streams.followed():
                self._planner = NcclPlanner(self._group, options, max_tokens, max_recv_rows)
        self.memory = (DeviceMemory(index, _registered(self._context, self._group)),)
        self.has_peers = True

    def followed(self) -> AbstractContextManager[None]:
        """Calls inside follow PyTorch's current stream."""
        return self._streams.followed()

    def plan(self, ids: Sequence[DeviceIds], buffers: Buffers) -> DevicePlan:
        """Enqueues planning, collectively."""
        return self._planner.plan(ids[0], buffers[0])

    def attach(self, buffers: Buffers) -> DevicePlan:
        """The plan in a plan buffer that is filled."""
        return self._planner.attach(buffers[0])

    def execute(self, plan: DevicePlan, call: Call, at: Mapping[str, Buffers]) -> None:
        """Enqueues a call, collectively."""
        assert isinstance(plan, NcclPlan)
        plan.what = f"{call.name} {call.signature}"
        call.run(plan, at)

    def check(self) -> None:
        """Raises what exchanges have recorded until now, without waiting."""
        self._group.check()

    def clear_rows(self, part: int, rows: tuple[int, int], row_bytes: int, first: int) -> None:
        """Enqueues zeros into the rows from the u32 at `first` on."""
        self._context.clear_rows(0, rows, row_bytes, first)

    def row_work(self, part: int) -> RowWork:
        """Work on the rows of this rank."""
        return self._context.row_work(0)

    def gather(self, what: str, local: Sequence[bytes]) -> list[bytes]:
        """The bytes of all ranks. Collective; waits."""
        with self._streams.followed():
            return self._group.gather(what, local[0])

    def agree(self, what: str, failure: FuscoError | None = None) -> None:
        """Waits for the other ranks, over the store. Raises the failure of any of them, on all."""
        self._meeting.agree(what, failure)

    def close(self) -> None:
        """Leaves the group. Rank 0 waits a while for the other ranks to close as well.

        Memory is freed when no tensor uses it any more.
        """
        self._planner.close()
        self._group.close()
        self._meeting.leave()


def _registered(context: CudaContext, group: NcclGroup) -> Callable[[int], int]:
    """Allocates memory that the other ranks have mapped."""

    def allocate(length: int) -> int:
        address = context.alloc(0, length)
        group.register([(address, length)])
        return address

    return allocate


def loaded_nccl() -> str | None:
    """Path of the NCCL that PyTorch has loaded into this process; None if there is none, or FUSCO_NCCL_PATH is set."""
    if os.environ.get("FUSCO_NCCL_PATH"):
        return None
    with open("/proc/self/maps") as maps:
        for line in maps:
            path = line.partition("/")
            if os.path.basename(path[2].strip()).startswith("libnccl.so"):
                return "/" + path[2].strip()
    return None


def _find_gpu(device: Optional[int]) -> tuple[int, dict[str, Any]]:
    """Number of this process's GPU, and what the other ranks must know; the reason if there is none."""
    try:
        count = device_count()
        if not accelerator.is_available():
            raise FuscoError("E_BACKEND", "this PyTorch does not use GPUs")
        index = accelerator.current_device() if device is None else device
        if index >= count:
            raise FuscoError("E_BACKEND", f"there is no GPU {index}: this process has {count}")
        version, _ = open_nccl(loaded_nccl())
        return index, {
            "gpu": accelerator.identity(index),
            "nccl": version,
            "poses as": os.environ.get("NCCL_HOSTID", ""),
        }
    except FuscoError as error:
        return -1, {"reason": error.message}


def _check_places(rank: int, hello: list[Notes]) -> None:
    """Raises E_BACKEND, the same on all ranks, unless each rank has a GPU of its own and NCCL is the same."""
    for peer, notes in enumerate(hello):
        if "reason" in notes:
            raise FuscoError("E_BACKEND", f"rank {peer} cannot run the nccl backend: {notes['reason']}", rank=peer)
    elsewhere = [peer for peer, notes in enumerate(hello) if notes["host"] != hello[0]["host"]]
    if elsewhere:
        raise FuscoError(
            "E_BACKEND",
            f"{name_ranks(elsewhere)} run on another machine than rank 0",
            rank=elsewhere[0],
            hint="This version of the nccl backend connects GPUs of one machine; give it a group of one machine.",
        )
    seen: dict[tuple[str, str], int] = {}
    for peer, notes in enumerate(hello):
        if notes["nccl"] != hello[0]["nccl"]:
            text = f"rank {peer} has NCCL {notes['nccl']}, rank 0 has {hello[0]['nccl']}"
            raise FuscoError("E_PEER_MISMATCH", text, rank=peer)
        # Processes that pose as several machines may share a GPU, in tests.
        other = seen.setdefault((notes["gpu"], notes["poses as"]), peer)
        if other != peer:
            raise FuscoError(
                "E_BACKEND",
                f"ranks {other} and {peer} share the GPU {notes['gpu']}",
                rank=peer,
                hint="Call torch.cuda.set_device(local_rank) in each process before it makes the ExpertShuffle.",
            )
