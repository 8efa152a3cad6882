"""Arguments of a layer's calls: checked, and divided among the local ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Optional

import torch
from torch import Tensor

from ..errors import FuscoError
from ..options import count
from .calls import FLOATS
from .groups import Group

__all__ = ["Arguments", "need"]

#: Checks one tensor of an argument, given its name, its device and the length of its first axis, or None.
_Check = Callable[[str, Tensor, torch.device, Optional[int]], Tensor]
_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64)
_LARGEST_ID = 2**31 - 1


def need(name: str, value: object, kind: type, code: str) -> None:
    """Raises `code` unless a value is of a type."""
    if not isinstance(value, kind):
        raise FuscoError(code, f"{name} is a {type(value).__name__}", hint=f"Give a {kind.__name__}.")


class Arguments:
    """What tensors a group takes.

    Attributes:
        devices: of each part of an argument: of each local rank, or one for all.
        is_each: whether arguments have a part for each local rank, and may be lists.
        needs_lists: whether such arguments must be lists.
    """

    def __init__(self, group: Group, hidden: int, devices: Sequence[torch.device], needs_lists: bool) -> None:
        self.devices = list(devices)
        self.is_each = len(self.devices) > 1
        self.needs_lists = needs_lists
        self._takes_any_ids = torch.int64 in group.id_dtypes
        self._local_ranks = group.local_ranks
        self._topk = group.options.topk
        self._max_tokens = group.max_tokens
        self._hidden = hidden

    def ids(self, ids: Any) -> list[Tensor]:
        """Expert ids, [tokens, topk]. One tensor is not divided. Raises E_ROUTING_DTYPE, E_ROUTING_SHAPE."""
        return self._parts("topk_ids", ids, "E_ROUTING_DTYPE", None, self._check_ids)

    def weights(self, weights: Any, counts: Sequence[int]) -> Optional[list[Tensor]]:
        """Router weights as float32 [tokens, topk]. Raises E_SHAPE, E_DTYPE, E_BUFFER."""
        if weights is None:
            return None
        return self._parts("topk_weights", weights, "E_DTYPE", counts, self._check_weights)

    def rows(self, name: str, rows: Any, counts: Optional[Sequence[int]]) -> list[Tensor]:
        """Tokens or received rows, [counts, hidden]; None: any number. Raises E_SHAPE, E_DTYPE, E_BUFFER."""
        return self._parts(name, rows, "E_DTYPE", counts, self._check_rows)

    def quantized(self, codes: Any, scales: Any, counts: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Rows of fp8 codes, and their scales. Raises E_SHAPE, E_DTYPE, E_BUFFER."""
        checked = self._parts("codes", codes, "E_DTYPE", counts, self._check_codes)
        return checked, self._parts("scales", scales, "E_DTYPE", counts, _check_scales)

    def splits_of(self, tokens: int, splits: Optional[Sequence[int]]) -> list[int]:
        """Tokens of each local rank."""
        ranks = len(self._local_ranks)
        if splits is None:
            counts = [tokens * (rank + 1) // ranks - tokens * rank // ranks for rank in range(ranks)]
        else:
            if isinstance(splits, int):
                raise FuscoError("E_SHAPE", f"splits is {splits!r}; it must list the tokens of each local rank")
            counts = [count("a split", split) for split in splits]
            if len(counts) != ranks or sum(counts) != tokens:
                raise FuscoError("E_SHAPE", f"splits {counts} do not divide {tokens} tokens among {ranks} local ranks")
        self.check_counts(counts)
        return counts

    def check_counts(self, counts: Sequence[int]) -> None:
        """Raises E_LIMIT if a rank has more than max_tokens tokens."""
        for rank, most in zip(self._local_ranks, counts):
            if most > self._max_tokens:
                raise FuscoError(
                    "E_LIMIT",
                    f"rank {rank} has {most} tokens > max_tokens {self._max_tokens}",
                    rank=rank,
                    value=most,
                    limit=self._max_tokens,
                )

    def _parts(self, name: str, value: Any, code: str, counts: Optional[Sequence[int]], check: _Check) -> list[Tensor]:
        """The tensors of an argument, one for each state, checked. One tensor is divided by `counts`, if given."""
        if isinstance(value, list) and self.is_each:
            if len(value) != len(self._local_ranks):
                raise FuscoError("E_SHAPE", f"{name} lists {len(value)} tensors for {len(self._local_ranks)} ranks")
            needed = counts if counts is not None else [None] * len(value)
            for each in value:
                need(name, each, Tensor, code)
            return [check(name, *each) for each in zip(value, self.devices, needed)]
        need(name, value, Tensor, code)
        if self.needs_lists:
            raise FuscoError("E_SHAPE", f"{name} is one tensor for several GPUs", hint="Give a list with one per rank.")
        flat = value.flatten(0, 1) if value.dim() == 3 else value
        checked = check(name, flat, self.devices[0], None if counts is None else sum(counts))
        return [checked] if not self.is_each or counts is None else list(checked.split(list(counts)))

    def _check_weights(self, name: str, weights: Tensor, device: torch.device, tokens: Optional[int]) -> Tensor:
        if weights.dtype not in FLOATS:
            raise FuscoError("E_DTYPE", f"{name} are {weights.dtype}; they must be float32, float16 or bfloat16")
        _check_tensor(name, weights, device, (tokens, self._topk))
        return weights.to(torch.float32)

    def _check_ids(self, name: str, ids: Tensor, device: torch.device, tokens: Optional[int]) -> Tensor:
        if ids.dtype not in _INTEGERS:
            raise FuscoError("E_ROUTING_DTYPE", f"{name} are {ids.dtype}")
        if ids.dim() != 2 or ids.shape[1] != self._topk:
            raise FuscoError("E_ROUTING_SHAPE", f"{name} have shape {tuple(ids.shape)}, not [tokens, {self._topk}]")
        _check_tensor(name, ids, device, tuple(ids.shape))
        if self._takes_any_ids or ids.dtype == torch.int32:
            return ids
        if ids.dtype == torch.uint64:
            ids = ids.view(torch.int64)
            ids = torch.where(ids < 0, _LARGEST_ID, ids)
        # Ids beyond 32 bits stay outside every range, and are refused with the others.
        return ids.to(torch.int64).clamp(-2, _LARGEST_ID).to(torch.int32)

    def _check_codes(self, name: str, codes: Tensor, device: torch.device, tokens: Optional[int]) -> Tensor:
        if codes.dtype != torch.float8_e4m3fn:
            raise FuscoError("E_DTYPE", f"{name} are {codes.dtype}, not float8_e4m3fn")
        _check_tensor(name, codes, device, (tokens, self._hidden))
        return codes

    def _check_rows(self, name: str, rows: Tensor, device: torch.device, needed: Optional[int]) -> Tensor:
        if rows.dtype not in FLOATS:
            raise FuscoError("E_DTYPE", f"{name} is {rows.dtype}; it must be float32, float16 or bfloat16")
        _check_tensor(name, rows, device, (rows.shape[0] if needed is None else needed, self._hidden))
        return rows


def _check_scales(name: str, scales: Tensor, device: torch.device, tokens: Optional[int]) -> Tensor:
    _check_tensor(name, scales, device, tuple(scales.shape))
    return scales


def _check_tensor(name: str, tensor: Tensor, device: torch.device, shape: tuple[Any, ...]) -> None:
    if tensor.device != device:
        raise FuscoError(
            "E_BACKEND",
            f"{name} is on {tensor.device}, the ExpertShuffle works on {device}",
            hint="Give tensors of that device, or make the ExpertShuffle with another backend or devices.",
        )
    if tuple(tensor.shape) != shape:
        raise FuscoError("E_SHAPE", f"{name} has shape {tuple(tensor.shape)}, not {shape}")
    if not tensor.is_contiguous():
        raise FuscoError("E_BUFFER", f"{name} is not contiguous", hint=f"Give {name}.contiguous().")
