"""Device memory that other ranks may read and write, as tensors.

Tensors of PyTorch cannot serve: not every allocator makes memory that other processes and devices can map, and memory
that is freed and allocated again would have to be mapped again. Blocks come from segments that the native library
allocates and the ranks map once. A block is used again when no tensor refers to it any more, in the order of its
stream, as PyTorch's allocator does. Segments are kept until the group is closed and no tensor uses them.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..errors import FuscoError
from . import accelerator

__all__ = ["DeviceMemory"]

_SMALLEST_BLOCK = 2 << 20
# Sizes of blocks in each octave: at most an eighth of a block is unused.
_SIZES_PER_OCTAVE = 8
# Further blocks of one size come in segments of this many, so that ranks map few segments.
_MOST_BLOCKS_PER_SEGMENT = 16


class _Block:
    """A part of a segment.

    Attributes:
        address: of its first byte, a multiple of 256.
        length: its bytes.
        stream: of its last use.
        is_captured: whether a graph uses it whenever it is launched.
    """

    __slots__ = ("address", "is_captured", "length", "stream")

    def __init__(self, address: int, length: int, stream: Any) -> None:
        self.address = address
        self.length = length
        self.stream = stream
        self.is_captured = False


class _Lease:
    """Gives a block back when PyTorch drops the last tensor in it, and keeps its memory until then."""

    __slots__ = ("_block", "_owner", "_returned")

    def __init__(self, block: _Block, returned: deque[_Block], owner: Any) -> None:
        self._block = block
        self._returned = returned
        self._owner = owner

    def __del__(self) -> None:
        # Any thread, at any time: nothing but this.
        self._returned.append(self._block)


class DeviceMemory:
    """Blocks on one device. Not for several threads at a time.

    Args:
        index: of the device.
        allocate: makes a segment of this many bytes that all ranks can map, and returns its address; may wait. What it
            refers to owns the segments.
    """

    def __init__(self, index: int, allocate: Callable[[int], int]) -> None:
        self._index = index
        self._allocate = allocate
        self._returned: deque[_Block] = deque()
        self._free: dict[int, list[_Block]] = {}
        self._made: dict[int, int] = {}
        self._captured: dict[int, list[_Block]] = {}
        self._addresses: set[int] = set()
        #: Bytes of all segments.
        self.bytes = 0

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A tensor for the current stream. Old contents are zeros or what earlier tensors held.

        Raises:
            FuscoError: E_MEMORY; likewise in the capture of a graph that needs more blocks than there are
        """
        needed = math.prod(shape) * dtype.itemsize
        if needed == 0:
            return torch.empty(shape, dtype=dtype, device=accelerator.device(self._index))
        block = self._take(_block_bytes(needed))
        lease = _Lease(block, self._returned, self._allocate)
        flat = accelerator.memory_at(block.address, block.length, self._index, lease)
        return flat[:needed].view(dtype).view(shape)

    def reserve(self, lengths: Sequence[int]) -> None:
        """Makes blocks for tensors of these bytes that are alive at the same time. May wait; not in a capture."""
        stream = accelerator.current_stream(self._index)
        for length, count in Counter(_block_bytes(length) for length in lengths if length > 0).items():
            missing = count - len(self._free.get(length, ()))
            if missing > 0:
                self._make(length, missing, stream)

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor lies in a block."""
        return tensor.untyped_storage().data_ptr() in self._addresses

    def _take(self, length: int) -> _Block:
        is_capturing = accelerator.is_capturing()
        self._sort_returned(is_capturing)
        stream = accelerator.current_stream(self._index)
        block = self._find(length, stream, is_capturing) or self._grow(length, stream, is_capturing)
        if block.stream != stream and not is_capturing:
            stream.wait_stream(block.stream)
        block.stream = stream
        block.is_captured |= is_capturing
        return block

    def _sort_returned(self, is_capturing: bool) -> None:
        if not is_capturing:
            # Their graphs use them again; other graphs do not.
            self._captured.clear()
        while self._returned:
            block = self._returned.popleft()
            if not block.is_captured:
                self._free.setdefault(block.length, []).append(block)
            elif is_capturing:
                self._captured.setdefault(block.length, []).append(block)

    def _find(self, length: int, stream: Any, is_capturing: bool) -> _Block | None:
        if is_capturing and self._captured.get(length):
            return self._captured[length].pop()
        blocks = self._free.get(length)
        if not blocks:
            return None
        # The last one of this stream, which needs no wait; else the one that has been free for longest.
        at = next((at for at in reversed(range(len(blocks))) if blocks[at].stream == stream), 0)
        return blocks.pop(at)

    def _grow(self, length: int, stream: Any, is_capturing: bool) -> _Block:
        if is_capturing:
            raise FuscoError(
                "E_MEMORY",
                f"the capture of a graph needs a block of {length} bytes, and none is left",
                hint="Run the same calls once or twice before the capture, so that their memory exists.",
                value=length,
            )
        self._make(length, min(max(1, self._made.get(length, 0)), _MOST_BLOCKS_PER_SEGMENT), stream)
        return self._free[length].pop()

    def _make(self, length: int, blocks: int, stream: Any) -> None:
        """Makes a segment of blocks."""
        first = self._allocate(blocks * length)
        # Never random bits, which could be NaN.
        accelerator.memory_at(first, blocks * length, self._index, None).zero_()
        self._made[length] = self._made.get(length, 0) + blocks
        self.bytes += blocks * length
        new = [_Block(first + number * length, length, stream) for number in range(blocks)]
        self._addresses.update(block.address for block in new)
        self._free.setdefault(length, []).extend(new)


def _block_bytes(needed: int) -> int:
    """The size of the block for this many bytes: one of eight in each octave."""
    if needed <= _SMALLEST_BLOCK:
        return _SMALLEST_BLOCK
    step = 1 << (needed - 1).bit_length() - 1
    step //= _SIZES_PER_OCTAVE
    return -(-needed // step) * step
