"""The receive side of a shard: where each expert's block lies. The layout is that of native/core/plan_layout.h."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Blocks", "blocks_of"]

# Compared with plan_layout.h by a test.
LAYOUT = {"S_EXPERT_OFFSET": 0, "S_EXPERT_ROWS": 1, "SECTION_TABLE": 64}


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
    bytes_of = shard.cast("B")
    table = LAYOUT["SECTION_TABLE"]

    def section(number: int) -> tuple[int, ...]:
        offset, elements = bytes_of[table + 8 * number : table + 8 * number + 8].cast("I")
        return tuple(bytes_of[offset : offset + 4 * elements].cast("I"))

    return Blocks(section(LAYOUT["S_EXPERT_OFFSET"]) or (0,), section(LAYOUT["S_EXPERT_ROWS"]))
