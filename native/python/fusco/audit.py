"""What another library received and combined, compared with what the routing says: docs/audit.md.

The comparison is native; this file carries its arguments and results. Tensors on a GPU are copied to the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ctypes import byref
from dataclasses import dataclass
from typing import Any

from . import _structs as s
from ._library import Handle, buffer_array, call, library
from .errors import FuscoError
from .ids import IdTable, address_of, of_each_rank
from .options import DTYPES, PlanOptions, choice, count

__all__ = ["AuditReport", "Difference", "audit_combine", "audit_dispatch", "layouts"]

_PERS = ("token", "entry")
_BLOCKS = ("expert", "source", "one")
_ROW_ORDERS = ("sorted", "any")
_FILLERS = ("zero", "any")
_FOUND = ("unknown", "zeros", "token", "previous", "nothing")
_ACCUMULATE = ("payload", "f32")
_EQUAL = 0xFFFFFFFFFFFFFFFF
# As many as the command line lists.
_MOST_LISTED = 1 << 20

# Elements by the names of torch and by the formats of the buffer interface; NumPy has no bf16 and no fp8.
_TORCH = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "uint8": "fp8", "float8_e4m3fn": "fp8"}
_FORMATS = {"f": "f32", "e": "f16", "H": "bf16", "B": "fp8"}


@dataclass(frozen=True)
class Difference:
    """A row that is wrong.

    Attributes:
        rank: the rank that received it, or whose token it is.
        row: slot of the receive buffer, or token of a combine.
        kind: what is wrong, such as ``other-token``; docs/audit.md lists the kinds.
        source: expected source rank; None: padding, or no row.
        token: expected token, or None.
        k: expected k; None: any. For ``term-missing`` and ``term-twice`` the k of that term.
        found: ``zeros``, ``token``, ``previous``, ``nothing`` or ``unknown``.
        found_source: source rank of what is there, or None.
        found_token: its token, or None.
        first_byte: first byte of the row that differs.
        end_byte: one behind the last byte that differs.
    """

    rank: int
    row: int
    kind: str
    source: int | None
    token: int | None
    k: int | None
    found: str
    found_source: int | None
    found_token: int | None
    first_byte: int
    end_byte: int

    def __str__(self) -> str:
        expected = "nothing belongs there" if self.source is None else f"token {self.token} of rank {self.source}"
        if self.source is not None and self.k is not None:
            expected += f" (k {self.k})"
        what = {"zeros": "zeros", "nothing": "no row"}.get(self.found, "")
        if self.found_token is not None:
            step = " of the step before" if self.found == "previous" else ""
            what = f"token {self.found_token} of rank {self.found_source}{step}"
        there = f": {what}" if what and what != self.kind else ""
        return f"rank {self.rank} row {self.row}: expected {expected}, found {self.kind}{there}"


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Attributes:
        rows: rows that were looked at.
        wrong: rows that differ.
        counts: rows that differ, by kind.
        differences: the first of them.
        orders: combine: orders of addition that give the bits of every row within the bound.
        reordered: combine: rows within the bound with other bits than the requested order.
        largest_error: combine: largest error as a part of its bound, 0..1.
    """

    rows: int
    wrong: int
    counts: Mapping[str, int]
    differences: tuple[Difference, ...]
    orders: tuple[str, ...] = ()
    reordered: int = 0
    largest_error: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every row is right."""
        return self.wrong == 0

    def __str__(self) -> str:
        if self.ok:
            return f"all {self.rows} rows are right"
        counts = ", ".join(f"{number} {kind}" for kind, number in self.counts.items())
        return "\n".join([f"{self.wrong} of {self.rows} rows are wrong ({counts})", *map(str, self.differences)])


class _Rows:
    """Rows of one rank in host memory, kept alive for native code."""

    def __init__(self, what: str, rank: int, rows: Any) -> None:
        if hasattr(rows, "data_ptr") and hasattr(rows, "detach"):
            tensor = rows.detach().cpu().contiguous()
            self._owner: Any = tensor
            self.shape = tuple(tensor.shape)
            self.item_bytes = int(tensor.element_size())
            self.dtype = _TORCH.get(str(tensor.dtype).removeprefix("torch."), "bytes")
            self.address, self.bytes = tensor.data_ptr(), tensor.numel() * self.item_bytes
        else:
            try:
                view = memoryview(rows)
            except TypeError as error:
                raise FuscoError(
                    "E_BUFFER", f"{what} of rank {rank} is neither a tensor nor an array", rank=rank
                ) from error
            if not view.c_contiguous:
                raise FuscoError("E_BUFFER", f"{what} of rank {rank} is not contiguous", rank=rank)
            self.shape = tuple(view.shape or ())
            self.item_bytes = view.itemsize
            self.dtype = _FORMATS.get((view.format or "B").lstrip("@=<"), "bytes")
            self._owner, self.address = address_of(view)
            self.bytes = view.nbytes
        if len(self.shape) < 2:
            raise FuscoError(
                "E_SHAPE", f"{what} of rank {rank} has {len(self.shape)} axes; it must be [rows, columns]", rank=rank
            )

    @property
    def kind(self) -> tuple[str, int]:
        """Dtype, and bytes of a row."""
        return self.dtype, self.shape[-1] * self.item_bytes

    def to_native(self) -> s.Buffer:
        return s.Buffer(self.address, self.bytes)


def layouts() -> tuple[str, ...]:
    """Names of the known layouts."""
    return _names(library.fusco_audit_layout_name)


def _names(function: Any) -> tuple[str, ...]:
    found: list[str] = []
    while (name := function(len(found))) is not None:
        found.append(name.decode())
    return tuple(found)


def _layout(layout: str | Mapping[str, Any]) -> s.AuditLayout:
    if not isinstance(layout, (str, Mapping)):
        raise FuscoError("E_OPTION", f"the layout is {layout!r}", hint="Give a name of layouts(), or a dict of fields.")
    fields = {"preset": layout} if isinstance(layout, str) else dict(layout)
    preset = fields.pop("preset", "fusco")
    choice("layout", preset, layouts())
    native = s.sized(s.AuditLayout)
    call(library.fusco_audit_layout_find, preset.encode(), byref(native))
    choices = {"per": _PERS, "blocks": _BLOCKS, "order": _ROW_ORDERS, "padding": _FILLERS, "tail": _FILLERS}
    for name, value in fields.items():
        if name in choices:
            setattr(native, name, choice(name, value, choices[name]))
        elif name == "accumulate":
            native.accumulate = choice(name, value, _ACCUMULATE)
        elif name == "slots":
            native.slots = _EQUAL if value == "equal" else count(name, value, 0, _EQUAL - 1)
        elif name in ("align", "partials"):
            setattr(native, name, count(name, value))
        else:
            raise FuscoError("E_OPTION", f"a layout has no field {name!r}", hint="docs/audit.md lists the fields.")
    return native


def _on_cpu(ids: Any) -> Any:
    return ids.detach().cpu().contiguous() if hasattr(ids, "detach") else ids


class _Audit:
    """An audit of one routing, with its input."""

    def __init__(
        self, ids: Iterable[Any], inputs: Iterable[Any], previous: Iterable[Any] | None, layout: Any, options: Any
    ) -> None:
        tables = [IdTable(_on_cpu(table), options.get("topk")) for table in of_each_rank("ids", ids)]
        topk = max((table.topk for table in tables), default=0)
        self.options = PlanOptions(**{"ranks": len(tables), "topk": topk, **options})
        if len(tables) != self.options.ranks:
            raise FuscoError("E_RANKS", f"{len(tables)} routing tables for {self.options.ranks} ranks")
        self.ranks = len(tables)
        self.tokens = [table.tokens for table in tables]
        native_ids = (s.Ids * self.ranks)(*[table.to_native() for table in tables])
        native_layout, native_options = _layout(layout), self.options.to_native()
        self._handle = Handle(library.fusco_audit_destroy)
        call(
            library.fusco_audit_create_from_ids,
            byref(native_options),
            native_ids,
            byref(native_layout),
            byref(self._handle.pointer),
        )
        self._rows = self.read("input", inputs)
        for rank, (rows, table) in enumerate(zip(self._rows, tables)):
            if rows.shape[0] != table.tokens:
                raise FuscoError(
                    "E_SHAPE", f"input of rank {rank} has {rows.shape[0]} rows for {table.tokens} tokens", rank=rank
                )
        self._kind = next((rows.kind for rows in self._rows if rows.bytes > 0), self._rows[0].kind)
        for rank, rows in enumerate(self._rows):
            self.check("input", rank, rows)
        self._previous = None if previous is None else self.read("previous", previous)
        dtype, row_bytes = self._kind
        self._buffers = self._native(self._rows)
        self._before = None if self._previous is None else self._native(self._previous)
        given = s.sized(
            s.AuditInput, dtype=DTYPES.index(dtype), row_bytes=row_bytes, rows=self._buffers, previous=self._before
        )
        call(library.fusco_audit_set_input, self._handle.pointer, byref(given))

    def read(self, what: str, rows: Iterable[Any]) -> list[_Rows]:
        arrays = of_each_rank(what, rows)
        if len(arrays) != self.ranks:
            raise FuscoError("E_RANKS", f"{what} has {len(arrays)} arrays for {self.ranks} ranks")
        return [_Rows(what, rank, array) for rank, array in enumerate(arrays)]

    def check(self, what: str, rank: int, rows: _Rows) -> _Rows:
        """Raises E_SHAPE unless these are rows like those of the input."""
        if rows.bytes > 0 and rows.kind != self._kind:
            found, wanted = (f"{dtype} rows of {size} bytes" for dtype, size in (rows.kind, self._kind))
            raise FuscoError("E_SHAPE", f"{what} of rank {rank} has {found}, the input {wanted}", rank=rank)
        return rows

    def of_ranks(self, what: str, rows: Any, rank: int | None) -> list[tuple[int, _Rows]]:
        """The arrays of all ranks, or the one of `rank`. Raises E_RANKS, E_OPTION, E_SHAPE, E_BUFFER."""
        if rank is None:
            read = list(enumerate(self.read(what, rows)))
        else:
            of = count("rank", rank, 0, self.ranks - 1)
            read = [(of, _Rows(what, of, rows))]
        return [(rank, self.check(what, rank, array)) for rank, array in read]

    @staticmethod
    def _native(rows: list[_Rows]) -> Any:
        return buffer_array([(array.address, array.bytes) for array in rows])

    def check_tokens(self, what: str, rank: int, rows: _Rows, columns: int) -> _Rows:
        """Raises E_SHAPE unless there is a row for each token of the rank."""
        wanted = (self.tokens[rank], columns)
        if (rows.shape[0], rows.shape[-1]) != wanted or len(rows.shape) != 2:
            raise FuscoError("E_SHAPE", f"{what} of rank {rank} has shape {rows.shape}, not {wanted}", rank=rank)
        return rows

    def weights(self, weights: Any, rank: int | None) -> dict[int, _Rows]:
        """The weights of all ranks, or those of `rank`. Raises E_RANKS, E_SHAPE, E_DTYPE."""
        arrays = enumerate(self.read("weights", weights)) if rank is None else [(rank, _Rows("weights", rank, weights))]
        read = dict(arrays)
        for of, rows in read.items():
            self.check_tokens("weights", of, rows, self.options.topk)
            if rows.dtype != "f32":
                raise FuscoError(
                    "E_DTYPE", f"weights of rank {of} are {rows.dtype}, not float32", hint="Convert them.", rank=of
                )
        return read

    def outputs(self, outputs: Iterable[Any] | None) -> tuple[list[_Rows], Any]:
        """Rows to keep alive, and fusco_buffer[ranks]."""
        if outputs is None:
            return [], None
        read = [self.check("outputs", rank, rows) for rank, rows in enumerate(self.read("outputs", outputs))]
        return read, self._native(read)

    def run(self, function: Any, native: Any, listed: int) -> AuditReport:
        """Calls a function of the C interface, with room for `listed` differences."""
        most = count("listed", listed, 0, _MOST_LISTED)
        room = (s.AuditDifference * max(1, most))()
        native.differences, native.difference_count = room, most
        report = s.sized(s.AuditReport)
        try:
            call(function, self._handle.pointer, byref(native), byref(report))
        except FuscoError as error:
            raise _explained(error) from error
        return _report_of(native.rank, report, room)


def _explained(error: FuscoError) -> FuscoError:
    """The error of a call; a block that does not fit says what the layout needs."""
    if error.code != "E_LIMIT":
        return error
    hint = f'Give the layout at least {error.value} slots, or with "equal" the whole receive buffer.'
    return FuscoError("E_LIMIT", error.message, hint=hint, rank=error.rank, value=error.value, limit=error.limit)


def _kind(number: int) -> str:
    return str(library.fusco_audit_kind_name(number).decode())


def _known(number: int) -> int | None:
    return None if number < 0 else number


def _report_of(rank: int, report: s.AuditReport, room: Any) -> AuditReport:
    differences = tuple(
        Difference(
            rank,
            found.row,
            _kind(found.kind),
            _known(found.source),
            _known(found.token),
            _known(found.k),
            _FOUND[found.found],
            _known(found.found_source),
            _known(found.found_token),
            found.first_byte,
            found.end_byte,
        )
        for found in room[: report.listed]
    )
    counts = {_kind(number): rows for number, rows in enumerate(report.counts) if rows > 0}
    orders = tuple(name for i, name in enumerate(_names(library.fusco_audit_order_name)) if report.orders >> i & 1)
    return AuditReport(report.rows, report.wrong, counts, differences, orders, report.reordered, report.largest_error)


def _joined(reports: list[AuditReport], check: bool) -> AuditReport:
    counts: dict[str, int] = {}
    for report in reports:
        for kind, rows in report.counts.items():
            counts[kind] = counts.get(kind, 0) + rows
    common = [report.orders for report in reports if report.rows > 0]
    joined = AuditReport(
        sum(report.rows for report in reports),
        sum(report.wrong for report in reports),
        counts,
        tuple(found for report in reports for found in report.differences),
        tuple(name for name in (common[0] if common else ()) if all(name in orders for orders in common)),
        sum(report.reordered for report in reports),
        max((report.largest_error for report in reports), default=0.0),
    )
    if check and not joined.ok:
        raise AssertionError(str(joined))
    return joined


def audit_dispatch(
    ids: Iterable[Any],
    received: Any,
    inputs: Iterable[Any],
    *,
    experts: int,
    layout: str | Mapping[str, Any] = "fusco",
    previous: Iterable[Any] | None = None,
    rank: int | None = None,
    check: bool = True,
    listed: int = 10,
    **options: Any,
) -> AuditReport:
    """Asserts that each row of the receive buffers is where it belongs.

    Args:
        ids: the ids of each rank, [tokens, topk]; tensors on any device, arrays or lists.
        received: what each rank received, [rows, columns] or with more axes in front; of one rank if `rank` is given.
        inputs: the rows that each rank dispatched, [tokens, columns].
        experts: logical experts.
        layout: where the library puts rows: a name of ``layouts()``, or fields of one with its name as ``preset``.
        previous: the rows of the step before, to recognize stale rows.
        rank: the only rank of which received rows are given. Default: all ranks.
        check: whether wrong rows raise AssertionError.
        listed: differences of a rank to list.
        options: further ones of PlanOptions: ``placement``, ``align`` and others where they matter.

    Raises:
        AssertionError: rows are wrong; the message names the first ones and counts all by kind.
        FuscoError: E_RANKS, E_SHAPE, E_LIMIT, E_BUFFER, E_OPTION; those of planning
    """
    audit = _Audit(ids, inputs, previous, layout, {"experts": experts, **options})
    reports = []
    for of, rows in audit.of_ranks("received", received, rank):
        native = s.sized(s.AuditDispatchCall, rank=of, received=rows.to_native())
        reports.append(audit.run(library.fusco_audit_dispatch, native, listed))
    return _joined(reports, check)


def audit_combine(
    ids: Iterable[Any],
    combined: Any,
    inputs: Iterable[Any],
    *,
    experts: int,
    weights: Any = None,
    outputs: Iterable[Any] | None = None,
    layout: str | Mapping[str, Any] = "fusco",
    order: str | None = None,
    previous: Iterable[Any] | None = None,
    rank: int | None = None,
    check: bool = True,
    listed: int = 10,
    **options: Any,
) -> AuditReport:
    """Asserts that each element of the combined rows is within the bound of the rounding errors of its sum.

    Args:
        ids: as in audit_dispatch.
        combined: what combine returned to each rank, [tokens, columns]; of one rank if `rank` is given.
        inputs: the rows that each rank dispatched.
        experts: logical experts.
        weights: gate weights of each rank, float32 [tokens, topk]; of one rank if `rank` is given. None: not weighted.
        outputs: what the experts of each rank returned, in the layout. None: they returned their input.
        layout: as in audit_dispatch; it says in which dtype sums are kept.
        order: order of addition that must give the bits of every row: docs/audit.md.
        previous, rank, check, listed, options: as in audit_dispatch.

    Raises:
        AssertionError, FuscoError: as audit_dispatch; E_DTYPE for rows that cannot be added
    """
    audit = _Audit(ids, inputs, previous, layout, {"experts": experts, **options})
    orders = _names(library.fusco_audit_order_name)
    number = 0 if order is None else 1 + choice("order", order, orders)
    kept, native_outputs = audit.outputs(outputs)
    reports = []
    read = audit.of_ranks("combined", combined, rank)
    given = {} if weights is None else audit.weights(weights, rank)
    for of, rows in read:
        audit.check_tokens("combined", of, rows, rows.shape[-1])
        native = s.sized(s.AuditCombineCall, rank=of, combined=rows.to_native(), outputs=native_outputs, order=number)
        if of in given:
            native.weights = given[of].to_native()
        reports.append(audit.run(library.fusco_audit_combine, native, listed))
    del kept
    return _joined(reports, check)
