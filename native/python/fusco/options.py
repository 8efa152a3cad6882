"""Options of a plan, in Python's form and in that of the C interface."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from operator import index
from typing import Any

from . import _structs as s
from .errors import FuscoError

__all__ = ["DTYPE_BYTES", "PlanOptions"]

# The names are those of the command line and of plan files, in the order of the C enumerations.
DTYPES = ("bytes", "f32", "f16", "bf16", "fp8")
STRATEGIES = ("flat", "hier", "auto")
BALANCES = ("best", "static", "rotate", "lpt")
PARTIALS = ("payload", "f32")
SUMS = ("node", "token")
REPLICAS = ("quota-1", "local")
DTYPE_BYTES = {"bytes": 1, "f32": 4, "f16": 2, "bf16": 2, "fp8": 1}


@dataclass(frozen=True)
class PlanOptions:
    """Options of a plan; identical on all ranks. Native code checks the ranges and raises E_OPTION.

    Attributes:
        experts: logical experts, 1..65535.
        ranks: ranks of the group, 1..4096.
        topk: experts per token, 1..256.
        ranks_per_node: divides ``ranks``; None means the largest divisor up to 8.
        ranks_per_host: ranks of one machine, a multiple of ``ranks_per_node`` that divides ``ranks``; None means
            ``ranks_per_node``. Read for ``auto`` only, which assumes fast links inside a machine. Not part of the plan.
        hidden: elements of a row; nominal, for slice sizes and reports. None means 7168.
        dtype: nominal dtype of dispatched rows: ``f32``, ``f16``, ``bf16``, ``fp8`` or ``bytes``.
        combine_dtype: nominal dtype of combined rows; None means ``dtype``, and ``bf16`` for ``fp8``.
        align: rows to which each expert's block is padded, 1..2^20.
        capacity: most rows of one expert instance; 0 means no limit.
        strategy: ``flat``, ``hier``, or ``auto``: ``fusco.plan`` chooses the one whose busiest rank is the least busy.
        balance: which rank forwards: ``best``, ``static``, ``rotate`` or ``lpt``. Hierarchical plans only.
        partial: dtype of partial sums: ``payload`` or ``f32``. Hierarchical plans only.
        sum: order of additions: ``node`` or ``token``. Hierarchical plans only; flat plans add by token.
        replicas: ``quota-1`` or ``local``; matters only if an expert has several instances.
        placement: for each expert its rank, or a list of its ranks; empty means contiguous blocks.
        slice_rows: rows of a slice, 1..2^20; None means 1 MiB of rows.
        tile_tokens: tokens of a tile of the store order; 0 means none.
        max_rows: most rows that a rank may receive, padding included; 0 means no bound. Not part of the plan.
    """

    experts: int
    ranks: int
    topk: int
    ranks_per_node: int | None = None
    ranks_per_host: int | None = None
    hidden: int | None = None
    dtype: str = "bf16"
    combine_dtype: str | None = None
    align: int = 1
    capacity: int = 0
    strategy: str = "flat"
    balance: str = "best"
    partial: str = "payload"
    sum: str = "node"
    replicas: str = "quota-1"
    placement: Sequence[int | Sequence[int]] = field(default=())
    slice_rows: int | None = None
    tile_tokens: int = 0
    max_rows: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "placement", _normal_placement(self.placement))

    def to_native(self) -> s.PlanOptions:
        """The struct of the C interface. Raises E_OPTION, E_PLACEMENT."""
        native = s.sized(
            s.PlanOptions,
            strategy=choice("strategy", self.strategy, STRATEGIES),
            balance=choice("balance", self.balance, BALANCES),
            partial=choice("partial", self.partial, PARTIALS),
            sum=choice("sum", self.sum, SUMS),
            replicas=choice("replicas", self.replicas, REPLICAS),
            dtype=choice("dtype", self.dtype, DTYPES),
            combine_dtype=0 if self.combine_dtype is None else choice("combine_dtype", self.combine_dtype, DTYPES),
        )
        for name in _COUNTS:
            setattr(native, name, count(name, getattr(self, name)))
        for name, most in _OPTIONAL_COUNTS.items():
            # In the C interface 0 is the default.
            value = getattr(self, name)
            setattr(native, name, 0 if value is None else count(name, value, 1, most))
        count("align", self.align, 1, _MOST_BLOCK_ROWS)
        if len(self.placement) > 0:
            _set_placement(native, self.experts, self.placement)
        return native

    def experts_of(self, rank: int) -> tuple[int, ...]:
        """Logical experts that a rank hosts, ascending."""
        if len(self.placement) == 0:
            return tuple(expert for expert in range(self.experts) if expert * self.ranks // self.experts == rank)
        return tuple(expert for expert, ranks in enumerate(_lists_of(self.placement)) if rank in ranks)

    @staticmethod
    def from_native(native: s.PlanOptions) -> PlanOptions:
        """The options of a struct; those of a plan file have every default filled in."""
        counts: dict[str, Any] = {name: getattr(native, name) for name in _COUNTS}
        counts |= {name: getattr(native, name) or None for name in _OPTIONAL_COUNTS}
        return PlanOptions(
            **counts,
            dtype=DTYPES[native.dtype],
            combine_dtype=DTYPES[native.combine_dtype],
            strategy=STRATEGIES[native.strategy],
            balance=BALANCES[native.balance],
            partial=PARTIALS[native.partial],
            sum=SUMS[native.sum],
            replicas=REPLICAS[native.replicas],
            placement=_placement_of(native),
        )


_COUNTS = (
    "experts",
    "ranks",
    "topk",
    "align",
    "capacity",
    "tile_tokens",
    "max_rows",
)

# Rows of a slice, and to which a block is padded.
_MOST_BLOCK_ROWS = 1 << 20
# The largest value of each; None means a default.
_OPTIONAL_COUNTS = {
    "ranks_per_node": 4096,
    "ranks_per_host": 4096,
    "hidden": 1 << 24,
    "slice_rows": _MOST_BLOCK_ROWS,
}


def choice(name: str, value: object, choices: Sequence[str]) -> int:
    """Number of a choice. Raises E_OPTION."""
    if isinstance(value, str) and value in choices:
        return choices.index(value)
    known = ", ".join(choices)
    raise FuscoError("E_OPTION", f"{name} {value!r} is not one of {known}", hint=f"Give one of {known}.")


def count(name: str, value: object, least: int = 0, most: int = 0xFFFFFFFF) -> int:
    """An integer in a range. Raises E_OPTION."""
    number = _integer(value)
    if number is not None and least <= number <= most:
        return number
    raise FuscoError("E_OPTION", f"{name} is {value!r}; it must be an integer from {least} to {most}")


def _integer(value: Any) -> int | None:
    """The integer that a value is, of Python, NumPy or another library; None if it is none."""
    try:
        return None if isinstance(value, bool) else index(value)
    except TypeError:
        return None


def _normal_placement(placement: Any) -> tuple[int | tuple[int, ...], ...]:
    """Tuples of integers; a list of one rank is that rank. Raises E_PLACEMENT."""
    try:
        lists = [[entry] if _integer(entry) is not None else list(entry) for entry in placement]
        ranks = [tuple(sorted(index(rank) for rank in entry)) for entry in lists]
    except TypeError as error:
        raise FuscoError("E_PLACEMENT", f"the placement holds something else than ranks: {error}") from error
    return tuple(entry[0] if len(entry) == 1 else entry for entry in ranks)


def _lists_of(placement: Sequence[int | Sequence[int]]) -> list[Sequence[int]]:
    return [(entry,) if isinstance(entry, int) else entry for entry in placement]


def _set_placement(native: s.PlanOptions, experts: int, placement: Sequence[int | Sequence[int]]) -> None:
    if len(placement) != experts:
        raise FuscoError("E_PLACEMENT", f"the placement has {len(placement)} entries for {experts} experts")
    lists = _lists_of(placement)
    ranks = [count("a rank of the placement", rank, 0, 0xFFFF) for entry in lists for rank in entry]
    offsets = [0, *accumulate(len(entry) for entry in lists)]
    # Assigned arrays are kept alive by the struct.
    native.placement_offsets = (ctypes.c_uint32 * len(offsets))(*offsets)
    native.placement_ranks = (ctypes.c_uint16 * max(1, len(ranks)))(*ranks)


def _placement_of(native: s.PlanOptions) -> Sequence[int | Sequence[int]]:
    if not native.placement_offsets:
        return ()
    offsets = native.placement_offsets[: native.experts + 1]
    return [native.placement_ranks[first:end] for first, end in zip(offsets, offsets[1:])]
