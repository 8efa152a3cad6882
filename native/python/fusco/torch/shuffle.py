"""ExpertShuffle: dispatch and combine of one Mixture-of-Experts layer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Optional, Union

import torch
from torch import Tensor

from ..errors import FuscoError
from ..options import PlanOptions, count
from ..plan import Plan, load_plan
from ..recorder import Recorder
from . import fp8 as fp8_rows
from . import groups, ops  # noqa: F401  (ops defines the operators)
from .backends import open_transport
from .calls import FLOAT_NAMES, FLOATS
from .handle import Handle

__all__ = ["ExpertShuffle"]

#: Rows of float8 codes and their scales.
Quantized = tuple[Tensor, Tensor]
_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64)
_LARGEST_ID = 2**31 - 1


def _need(name: str, value: object, kind: type, code: str) -> None:
    if not isinstance(value, kind):
        raise FuscoError(code, f"{name} is a {type(value).__name__}", hint=f"Give a {kind.__name__}.")


class ExpertShuffle:
    """Sends tokens to their experts' ranks and returns the weighted sums of what the experts made.

    Args:
        process_group: one rank per process of this torch.distributed group. None with ``ranks``: all ranks in this
            process. None without: the default group if torch.distributed is initialized, else one rank.
        experts: logical experts, 1..65535.
        hidden: elements of a row.
        topk: experts per token, 1..256.
        max_tokens: most tokens of a rank in one call.
        ranks: ranks that all live in this process; tensors then hold the tokens or rows of all ranks, rank by rank.
        dtype: nominal dtype of rows in the plan; calls take float32, float16 and bfloat16 whatever it is.
        fp8: rows travel as e4m3 codes with a float32 scale for each 128 elements; combine and gradients do not.
        align: rows to which each expert's block is padded, with zeros.
        capacity: most rows of an expert instance; further ones are dropped. 0: no limit.
        placement: for each expert its rank or a list of ranks. None: contiguous blocks.
        replicas: which instance of an expert takes a row: ``quota-1`` or ``local``.
        strategy: ``hier`` or ``flat``.
        ranks_per_node: ranks that count as a node; with the default, 1, a row crosses once to each rank.
        sum: ``node`` adds per node and then the nodes; ``token`` adds in ascending k, with the same bits for any number
            of ranks. Flat plans always add by token.
        partial: dtype of a node's partial sum: ``payload`` or ``f32``.
        balance: which rank forwards: ``best``, ``static``, ``rotate`` or ``lpt``.
        max_recv_rows: rows of a rank's receive buffer. Shapes are then static; planning fails with E_MAX_ROWS on all
            ranks if one would receive more. None: buffers have exactly the plan's rows.
        backend: ``host``, the only one of this version. None chooses it.
        threads: threads of an exchange; 0: one per processor.
        deadline_ms: longest wait for other ranks. None: FUSCO_DEADLINE_MS, else 60000.

    With a process group the constructor is collective, as are ``dispatch``, ``combine`` and their gradients: all ranks
    make the same calls in the same order.

    Raises:
        FuscoError: E_OPTION, E_PLACEMENT, E_LIMIT; E_BACKEND; E_PEER_TIMEOUT, E_PEER_MISMATCH
    """

    def __init__(
        self,
        process_group: Optional[torch.distributed.ProcessGroup] = None,
        *,
        experts: int,
        hidden: int,
        topk: int,
        max_tokens: int,
        ranks: Optional[int] = None,
        dtype: torch.dtype = torch.bfloat16,
        fp8: bool = False,
        align: int = 1,
        capacity: int = 0,
        placement: Optional[Sequence[Union[int, Sequence[int]]]] = None,
        replicas: str = "quota-1",
        strategy: str = "hier",
        ranks_per_node: int = 1,
        sum: str = "node",
        partial: str = "payload",
        balance: str = "best",
        max_recv_rows: Optional[int] = None,
        backend: Optional[str] = None,
        threads: int = 0,
        deadline_ms: Optional[int] = None,
    ) -> None:
        self.hidden = count("hidden", hidden, 1, 2**24)
        self.topk = count("topk", topk, 1, 256)
        self.max_tokens = count("max_tokens", max_tokens, 0, 2**31 - 1)
        _need("fp8", fp8, bool, "E_OPTION")
        self.fp8 = fp8
        row_dtype = FLOAT_NAMES.get(dtype)
        if row_dtype is None:
            raise FuscoError("E_DTYPE", f"dtype is {dtype}; it must be float32, float16 or bfloat16")
        if strategy == "auto":
            raise FuscoError(
                "E_OPTION",
                "strategy auto is settled offline",
                hint="Compare strategies with `fusco plan --strategy auto`.",
            )
        opening = open_transport(process_group, ranks, backend, threads, deadline_ms)
        options = PlanOptions(
            experts=experts,
            ranks=opening.ranks,
            topk=topk,
            ranks_per_node=ranks_per_node,
            hidden=hidden,
            dtype="fp8" if fp8 else row_dtype,
            combine_dtype=row_dtype,
            align=align,
            capacity=capacity,
            strategy=strategy,
            balance=balance,
            partial=partial,
            sum=sum,
            replicas=replicas,
            placement=() if placement is None else placement,
            max_rows=0 if max_recv_rows is None else count("max_recv_rows", max_recv_rows, 1, 2**31 - 1),
        )
        group = groups.Group(
            opening.name, options, max_tokens, opening.make({**asdict(options), "max_tokens": max_tokens})
        )
        groups.register(group)
        #: Name of the group, which operators take; identical on all ranks.
        self.name = group.name
        #: Ranks of this process.
        self.local_ranks = tuple(group.transport.local_ranks)
        #: Logical experts of each local rank, in the order of their blocks.
        self.local_experts = group.local_experts
        self._rows = -1 if max_recv_rows is None else max_recv_rows * len(self.local_ranks)

    # -- the five lines

    def dispatch(
        self,
        x: Union[Tensor, Quantized],
        topk_ids: Optional[Tensor] = None,
        topk_weights: Optional[Tensor] = None,
        *,
        handle: Optional[Handle] = None,
        splits: Optional[Sequence[int]] = None,
    ) -> tuple[Any, Handle]:
        """Sends each token to the blocks of its experts.

        Args:
            x: [tokens, hidden], contiguous, float32, float16 or bfloat16; or codes float8_e4m3fn [tokens, hidden] with
                scales float32 [tokens, ceil(hidden / 128)], which get no gradient. With all ranks in this process also
                [ranks, tokens, hidden].
            topk_ids: [tokens, topk], integers; -1 is masked. Or give ``handle``.
            topk_weights: [tokens, topk], the router's; combine multiplies by them. None: combine is unweighted.
            handle: an earlier one, whose plan is used again.
            splits: tokens of each local rank; default: nearly equal blocks.

        Returns:
            rows [rows, hidden] in expert-major order, or (codes, scales) likewise; and the handle.

        Raises:
            FuscoError: E_SHAPE, E_DTYPE, E_BUFFER; E_ROUTING_*; E_LIMIT, E_MAX_ROWS; E_PEER_*; E_CLOSED
        """
        if handle is None:
            handle = self.plan(topk_ids, topk_weights, splits=splits)
        elif topk_ids is not None or topk_weights is not None:
            raise FuscoError(
                "E_OPTION", "both a handle and a routing were given", hint="Use handle.with_weights for other weights."
            )
        _need("handle", handle, Handle, "E_OPTION")
        if isinstance(x, (tuple, list)):
            codes, scales = self._check_quantized(x, handle.tokens)
            received = torch.ops.fusco.dispatch_quantized(codes, scales, handle.state, handle.rows, self.name)
            return received, handle
        tokens = self._check_rows("x", x, handle.tokens)
        operator = torch.ops.fusco.dispatch_fp8 if self.fp8 else torch.ops.fusco.dispatch
        return operator(tokens, handle.state, handle.rows, self.name), handle

    def combine(self, y: Tensor, handle: Handle) -> Tensor:
        """Sums the rows that a token's experts made, weighted by the handle's router weights.

        Args:
            y: [rows, hidden], contiguous: one row for each row that dispatch returned.
            handle: the one of that dispatch.

        Returns:
            [tokens, hidden] in y's dtype; +0 for a token without entries.

        Raises:
            FuscoError: E_SHAPE, E_DTYPE, E_BUFFER; E_PEER_*; E_CLOSED
        """
        _need("handle", handle, Handle, "E_OPTION")
        rows = self._check_rows("y", y, handle.rows if handle.rows >= 0 else None)
        return torch.ops.fusco.combine(rows, handle.topk_weights, handle.state, handle.tokens, self.name)

    # -- plans

    def plan(
        self,
        topk_ids: Optional[Tensor],
        topk_weights: Optional[Tensor] = None,
        *,
        splits: Optional[Sequence[int]] = None,
    ) -> Handle:
        """Plans a routing without moving rows; see dispatch. Collective."""
        ids = self._check_ids(topk_ids)
        counts = self._splits_of(ids.shape[0], splits)
        weights = self.check_weights(topk_weights, ids.shape[0])
        state, offsets, expert_counts = torch.ops.fusco.plan(ids, self.name, counts)
        return Handle(self, state, offsets, expert_counts, weights, ids.shape[0], self._rows)

    def use_plan(self, plan: Union[Plan, str, os.PathLike[str]], topk_weights: Optional[Tensor] = None) -> Handle:
        """The handle of a plan file, for example one that ``fusco plan`` made.

        Args:
            plan: its path, or what ``fusco.load_plan`` returned; experts, topk, ranks and placement are those of this
                object, all other options are the plan's.
            topk_weights: as for dispatch.

        Raises:
            FuscoError: E_RANKS, E_OPTION, E_LIMIT, E_MAX_ROWS; as fusco.load_plan
        """
        loaded = plan if isinstance(plan, Plan) else load_plan(plan)
        group = self.group()
        state = group.adopt(loaded, loaded.file_bytes())
        prepared = group.prepared(state)
        offsets = torch.tensor(prepared.expert_offsets, dtype=torch.int32)
        counts = torch.tensor(prepared.expert_counts, dtype=torch.int32)
        weights = self.check_weights(topk_weights, prepared.tokens)
        return Handle(self, state, offsets, counts, weights, prepared.tokens, self._rows)

    def record(self, path: str | os.PathLike[str]) -> Optional[Recorder]:
        """Writes the routing of every plan from now on, in the format of ``group.record``; ``fusco plan`` reads it.

        Returns the recorder, which ends the recording when it is closed; None on other ranks than rank 0, which writes.

        Raises:
            FuscoError: E_FILE_WRITE, E_FILE_READ
        """
        group = self.group()
        if 0 not in group.transport.local_ranks:
            return None
        group.recorder = Recorder(path)
        return group.recorder

    def dispatch_weights(self, handle: Handle) -> Tensor:
        """The router weight of each received row; see Handle.row_weights."""
        if handle.topk_weights is None:
            raise FuscoError("E_OPTION", "the handle has no router weights", hint="Give topk_weights to dispatch.")
        return torch.ops.fusco.dispatch_weights(handle.topk_weights, handle.state, handle.rows, self.name)

    # -- the end

    def group(self) -> groups.Group:
        """What stands behind the name. Raises E_CLOSED."""
        return groups.find(self.name)

    def close(self) -> None:
        """Releases plans and shared memory; every later use raises E_CLOSED. Closing twice is harmless."""
        groups.forget(self.name)

    def __enter__(self) -> ExpertShuffle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- checks

    def check_weights(self, weights: Optional[Tensor], tokens: int) -> Optional[Tensor]:
        """Router weights as float32 [tokens, topk]. Raises E_SHAPE, E_DTYPE, E_BUFFER."""
        if weights is None:
            return None
        _need("topk_weights", weights, Tensor, "E_DTYPE")
        if weights.dtype not in FLOATS:
            raise FuscoError("E_DTYPE", f"topk_weights are {weights.dtype}; they must be float32, float16 or bfloat16")
        flat = weights.flatten(0, 1) if weights.dim() == 3 else weights
        self._check_tensor("topk_weights", flat, (tokens, self.topk))
        return flat.to(torch.float32)

    def _check_ids(self, ids: Optional[Tensor]) -> Tensor:
        if ids is None:
            raise FuscoError("E_OPTION", "neither topk_ids nor a handle was given", hint="Give one of them.")
        _need("topk_ids", ids, Tensor, "E_ROUTING_DTYPE")
        if ids.dtype not in _INTEGERS:
            raise FuscoError("E_ROUTING_DTYPE", f"topk_ids are {ids.dtype}")
        flat = ids.flatten(0, 1) if ids.dim() == 3 else ids
        if flat.dim() != 2 or flat.shape[1] != self.topk:
            raise FuscoError("E_ROUTING_SHAPE", f"topk_ids have shape {tuple(ids.shape)}, not [tokens, {self.topk}]")
        self._check_tensor("topk_ids", flat, tuple(flat.shape))
        if flat.dtype == torch.int32:
            return flat
        if flat.dtype == torch.uint64:
            flat = flat.view(torch.int64)
            flat = torch.where(flat < 0, _LARGEST_ID, flat)
        # Ids beyond 32 bits stay outside every range, and are refused with the others.
        return flat.to(torch.int64).clamp(-2, _LARGEST_ID).to(torch.int32)

    def _check_quantized(self, pair: Any, tokens: int) -> Quantized:
        if len(pair) != 2:
            raise FuscoError("E_DTYPE", f"x has {len(pair)} tensors", hint="Give one tensor, or codes and scales.")
        codes, scales = pair
        _need("codes", codes, Tensor, "E_DTYPE")
        _need("scales", scales, Tensor, "E_DTYPE")
        fp8_rows.check_pair(codes, scales)
        self._check_tensor("the codes", codes, (tokens, self.hidden))
        return codes, scales

    def _check_rows(self, name: str, rows: Tensor, needed: Optional[int]) -> Tensor:
        _need(name, rows, Tensor, "E_DTYPE")
        if rows.dtype not in FLOATS:
            raise FuscoError("E_DTYPE", f"{name} is {rows.dtype}; it must be float32, float16 or bfloat16")
        flat = rows.flatten(0, 1) if rows.dim() == 3 else rows
        self._check_tensor(name, flat, (flat.shape[0] if needed is None else needed, self.hidden))
        return flat

    def _check_tensor(self, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
        if tensor.device.type != "cpu":
            raise FuscoError(
                "E_BACKEND",
                f"{name} is on {tensor.device}; the backends for it are not in this version of the Python package",
                hint="Give CPU tensors: this version has the host backend only.",
            )
        if tuple(tensor.shape) != shape:
            raise FuscoError("E_SHAPE", f"{name} has shape {tuple(tensor.shape)}, not {shape}")
        if not tensor.is_contiguous():
            raise FuscoError("E_BUFFER", f"{name} is not contiguous", hint=f"Give {name}.contiguous().")

    def _splits_of(self, tokens: int, splits: Optional[Sequence[int]]) -> list[int]:
        """Tokens of each local rank."""
        ranks = len(self.local_ranks)
        if splits is None:
            counts = [tokens * (rank + 1) // ranks - tokens * rank // ranks for rank in range(ranks)]
        else:
            if isinstance(splits, int):
                raise FuscoError("E_SHAPE", f"splits is {splits!r}; it must list the tokens of each local rank")
            counts = [count("a split", split) for split in splits]
            if len(counts) != ranks or sum(counts) != tokens:
                raise FuscoError("E_SHAPE", f"splits {counts} do not divide {tokens} tokens among {ranks} local ranks")
        for rank, most in zip(self.local_ranks, counts):
            if most > self.max_tokens:
                raise FuscoError(
                    "E_LIMIT",
                    f"rank {rank} has {most} tokens > max_tokens {self.max_tokens}",
                    rank=rank,
                    value=most,
                    limit=self.max_tokens,
                )
        return counts
