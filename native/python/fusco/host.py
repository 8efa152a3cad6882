"""The host backend: dispatch, combine and their gradients on the CPU, over all ranks of a plan in one call."""

from __future__ import annotations

import functools
import os
from ctypes import byref
from typing import Any

from . import _structs as s
from ._library import Handle, call, library
from .exchanges import Exchanges, fp8_call
from .plan import Plan

__all__ = ["HostContext", "HostPlan", "shared_context"]


class HostContext:
    """Threads of the host backend.

    Args:
        threads: of an exchange, 1..1024; 0 means one per processor of this process.
    """

    def __init__(self, threads: int = 0) -> None:
        self._handle = Handle(library.fusco_context_destroy)
        options = s.sized(s.ContextOptions, threads=threads)
        call(library.fusco_context_create, byref(options), byref(self._handle.pointer))

    @property
    def threads(self) -> int:
        """Threads of an exchange, including the calling one."""
        return int(library.fusco_context_threads(self._handle.pointer))

    def prepare(self, plan: Plan) -> HostPlan:
        """Checks a plan and makes it ready for exchanges."""
        return HostPlan(self._handle, plan)

    def quantize(self, dtype: int, shape: tuple[int, int], values: int, codes: int, scales: int) -> None:
        """Rows to e4m3 codes with a float32 scale for each 128 elements; see fusco_fp8_quantize."""
        call(library.fusco_fp8_quantize, self._handle.pointer, byref(fp8_call(dtype, shape, values, codes, scales)))

    def dequantize(self, dtype: int, shape: tuple[int, int], values: int, codes: int, scales: int) -> None:
        """The inverse of quantize: code times scale, rounded once to the dtype."""
        call(library.fusco_fp8_dequantize, self._handle.pointer, byref(fp8_call(dtype, shape, values, codes, scales)))


def shared_context(threads: int = 0) -> HostContext:
    """The context of this process with this number of threads. Calls of all groups on it take turns."""
    return _context_of(threads, os.getpid())


@functools.cache
def _context_of(threads: int, process: int) -> HostContext:
    return HostContext(threads)


class HostPlan(Exchanges):
    """A plan in the form in which the host backend runs it. May be used by several threads, which take turns.

    Attributes:
        tokens: tokens of each rank.
        recv_rows: rows of each rank's receive buffer, padding included.
    """

    def __init__(self, context: Handle, plan: Plan) -> None:
        self._handle = Handle(library.fusco_plan_destroy)
        description = plan.description()
        call(library.fusco_plan_create, context.pointer, byref(description), byref(self._handle.pointer))
        ranks = range(plan.ranks)
        self.tokens = tuple(int(library.fusco_plan_tokens(self._handle.pointer, rank)) for rank in ranks)
        self.recv_rows = tuple(int(library.fusco_plan_recv_rows(self._handle.pointer, rank)) for rank in ranks)

    def _run(self, name: str, filled: Any) -> None:
        call(getattr(library, f"fusco_{name}"), self._handle.pointer, byref(filled), None)
