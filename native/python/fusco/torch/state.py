"""The state of a handle: one uint8 tensor from which the plan follows.

    bytes 0..7     "FUSCOST1"
    bytes 8..23    u32 x 4: kind, ranks, topk, max_tokens
    bytes 24..55   SHA-256 of the plan's options
    bytes 56..87   SHA-256 of what follows byte 128, the key of prepared plans
    bytes 128..    kind 0: u32 [ranks] tokens of each rank, then i32 [ranks, max_tokens, topk] expert ids, then -1
                   kind 1: a plan file

A state of kind 0 has the same size for every routing, so shapes are static. The ids of all ranks are what a plan is a
function of: where native code does not keep the plan any more, it makes the same one again, without other ranks.
"""

from __future__ import annotations

import ctypes
import hashlib
import struct
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..errors import FuscoError

MAGIC = b"FUSCOST1"
HEAD_BYTES = 128
KIND_IDS = 0
KIND_FILE = 1
_WORDS = struct.Struct("<4I")


class Head(NamedTuple):
    """What the first bytes of a state say."""

    kind: int
    ranks: int
    topk: int
    max_tokens: int
    options_digest: bytes
    key: bytes


def state_bytes(ranks: int, topk: int, max_tokens: int) -> int:
    """Size of a state of kind 0."""
    return HEAD_BYTES + 4 * ranks + 4 * ranks * max_tokens * topk


def state_of_ids(ids: Sequence[torch.Tensor], topk: int, max_tokens: int, options_digest: bytes) -> torch.Tensor:
    """A state of kind 0.

    Args:
        ids: int32 [tokens, topk] of every rank, at most max_tokens each.
    """
    ranks = len(ids)
    body = torch.full((ranks + ranks * max_tokens * topk,), -1, dtype=torch.int32)
    body[:ranks] = torch.tensor([table.shape[0] for table in ids], dtype=torch.int32)
    tables = body[ranks:].view(ranks, max_tokens, topk)
    for rank, table in enumerate(ids):
        tables[rank, : table.shape[0]] = table
    return _with_head(KIND_IDS, ranks, topk, max_tokens, options_digest, body.view(torch.uint8))


def state_of_file(data: bytes, ranks: int, topk: int, options_digest: bytes) -> torch.Tensor:
    """A state of kind 1, from the bytes of a plan file."""
    body = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return _with_head(KIND_FILE, ranks, topk, 0, options_digest, body)


def _with_head(
    kind: int, ranks: int, topk: int, max_tokens: int, options_digest: bytes, body: torch.Tensor
) -> torch.Tensor:
    key = hashlib.sha256(body.numpy().data).digest()
    words = _WORDS.pack(kind, ranks, topk, max_tokens)
    head = (MAGIC + words + options_digest + key).ljust(HEAD_BYTES, b"\0")
    return torch.cat([torch.frombuffer(bytearray(head), dtype=torch.uint8), body])


def head_of(state: torch.Tensor) -> Head:
    """Reads the head. Raises E_OPTION if the tensor is no state."""
    is_bytes = state.dtype == torch.uint8 and state.dim() == 1 and state.is_contiguous()
    # The memory itself: a slice and its elements would take longer than the rest of a call.
    head = ctypes.string_at(state.data_ptr(), HEAD_BYTES) if is_bytes and state.numel() >= HEAD_BYTES else b""
    if not head.startswith(MAGIC):
        raise FuscoError("E_OPTION", "the tensor is not the state of a handle", hint="Give handle.state.")
    kind, ranks, topk, max_tokens = _WORDS.unpack_from(head, len(MAGIC))
    return Head(kind, ranks, topk, max_tokens, head[24:56], head[56:88])


def check_body(state: torch.Tensor, head: Head) -> None:
    """Raises E_OPTION if the state is not the one that was made."""
    if hashlib.sha256(state[HEAD_BYTES:].numpy().data).digest() == head.key:
        size = state_bytes(head.ranks, head.topk, head.max_tokens)
        if head.kind == KIND_FILE or (head.kind == KIND_IDS and len(state) == size):
            return
    raise FuscoError(
        "E_OPTION", "the state of the handle was changed", hint="Give handle.state, or a copy of all its bytes."
    )


def ids_in(state: torch.Tensor, head: Head) -> list[torch.Tensor]:
    """int32 [tokens, topk] of every rank, views of a state of kind 0."""
    words = state[HEAD_BYTES:].view(torch.int32)
    tokens = words[: head.ranks].tolist()
    tables = words[head.ranks :].view(head.ranks, head.max_tokens, head.topk)
    return [tables[rank, :count] for rank, count in enumerate(tokens)]


def file_in(state: torch.Tensor) -> bytes:
    """The plan file in a state of kind 1."""
    return bytes(state[HEAD_BYTES:].numpy())
