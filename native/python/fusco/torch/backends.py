"""Which backend runs a group: the one place where others than host will come in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Optional

import torch.distributed as dist

from ..errors import FuscoError
from ..options import choice, count
from .groups import Transport
from .local_ranks import LocalRanks

BACKENDS = ("host", "cuda", "nccl")

# Objects of one process with the same group are told apart by their number, which is the same on all ranks.
_numbers = itertools.count()
_group_numbers: dict[str, itertools.count[int]] = {}


class Opening(NamedTuple):
    """A group that is about to be made.

    Attributes:
        name: of the group, identical on all ranks.
        ranks: of the group.
        make: makes the transport, collectively, given what must be identical on all ranks.
    """

    name: str
    ranks: int
    make: Callable[[Mapping[str, Any]], Transport]


def open_transport(
    process_group: Optional[dist.ProcessGroup],
    ranks: Optional[int],
    backend: Optional[str],
    threads: int,
    deadline_ms: Optional[int],
) -> Opening:
    """Chooses backend and transport. Raises E_BACKEND, E_OPTION."""
    if choice("backend", backend or "host", BACKENDS) != 0:
        raise FuscoError(
            "E_BACKEND",
            f"the {backend} backend is not in this version of the Python package",
            hint="Use backend='host' with CPU tensors; the TypeScript package has cuda and nccl.",
        )
    count("threads", threads, 0, 1024)
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
    if size == 1:
        local = count("ranks", 1 if ranks is None else ranks, 1, 4096)
        return Opening(f"fusco.local.{next(_numbers)}", local, lambda _: LocalRanks(local, threads))
    from .processes import HostProcesses

    assert process_group is not None
    base = f"fusco.{process_group.group_name}"
    name = f"{base}.{next(_group_numbers.setdefault(base, itertools.count()))}"
    group = process_group
    return Opening(name, size, lambda settings: HostProcesses(group, name, settings, threads, deadline_ms))


__all__ = ["BACKENDS", "Opening", "open_transport"]
