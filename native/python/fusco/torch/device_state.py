"""The state of a handle on a GPU: a plan buffer, and where in it the tables lie that grouped matrix products read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from ..device_plan import DevicePlan
from .calls import Parts

__all__ = ["BlockViews", "buffers_of", "find_views", "views_of"]


class BlockViews(NamedTuple):
    """Where a state has what grouped matrix products read: offsets in elements of 4 bytes, and their numbers."""

    offsets: int
    counts: int
    recv_rows: int
    overflow_rows: int
    experts: int


def find_views(
    state_bytes: int, devices: Sequence[torch.device], attach: Callable[[Parts], DevicePlan]
) -> list[BlockViews]:
    """The views of each local rank. Options and limits say where tables lie, whatever a plan buffer holds."""
    states = [torch.empty(state_bytes, dtype=torch.uint8, device=device) for device in devices]
    plan = attach(states)
    found = []
    for part, state in enumerate(states):
        view = plan.view(part)
        pointers = (view.expert_offsets, view.expert_counts, view.recv_rows, view.overflow_rows)
        offsets, counts, rows, overflow = ((pointer - state.data_ptr()) // 4 for pointer in pointers)
        found.append(BlockViews(offsets, counts, rows, overflow, view.local_instances))
    plan.close()
    return found


def views_of(state: torch.Tensor, views: BlockViews) -> tuple[torch.Tensor, ...]:
    """expert_offsets, expert_counts, recv_rows [1] and overflow_rows [1] of a state, int32; views of its memory."""
    words = state.view(torch.int32)
    offsets = words[views.offsets : views.offsets + views.experts + 1]
    counts = words[views.counts : views.counts + views.experts]
    return (
        offsets,
        counts,
        words[views.recv_rows : views.recv_rows + 1],
        words[views.overflow_rows : views.overflow_rows + 1],
    )


def buffers_of(parts: Parts) -> list[tuple[int, int]]:
    """(address, bytes) of each part."""
    return [(part.data_ptr(), part.nbytes) for part in parts]
