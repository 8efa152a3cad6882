"""What Python reads of a shard: where each expert's block lies, and the instance of each entry.

The layout is that of native/core/plan_layout.h.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Blocks", "blocks_of", "entry_instances"]

# Compared with plan_layout.h by a test.
LAYOUT = {"S_EXPERT_OFFSET": 0, "S_EXPERT_ROWS": 1, "S_ENTRY_INSTANCE": 8, "SECTION_TABLE": 64}


class Blocks(NamedTuple):
    """Blocks of one rank's receive buffer, one per local expert in ascending order.

    Attributes:
        offsets: u32 [local + 1]: first row of each block; the last one is the rows of the buffer.
        counts: u32 [local]: real rows of each block; the rest, up to the next offset, is padding.
    """

    offsets: tuple[int, ...]
    counts: tuple[int, ...]


def blocks_of(shard: memoryview) -> Blocks:
    """The blocks of a checked shard."""
    offsets = tuple(_section(shard, "S_EXPERT_OFFSET", 4).cast("I"))
    return Blocks(offsets or (0,), tuple(_section(shard, "S_EXPERT_ROWS", 4).cast("I")))


def entry_instances(shard: memoryview) -> memoryview:
    """u16 [tokens * topk] of a checked shard: the expert instance of each entry; of a masked one, their number."""
    return _section(shard, "S_ENTRY_INSTANCE", 2).cast("H")


def _section(shard: memoryview, name: str, element_bytes: int) -> memoryview:
    data = shard.cast("B")
    at = LAYOUT["SECTION_TABLE"] + 8 * LAYOUT[name]
    offset, elements = data[at : at + 8].cast("I")
    return data[offset : offset + element_bytes * elements]
