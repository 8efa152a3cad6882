"""The one exception class of this package, with the codes of the TypeScript package and of the C interface."""

from __future__ import annotations

import copyreg
from typing import Any

__all__ = ["FuscoError"]

_HINTS = {
    "E_OPTION": "Give a value inside the stated range.",
    "E_PLACEMENT": "A placement has one entry per expert: a rank, or a list of distinct ranks.",
    "E_LIMIT": "Use fewer ranks, expert instances or tokens in one plan, or raise max_tokens of the shuffle.",
    "E_MAX_ROWS": "Plan fewer tokens, set a capacity, add replicas, or raise max_recv_rows.",
    "E_ROUTING_SHAPE": "Routing is [tokens, topk] per rank with one topk for all ranks.",
    "E_ROUTING_DTYPE": "Give ids as integers of 8 to 64 bits.",
    "E_ROUTING_ID": "Ids lie in [0, experts); -1 means no expert. Check experts.",
    "E_ROUTING_DUPLICATE": "A token may choose an expert once. Mask the second choice with -1.",
    "E_RANKS": "The number of ranks must agree with the blocks of the routing or of the input.",
    "E_FACTS": "All ranks must plan with facts gathered in the same call and the same options.",
    "E_FILE_NOT_FOUND": "Check the path.",
    "E_FILE_READ": "Check that it is a readable file of the expected kind.",
    "E_FILE_WRITE": "Check that the directory exists and is writable, and the space left.",
    "E_SHAPE": "The tensor must have the shape that the plan asks for.",
    "E_PLAN_MAGIC": "This is not a plan file; make one with `fusco plan` or handle.save.",
    "E_PLAN_VERSION": "Update fusco, read the file with the version that wrote it, or plan again.",
    "E_PLAN_DIGEST": "The bytes changed after the plan was written; copy it again or plan again.",
    "E_ENTRY": "The plan is not the plan of this routing; plan again.",
    "E_BUFFER": "Give a contiguous tensor of at least the stated size.",
    "E_DTYPE": "Convert the tensor: rows and weights are float32, float16 or bfloat16.",
    "E_CLOSED": "Make a new ExpertShuffle; a closed one cannot be used.",
    "E_BACKEND": "docs/pytorch.md says what runs where.",
    "E_PEER_TIMEOUT": "Look at the named ranks first. FUSCO_DEADLINE_MS allows longer waits.",
    "E_PEER_MISMATCH": "Start every rank with the same program, version, plan and options.",
    "E_MEMORY": "Use fewer tokens a rank, or a machine with more memory.",
    "E_INTERNAL": "This is a bug; please report it with the program.",
}
_BROKEN_FILE = "The file was edited or written by something else; plan again."


class FuscoError(Exception):
    """An error with a stable code.

    Attributes:
        code: one of the codes of docs/errors.md, such as ``E_OPTION``.
        message: one line that names the thing, the value and the limit.
        hint: what to do about it.
        rank: the rank at fault, or None.
        path: the place inside a plan, such as ``/ranks/3/entries/17``; empty if there is none.
        value: what was found, or None.
        limit: what it was compared with, or None.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        rank: int | None = None,
        path: str = "",
        value: int | None = None,
        limit: int | None = None,
    ) -> None:
        self.code = code
        self.message = f"{path}: {message}" if path else message
        self.hint = hint if hint is not None else _HINTS.get(code, _BROKEN_FILE)
        self.rank = rank
        self.path = path
        self.value = value
        self.limit = limit

    def __str__(self) -> str:
        return f"{self.code} {self.message} ({self.hint})"

    def __reduce__(self) -> tuple[Any, ...]:
        # So that other processes, such as those of a pool, can raise it again.
        return copyreg.__newobj__, (type(self), self.code, self.message), self.__dict__  # type: ignore[attr-defined]
