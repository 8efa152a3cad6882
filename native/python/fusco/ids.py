"""Routing tables: the expert ids of one rank, from any object with Python's buffer interface or from nested lists."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from typing import Any

from . import _structs as s
from .errors import FuscoError

__all__ = ["IdTable", "address_of", "of_each_rank"]

# Formats of the buffer interface, as fusco_id_dtype: by signedness and size.
_DTYPES = {
    (True, 4): 0,
    (True, 8): 1,
    (True, 2): 2,
    (False, 2): 3,
    (True, 1): 4,
    (False, 1): 5,
    (False, 4): 6,
    (False, 8): 7,
}
_SIGNED = "bhilqn"
_UNSIGNED = "BHILQN"


class IdTable:
    """The ids of one rank, [tokens, topk], kept alive for native code.

    Args:
        ids: a NumPy array, a torch tensor (one on a GPU is copied), another C-contiguous object with the buffer
            interface, or nested lists; two axes, integers of 8 to 64 bits; -1 is masked.
        topk: experts per token, for tables without tokens.

    Raises:
        FuscoError: E_ROUTING_SHAPE, E_ROUTING_DTYPE
    """

    def __init__(self, ids: Any, topk: int | None = None) -> None:
        view = _view_of(ids, topk)
        if view.ndim != 2 or view.shape is None:
            raise FuscoError("E_ROUTING_SHAPE", f"ids have {view.ndim} axes; they must be [tokens, topk]")
        code = (view.format or "B").lstrip("@=<")
        if len(code) != 1 or code not in _SIGNED + _UNSIGNED:
            raise FuscoError("E_ROUTING_DTYPE", f"ids have the element format {view.format!r}, not integers")
        self.tokens, self.topk = view.shape
        self.dtype = _DTYPES[(code in _SIGNED, view.itemsize)]
        self._view = view
        self._owner, self.address = address_of(view)

    def to_native(self) -> s.Ids:
        """The struct of the C interface; valid as long as this table."""
        return s.sized(s.Ids, dtype=self.dtype, tokens=self.tokens, topk=self.topk, data=self.address)


def of_each_rank(what: str, arrays: Any) -> list[Any]:
    """The arrays of all ranks, from a list or along the first axis. Raises E_RANKS."""
    try:
        return list(arrays)
    except TypeError as error:
        raise FuscoError(
            "E_RANKS", f"{what} is {type(arrays).__name__}, not a list", hint="Give a list with one array per rank."
        ) from error


def _view_of(ids: Any, topk: int | None) -> memoryview:
    if hasattr(ids, "detach"):
        ids = ids.detach().cpu().numpy()
    if isinstance(ids, Sequence) and not isinstance(ids, (bytes, bytearray, memoryview, array)):
        return _view_of_lists(ids, topk)
    try:
        view = memoryview(ids)
    except (TypeError, ValueError) as error:
        raise FuscoError("E_ROUTING_DTYPE", f"ids are {type(ids).__name__}, not an array of integers") from error
    if not view.c_contiguous:
        raise FuscoError("E_BUFFER", "ids are not contiguous", hint="Give a contiguous array.")
    return view


def _view_of_lists(ids: Sequence[Any], topk: int | None) -> memoryview:
    try:
        rows = [list(row) for row in ids]
        width = len(rows[0]) if rows else (topk or 0)
        if any(len(row) != width for row in rows):
            raise FuscoError("E_ROUTING_SHAPE", "the tokens have different numbers of ids")
        flat = array("q", [value for row in rows for value in row])
    except (TypeError, OverflowError) as error:
        raise FuscoError("E_ROUTING_DTYPE", "the lists hold something else than integers") from error
    if not rows:
        # A view cannot be cast to an axis of no elements.
        return _EmptyTable(width).view()
    return memoryview(flat).cast("B").cast("q", (len(rows), width))


class _EmptyTable:
    """A table of no tokens."""

    def __init__(self, topk: int) -> None:
        self._array = (ctypes.c_int64 * topk * 0)()

    def view(self) -> memoryview:
        return memoryview(self._array)


def address_of(view: memoryview) -> tuple[Any, int]:
    """What keeps the bytes at their address alive, and the address."""
    if view.nbytes == 0:
        return None, 0
    if view.readonly:
        copy = ctypes.create_string_buffer(view.tobytes(), view.nbytes)
        return copy, ctypes.addressof(copy)
    owner = (ctypes.c_char * view.nbytes).from_buffer(view)
    return owner, ctypes.addressof(owner)
