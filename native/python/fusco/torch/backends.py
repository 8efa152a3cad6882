"""Which backend runs a group, and where its ranks live."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Optional

import torch
import torch.distributed as dist

from ..errors import FuscoError
from ..options import PlanOptions, choice, count
from . import accelerator
from .cuda_ranks import CudaRanks
from .device_group import DeviceGroup
from .groups import Group
from .host_group import HostGroup
from .local_ranks import LocalRanks
from .meeting import deadline_of

BACKENDS = ("host", "cuda", "nccl")

# Objects of one process with the same group are told apart by their number, which is the same on all ranks.
_numbers = itertools.count()
_group_numbers: dict[str, itertools.count[int]] = {}


class Choices(NamedTuple):
    """What the caller said about backend and ranks; None: nothing.

    Attributes:
        process_group: one rank per process of it.
        ranks: ranks that all live in this process.
        backend: ``host``, ``cuda`` or ``nccl``.
        devices: GPU of each local rank, or a single one for all.
        threads: of an exchange of the host backend.
        sms: most SMs of a GPU that exchanges occupy.
        deadline_ms: longest wait for other ranks.
    """

    process_group: Optional[dist.ProcessGroup]
    ranks: Optional[int]
    backend: Optional[str]
    devices: Any
    threads: int
    sms: int
    deadline_ms: Optional[int]


class Opening(NamedTuple):
    """A group that is about to be made.

    Attributes:
        backend: that was chosen.
        ranks: of the group.
        choices: with the process group filled in.
    """

    backend: str
    ranks: int
    choices: Choices

    def make(self, options: PlanOptions, max_tokens: int, settings: Mapping[str, Any]) -> Group:
        """Makes the group, collectively.

        Args:
            options: of its plans, with max_rows.
            max_tokens: of a rank.
            settings: what must be identical on all ranks.

        Raises:
            FuscoError: E_OPTION, E_PLACEMENT, E_LIMIT; E_BACKEND; E_PEER_TIMEOUT, E_PEER_MISMATCH
        """
        group = self.choices.process_group
        if self.ranks == 1 or group is None or dist.get_world_size(group) == 1:
            return self._in_this_process(options, max_tokens)
        base = f"fusco.{group.group_name}"
        name = f"{base}.{next(_group_numbers.setdefault(base, itertools.count()))}"
        return self._per_process(group, name, options, max_tokens, settings)

    def _in_this_process(self, options: PlanOptions, max_tokens: int) -> Group:
        name = f"fusco.local.{next(_numbers)}"
        if self.backend == "host":
            return HostGroup(name, options, max_tokens, LocalRanks(self.ranks, self.choices.threads))
        bound, unbounded = options.max_rows, replace(options, max_rows=0)
        devices = _devices_of(self.choices.devices, self.ranks)
        ranks = CudaRanks(unbounded, max_tokens, bound, devices, self.choices.sms)
        return DeviceGroup(name, unbounded, max_tokens, bound, ranks)

    def _per_process(
        self, group: dist.ProcessGroup, name: str, options: PlanOptions, max_tokens: int, settings: Mapping[str, Any]
    ) -> Group:
        _, _, _, devices, threads, sms, deadline_ms = self.choices
        if self.backend == "host":
            from .processes import HostProcesses

            transport = HostProcesses(group, name, settings, threads, deadline_ms)
            return HostGroup(name, options, max_tokens, transport)
        from .nccl_rank import NcclRank

        bound, unbounded = options.max_rows, replace(options, max_rows=0)
        device = None if devices is None else _devices_of(devices, 1)[0]
        rank = NcclRank(group, name, settings, unbounded, max_tokens, bound, device, sms, deadline_ms)
        return DeviceGroup(name, unbounded, max_tokens, bound, rank)


def choose(choices: Choices) -> Opening:
    """Chooses backend and ranks. Raises E_BACKEND, E_OPTION."""
    process_group, ranks = choices.process_group, choices.ranks
    if process_group is None and ranks is None and dist.is_available() and dist.is_initialized():
        process_group = dist.group.WORLD
    groups = (dist.ProcessGroup, type(dist.GroupMember.NON_GROUP_MEMBER))
    if process_group is not None and not isinstance(process_group, groups):
        raise FuscoError(
            "E_OPTION",
            f"process_group is a {type(process_group).__name__}",
            hint="Give a group of torch.distributed, or leave it out.",
        )
    size = 1 if process_group is None else dist.get_world_size(process_group)
    if size < 1:
        raise FuscoError(
            "E_OPTION", "this process is no member of the process group", hint="Make the object on its members only."
        )
    if ranks is not None and size > 1:
        raise FuscoError(
            "E_OPTION",
            f"ranks={ranks} and a process group of {size} processes",
            hint="Give ranks to hold all ranks in this process, or a process group to hold one.",
        )
    backend = choices.backend or _default_backend(process_group, size)
    choice("backend", backend, BACKENDS)
    # One rank needs no NCCL.
    if backend == "nccl" and size == 1:
        if count("ranks", 1 if ranks is None else ranks, 1, 4096) > 1:
            raise FuscoError("E_OPTION", "the nccl backend has one rank per process", hint="Give a process group.")
        backend = "cuda"
    if backend == "cuda" and size > 1:
        raise FuscoError(
            "E_OPTION", f"the cuda backend has all ranks in one process, not in {size}", hint="Use backend='nccl'."
        )
    _check_numbers(choices, backend)
    local = count("ranks", 1 if ranks is None else ranks, 1, 4096) if size == 1 else size
    return Opening(backend, local, choices._replace(process_group=process_group))


def _check_numbers(choices: Choices, backend: str) -> None:
    count("threads", choices.threads, 0, 1024)
    count("sms", choices.sms, 0, 0xFFFF)
    if choices.deadline_ms is not None:
        deadline_of(choices.deadline_ms)
    if backend == "host" and (choices.sms != 0 or choices.devices is not None):
        name = "sms" if choices.sms != 0 else "devices"
        raise FuscoError("E_OPTION", f"{name} is an option of the cuda and the nccl backend", hint="Give a backend.")


def _default_backend(process_group: Optional[dist.ProcessGroup], size: int) -> str:
    """The backend for the tensors that the process group or the default device suggests."""
    if process_group is not None:
        uses_gpus = "nccl" in str(dist.get_backend_config(process_group)) and accelerator.is_available()
        return "host" if not uses_gpus else "nccl" if size > 1 else "cuda"
    return "cuda" if torch.get_default_device().type == accelerator.DEVICE_TYPE else "host"


def _devices_of(devices: Any, ranks: int) -> list[int]:
    """The GPU of each rank: as given, or the current one for all. Raises E_OPTION, E_BACKEND."""
    if devices is None:
        if not accelerator.is_available():
            raise FuscoError("E_BACKEND", "this PyTorch does not use GPUs, or there is none")
        devices = accelerator.current_device()
    listed: Sequence[Any] = devices if isinstance(devices, (list, tuple, range)) else [devices] * ranks
    if len(listed) != ranks:
        raise FuscoError("E_OPTION", f"devices lists {len(listed)} GPUs for {ranks} ranks")
    return [count("a device", getattr(each, "index", each), 0, 0xFFFF) for each in listed]


__all__ = ["BACKENDS", "Choices", "Opening", "choose"]
