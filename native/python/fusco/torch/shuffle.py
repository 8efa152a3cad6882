"""ExpertShuffle: dispatch and combine of one Mixture-of-Experts layer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Optional, TypeVar, Union

import torch
from torch import Tensor

from ..errors import FuscoError
from ..options import PlanOptions, count
from ..plan import Plan, load_plan
from ..recorder import Recorder
from . import fp8 as fp8_rows
from . import groups, ops
from .arguments import Arguments, need
from .backends import Choices, choose
from .calls import FLOAT_NAMES
from .device_group import DeviceGroup
from .device_state import views_of
from .handle import Handle, TensorOrList, joined_blocks
from .host_group import HostGroup

__all__ = ["ExpertShuffle"]

#: Rows of float8 codes and their scales.
Quantized = tuple[TensorOrList, TensorOrList]
_Rows = TypeVar("_Rows", Tensor, list[Tensor])


class ExpertShuffle:
    """Sends tokens to their experts' ranks and returns the weighted sums of what the experts made.

    Args:
        process_group: one rank per process of this torch.distributed group. None with ``ranks``: all ranks in this
            process. None without: the default group if torch.distributed is initialized, else one rank.
        experts: logical experts, 1..65535.
        hidden: elements of a row.
        topk: experts per token, 1..256.
        max_tokens: most tokens of a rank in one call.
        ranks: ranks that all live in this process; tensors then hold the tokens or rows of all ranks, rank by rank. On
            GPUs each argument may be a list with one tensor for each rank, and must be one if ranks are on several GPUs
            or have a bound; results are lists then.
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
        max_recv_rows: rows of a rank's receive buffer. Shapes are then static. If a rank would receive more, planning
            fails with E_MAX_ROWS on all ranks; on GPUs those rows are dropped and counted. None: buffers have exactly
            the plan's rows; on GPUs each dispatch waits for planning to learn how many there are.
        backend: ``host`` for tensors of the CPU; ``cuda`` for all ranks in this process, on one or several GPUs;
            ``nccl`` for one process per GPU. None: ``nccl`` for a process group that has NCCL, else ``cuda`` where that
            is the default device of PyTorch, else ``host``.
        devices: GPU of each local rank, or one for all. None: the current one.
        threads: threads of an exchange of the host backend; 0: one per processor.
        sms: most SMs of a GPU that an exchange occupies; 0: the default of the native library.
        deadline_ms: longest wait for other ranks, 100..86400000. None: FUSCO_DEADLINE_MS, else 60000.

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
        devices: Union[int, Sequence[int], None] = None,
        threads: int = 0,
        sms: int = 0,
        deadline_ms: Optional[int] = None,
    ) -> None:
        self.hidden = count("hidden", hidden, 1, 2**24)
        self.topk = count("topk", topk, 1, 256)
        self.max_tokens = count("max_tokens", max_tokens, 0, 2**31 - 1)
        need("fp8", fp8, bool, "E_OPTION")
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
        opening = choose(Choices(process_group, ranks, backend, devices, threads, sms, deadline_ms))
        options = PlanOptions(
            experts=count("experts", experts, 1, 65535),
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
        group = opening.make(options, max_tokens, {**asdict(options), "max_tokens": max_tokens})
        groups.register(group)
        #: Name of the group, which operators take; identical on all ranks.
        self.name = group.name
        #: ``host``, ``cuda`` or ``nccl``.
        self.backend = opening.backend
        #: Ranks of this process.
        self.local_ranks = group.local_ranks
        #: Logical experts of each local rank, in the order of their blocks.
        self.local_experts = group.local_experts
        self._bound = -1 if max_recv_rows is None else max_recv_rows
        self._views = group.views if isinstance(group, DeviceGroup) else None
        # On the CPU one tensor has the rows of all local ranks.
        places, needs_lists = [torch.device("cpu")], False
        if isinstance(group, DeviceGroup):
            places = [group.device(part) for part in range(len(self.local_ranks))]
            needs_lists = group.spans_devices
        self._arguments = Arguments(group, self.hidden, places, needs_lists)
        self._is_each = self._arguments.is_each

    # -- the five lines

    def dispatch(
        self,
        x: Union[TensorOrList, Quantized],
        topk_ids: Optional[TensorOrList] = None,
        topk_weights: Optional[TensorOrList] = None,
        *,
        handle: Optional[Handle] = None,
        splits: Optional[Sequence[int]] = None,
    ) -> tuple[Any, Handle]:
        """Sends each token to the blocks of its experts.

        Args:
            x: [tokens, hidden], contiguous, float32, float16 or bfloat16; or a tuple of codes float8_e4m3fn
                [tokens, hidden] and scales float32 [tokens, ceil(hidden / 128)], which get no gradient. An axis in
                front, as in [ranks, tokens, hidden] or [batch, sequence, hidden], is joined with the tokens.
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
        need("handle", handle, Handle, "E_OPTION")
        if isinstance(x, tuple):
            return self._dispatch_quantized(x, handle), handle
        parts = self._arguments.rows("x", x, handle.token_counts)
        operator = ops.dispatch_fp8 if self.fp8 else ops.dispatch
        rows = operator.call(self._is_each, parts, handle.states, handle.row_counts, self.name)
        self._learn_rows(handle, rows)
        return self.joined(rows, isinstance(x, list)), handle

    def combine(self, y: _Rows, handle: Handle) -> _Rows:
        """Sums the rows that a token's experts made, weighted by the handle's router weights.

        Args:
            y: [rows, hidden], contiguous: one row for each row that dispatch returned.
            handle: the one of that dispatch.

        Returns:
            [tokens, hidden] in y's dtype; +0 for a token without entries.

        Raises:
            FuscoError: E_SHAPE, E_DTYPE, E_BUFFER; E_PEER_*; E_CLOSED
        """
        need("handle", handle, Handle, "E_OPTION")
        parts = self._arguments.rows("y", y, self._known_rows(handle))
        summed = ops.combine.call(self._is_each, parts, handle.weights, handle.states, handle.token_counts, self.name)
        return self.joined(summed, isinstance(y, list))

    # -- plans

    def plan(
        self,
        topk_ids: Optional[TensorOrList],
        topk_weights: Optional[TensorOrList] = None,
        *,
        splits: Optional[Sequence[int]] = None,
    ) -> Handle:
        """Plans a routing without moving rows; see dispatch. Collective."""
        if topk_ids is None:
            raise FuscoError("E_OPTION", "neither topk_ids nor a handle was given", hint="Give one of them.")
        is_list = self._is_each and isinstance(topk_ids, list)
        ids = self._arguments.ids(topk_ids)
        counts = [table.shape[0] for table in ids]
        if is_list:
            self._arguments.check_counts(counts)
        else:
            counts = self._arguments.splits_of(ids[0].shape[0], splits)
        if self._is_each and not is_list:
            if self._bound >= 0:
                raise FuscoError(
                    "E_OPTION",
                    f"topk_ids is one tensor for {len(self.local_ranks)} ranks with max_recv_rows",
                    hint="Give lists with one tensor for each rank: each rank's rows end in a different place.",
                )
            ids = list(ids[0].split(counts))
        tokens = counts if self._is_each else [ids[0].shape[0]]
        weights = self._arguments.weights(topk_weights, tokens)
        states = ops.plan.call(self._is_each, ids, self.name, None if self._is_each else counts)
        bound = self._bound if self._is_each or self._bound < 0 else self._bound * len(self.local_ranks)
        return Handle(self, states, self._blocks(states, is_list), weights, tokens, [bound] * len(states), ids, is_list)

    def use_plan(self, plan: Union[Plan, str, os.PathLike[str]], topk_weights: Optional[TensorOrList] = None) -> Handle:
        """The handle of a plan file, for example one that ``fusco plan`` made. Collective.

        On the CPU any plan with these experts, topk, ranks and placement is executed. On GPUs all options must be those
        of this object: the GPU makes the plan again from its routing. The CPU proves before that it will be the same
        plan, which takes milliseconds.

        Args:
            plan: its path, or what ``fusco.load_plan`` returned.
            topk_weights: as for dispatch.

        Raises:
            FuscoError: E_RANKS, E_OPTION, E_LIMIT, E_MAX_ROWS; as fusco.load_plan
        """
        group = self.group()
        if isinstance(group, DeviceGroup):
            return self._use_on_devices(group, plan, topk_weights)
        assert isinstance(group, HostGroup)
        loaded = plan if isinstance(plan, Plan) else load_plan(plan)
        states = [group.adopt(loaded, loaded.file_bytes())]
        prepared = group.open(states)
        tokens = [prepared.tokens]
        weights = self._arguments.weights(topk_weights, tokens)
        rows = [self._bound * len(self.local_ranks) if self._bound >= 0 else -1]
        return Handle(self, states, self._blocks(states, False), weights, tokens, rows, None, False)

    def record(self, path: str | os.PathLike[str]) -> Optional[Recorder]:
        """Writes the routing of every plan from now on, in the format of ``group.record``; ``fusco plan`` reads it.

        Collective. On GPUs every plan waits while it is recorded. Returns the recorder, which ends the recording when
        it is closed; None on other ranks than rank 0, which writes.

        Raises:
            FuscoError: E_FILE_WRITE, E_FILE_READ; E_OPTION while another recorder is open
        """
        return self.group().record(path)

    def weights_of(self, topk_weights: Optional[TensorOrList], token_counts: Sequence[int]) -> Optional[list[Tensor]]:
        """Router weights in the form that a handle keeps; see Handle.with_weights."""
        return self._arguments.weights(topk_weights, token_counts)

    def dispatch_weights(self, handle: Handle) -> TensorOrList:
        """The router weight of each received row; see Handle.row_weights."""
        if handle.weights is None:
            raise FuscoError("E_OPTION", "the handle has no router weights", hint="Give topk_weights to dispatch.")
        arguments = (handle.weights, handle.states, handle.row_counts, self.name)
        return self.joined(ops.dispatch_weights.call(self._is_each, *arguments), handle.is_list)

    def origins(self, handle: Handle) -> TensorOrList:
        """Where each received row comes from; see Handle.origins."""
        made = ops.origins.call(self._is_each, handle.states, handle.row_counts, self.name)
        return self.joined(made, handle.is_list)

    def row_totals(self, handle: Handle) -> tuple[TensorOrList, TensorOrList]:
        """Rows of the plan, and those beyond the bound; see Handle.recv_rows and Handle.overflow_rows."""
        if self._views is None:
            prepared = self.group().open(handle.states)
            return torch.tensor([prepared.recv_rows], dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
        found = [views_of(state, views)[2:] for state, views in zip(handle.states, self._views)]
        rows, overflow = (self.joined(list(totals), handle.is_list) for totals in zip(*found))
        return rows, overflow

    def check(self, handle: Handle) -> list[int]:
        """Waits for planning and raises its errors; see Handle.check."""
        group = self.group()
        if isinstance(group, DeviceGroup):
            return group.check(handle.states)
        return [group.open(handle.states).recv_rows]

    def check_peers(self) -> None:
        """Raises what exchanges on GPUs have found until now, without waiting. Every other call does so as well.

        Raises:
            FuscoError: E_PEER_TIMEOUT names the ranks that did not arrive before the deadline; E_PEER_MISMATCH
        """
        group = self.group()
        if isinstance(group, DeviceGroup):
            group.check_peers()

    def __repr__(self) -> str:
        return f"ExpertShuffle({self.name!r}, backend={self.backend!r}, local_ranks={list(self.local_ranks)})"

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

    # -- lists

    def joined(self, parts: Sequence[Tensor], is_list: bool) -> TensorOrList:
        """A result in the form of the arguments: a list, or one tensor."""
        if is_list:
            return list(parts)
        return parts[0] if len(parts) == 1 else torch.cat(list(parts))

    def _blocks(self, states: list[Tensor], is_list: bool) -> tuple[TensorOrList, TensorOrList]:
        """expert_offsets and expert_counts."""
        if self._views is None:
            offsets, counts = ops.blocks.call(False, states, self.name)
            return offsets[0], counts[0]
        found = [views_of(state, views)[:2] for state, views in zip(states, self._views)]
        if is_list:
            return [offsets for offsets, _ in found], [counts for _, counts in found]
        return joined_blocks(found)  # type: ignore[arg-type]

    def _use_on_devices(
        self, group: DeviceGroup, plan: Union[Plan, str, os.PathLike[str]], topk_weights: Optional[TensorOrList]
    ) -> Handle:
        ids: list[Tensor] = []
        plan_id, failure = "", None
        try:
            loaded = plan if isinstance(plan, Plan) else load_plan(plan)
            ids, plan_id = group.adopt(loaded), loaded.plan_id()
        except FuscoError as error:
            failure = error
        group.agree("use_plan", failure)
        group.agree(f"use_plan {plan_id}")
        takes_list = isinstance(topk_weights, list) or self._arguments.needs_lists or self._bound >= 0
        if not self._is_each or takes_list:
            return self.plan(ids if self._is_each else ids[0], topk_weights)
        return self.plan(torch.cat(ids), topk_weights, splits=[table.shape[0] for table in ids])

    def _dispatch_quantized(self, pair: Quantized, handle: Handle) -> Any:
        if len(pair) != 2:
            raise FuscoError("E_DTYPE", f"x has {len(pair)} tensors", hint="Give one tensor, or codes and scales.")
        codes, scales = self._arguments.quantized(*pair, handle.token_counts)
        for each in zip(codes, scales):
            fp8_rows.check_pair(*each)
        made = ops.dispatch_quantized.call(self._is_each, codes, scales, handle.states, handle.row_counts, self.name)
        self._learn_rows(handle, made[0])
        return tuple(self.joined(parts, isinstance(pair[0], list)) for parts in made)

    def _learn_rows(self, handle: Handle, rows: Sequence[Tensor]) -> None:
        """Keeps what the host has learned about a plan of a GPU."""
        if self._views is not None and self._bound < 0 and not torch.compiler.is_compiling():
            handle.row_counts = [part.shape[0] for part in rows]

    def _known_rows(self, handle: Handle) -> Optional[list[int]]:
        """Rows that combine must be given; None if the operator finds out."""
        if handle.has_row_counts:
            return handle.row_counts
        if self._views is None or torch.compiler.is_compiling():
            return None
        handle.row_counts = self.check(handle)
        return handle.row_counts
