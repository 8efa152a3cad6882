"""The group of the backends for GPUs: plan buffers in device memory, and calls that enqueue.

A state is one rank's plan buffer. The host knows what does not depend on the routing; it learns the rest only where it
asks, which waits for planning: the rows of a receive buffer without a bound, errors of ids, and shards.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Optional, Protocol

import torch

from ..device_plan import DeviceIds, DevicePlan, plan_buffer_bytes, plan_limits
from ..errors import FuscoError
from ..exchanges import FP8_BLOCK, Buffers
from ..ids import IdTable
from ..options import DTYPE_BYTES, PlanOptions
from ..plan import Plan
from ..planner import Planner
from ..recorder import Recorder
from ..shard import blocks_of
from . import accelerator
from .calls import ALWAYS, NARROW, UNSUMMED, Array, Call, Parts
from .device_memory import DeviceMemory
from .device_state import buffers_of, find_views, views_of
from .given_plans import check_fits, check_same, check_sizes, ids_of
from .groups import Group, RowWork, check_given_rows

# fusco_id_dtype of each dtype.
_IDS = {
    torch.int32: 0,
    torch.int64: 1,
    torch.int16: 2,
    torch.uint16: 3,
    torch.int8: 4,
    torch.uint8: 5,
    torch.uint32: 6,
    torch.uint64: 7,
}
#: Plans that are kept. They hold addresses, no device memory.
MOST_PLANS = 1024
# Plans in copies of states. One is needed during one call.
_MOST_COPIES = 16
# Rows and addresses that are multiples of this go with the widest access of a GPU.
_WIDE_BYTES = 16


class Transport(Protocol):
    """Where the ranks of a group live."""

    @property
    def local_ranks(self) -> Sequence[int]: ...

    @property
    def devices(self) -> Sequence[int]:
        """Number of each local rank's GPU."""

    @property
    def memory(self) -> Sequence[DeviceMemory]:
        """Memory that other ranks reach, for each local rank."""

    @property
    def has_peers(self) -> bool:
        """Whether there are ranks on other devices, which need such memory."""

    def followed(self) -> AbstractContextManager[None]: ...

    def plan(self, ids: Sequence[DeviceIds], buffers: Buffers) -> DevicePlan: ...

    def attach(self, buffers: Buffers) -> DevicePlan: ...

    def execute(self, plan: DevicePlan, call: Call, at: Mapping[str, Buffers]) -> None: ...

    def check(self) -> None: ...

    def clear_rows(self, part: int, rows: tuple[int, int], row_bytes: int, first: int) -> None: ...

    def row_work(self, part: int) -> RowWork: ...

    def gather(self, what: str, local: Sequence[bytes]) -> list[bytes]: ...

    def agree(self, what: str, failure: FuscoError | None = None) -> None: ...

    def close(self) -> None: ...


class Opened:
    """The plan in the states of a call.

    Attributes:
        native: the plan.
        totals: address of the u32 with the rows of each part's receive buffer, not clipped, in device memory.
    """

    def __init__(self, native: DevicePlan, totals: list[int]) -> None:
        self.native = native
        self.totals = totals
        self._recv_rows: dict[int, int] = {}

    def recv_rows(self, part: int) -> int:
        """Rows of a part's receive buffer. The first question waits for planning. Raises E_ROUTING_*."""
        if part not in self._recv_rows:
            if accelerator.is_capturing():
                raise FuscoError(
                    "E_OPTION",
                    "a captured graph cannot ask how many rows a plan has",
                    hint="Give max_recv_rows, which fixes the size of receive buffers.",
                )
            self._recv_rows[part] = self.native.recv_rows(part)
        return self._recv_rows[part]


class DeviceGroup(Group):
    """Plans of device memory. A plan has a state for each local rank."""

    id_dtypes = tuple(_IDS)

    def __init__(
        self, name: str, options: PlanOptions, max_tokens: int, max_recv_rows: int, transport: Transport
    ) -> None:
        super().__init__(name, options, max_tokens, max_recv_rows, transport.local_ranks)
        self.transport = transport
        self._state_bytes = plan_buffer_bytes(options, plan_limits(max_tokens, max_recv_rows))
        self._adds_per_rank = options.strategy == "hier" and options.sum == "node" and options.ranks_per_node == 1
        self._planned: OrderedDict[tuple[int, ...], DevicePlan] = OrderedDict()
        self._copies: deque[DevicePlan] = deque()
        # Captured graphs use them; or they could not be released when they were replaced.
        self._pinned: list[DevicePlan] = []
        self._is_recording = False
        #: Where each local rank's state has its blocks.
        self.views = find_views(
            self._state_bytes, [self.device(part) for part in range(len(self.local_ranks))], self._attached
        )
        self._reserve()

    @property
    def state_bytes(self) -> int:
        return self._state_bytes

    @property
    def spans_devices(self) -> bool:
        """Whether the local ranks are on several GPUs."""
        return len(set(self.transport.devices)) > 1

    def device(self, part: int) -> torch.device:
        """The device of a part's tensors."""
        return accelerator.device(self.transport.devices[part])

    def plan(self, ids: Parts) -> list[torch.Tensor]:
        with self.turn:
            if self._is_recording:
                self._record(ids)
            # Never in memory of PyTorch: at the address of a state there is no other one before it is planned again.
            states = [memory.empty((self._state_bytes,), torch.uint8) for memory in self.transport.memory]
            tables = [(_IDS[table.dtype], table.shape[0], table.data_ptr()) for table in ids]
            with self.transport.followed():
                self._keep(_key(states), self.transport.plan(tables, buffers_of(states)))
            return states

    def open(self, states: Parts) -> Opened:
        self._check_states(states)
        with self.turn:
            found = self._planned.get(_key(states)) or self._attach(states)
            if accelerator.is_capturing() and found not in self._pinned:
                self._pinned.append(found)
            totals = [state.data_ptr() + 4 * views.recv_rows for state, views in zip(states, self.views)]
            return Opened(found, totals)

    def blocks(self, opened: Opened, states: Parts) -> list[tuple[torch.Tensor, torch.Tensor]]:
        found = []
        for state, views in zip(states, self.views):
            offsets, counts, _, _ = views_of(state, views)
            found.append((offsets.clone(), counts.clone()))
        return found

    def check_rows(self, opened: Opened, part: int, rows: int) -> None:
        if self.max_recv_rows > 0:
            check_given_rows(rows, self.max_recv_rows)

    def check_tokens(self, opened: Opened, part: int, tokens: int) -> None:
        if tokens > self.max_tokens:
            raise FuscoError(
                "E_LIMIT", f"{tokens} tokens > max_tokens {self.max_tokens}", value=tokens, limit=self.max_tokens
            )

    def new_rows(
        self, opened: Opened, part: int, rows: int, like: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype
    ) -> torch.Tensor:
        with self.turn:
            total = rows
            if rows < 0:
                with self.transport.followed():
                    total = opened.recv_rows(part)
            return self._empty(part, (total, *shape), dtype)

    def new_entries(self, part: int, like: torch.Tensor) -> torch.Tensor:
        with self.turn:
            return self._empty(part, tuple(like.shape), like.dtype)

    def execute(self, opened: Opened, call: Call) -> None:
        with self.turn:
            parts = {name: self._reachable(array) for name, array in call.arrays.items()}
            with self.transport.followed():
                at = {name: buffers_of(each) for name, each in parts.items()}
                self.transport.execute(opened.native, call, at)
                if self.max_recv_rows > 0:
                    self._clear_tails(opened, call, at)

    @contextmanager
    def row_work(self, part: int) -> Iterator[RowWork]:
        with self.turn, self.transport.followed():
            yield self.transport.row_work(part)

    def plan_of(self, states: Parts, ids: Optional[Parts]) -> Plan:
        if ids is None:
            raise FuscoError(
                "E_OPTION",
                "the handle has a plan of GPUs, and not the ids that it was made from",
                hint="Use the handle that shuffle.plan or shuffle.dispatch returned.",
            )
        with self.turn:
            plan = self._plan_on_host(self._gather_ids(ids))
            for rank, shard in zip(self.local_ranks, self._shards(states)):
                if shard != bytes(plan.shard(rank)):
                    raise FuscoError("E_INTERNAL", f"the GPU made another shard of rank {rank} than the CPU", rank=rank)
            return plan

    def adopt(self, plan: Plan) -> list[torch.Tensor]:
        """The ids of each local rank that give a plan which was read, on its device. Not collective.

        Raises E_RANKS, E_OPTION, E_LIMIT, E_MAX_ROWS.
        """
        check_fits(plan.options, self.options)
        ranks = range(plan.ranks)
        tables = [ids_of(plan, rank) for rank in ranks]
        rows = [blocks_of(plan.shard(rank)).offsets[-1] for rank in ranks]
        check_sizes([table.shape[0] for table in tables], self.max_tokens, rows, self.max_recv_rows)
        check_same(plan, self._plan_on_host(tables))
        return [tables[rank].to(self.device(part)) for part, rank in enumerate(self.local_ranks)]

    def shard_digest(self, states: Parts, rank: int) -> str:
        if rank not in self.local_ranks:
            raise FuscoError("E_OPTION", f"rank {rank} is not one of this process: {list(self.local_ranks)}")
        with self.turn:
            return hashlib.sha256(self._shards(states)[self.local_ranks.index(rank)]).hexdigest()

    def check(self, states: Parts) -> list[int]:
        """Waits for planning; rows of each part's receive buffer, not clipped. Raises E_ROUTING_*, E_PEER_*."""
        with self.turn:
            opened = self.open(states)
            with self.transport.followed():
                return [opened.recv_rows(part) for part in range(len(states))]

    def check_peers(self) -> None:
        """Raises what exchanges have recorded until now, without waiting. Raises E_PEER_*, E_BACKEND."""
        with self.turn:
            self.transport.check()

    def record(self, path: str | os.PathLike[str]) -> Recorder | None:
        recorder = super().record(path)
        self._is_recording = True
        return recorder

    def agree(self, what: str, failure: FuscoError | None = None) -> None:
        self.transport.agree(what, failure)

    def close(self) -> None:
        with self.turn:
            for plan in (*self._planned.values(), *self._copies, *self._pinned):
                plan.close()
            self._planned.clear()
            self._copies.clear()
            self._pinned.clear()
            self.transport.close()

    def _reserve(self) -> None:
        """Memory of a step, so that ranks map it now and not while others wait in an exchange.

        That is as far as its size is known: without a bound the rows of the first steps are allocated by them.
        """
        options, hidden = self.options, self.options.hidden or 0
        lengths = [self._state_bytes] * 2
        if self.transport.has_peers:
            row_bytes = hidden * DTYPE_BYTES[options.combine_dtype or options.dtype]
            lengths += [4 * self.max_tokens * options.topk] + [self.max_recv_rows * row_bytes] * 2
            if options.dtype == "fp8":
                lengths += [
                    self.max_recv_rows * hidden,
                    4 * self.max_recv_rows * -(-hidden // FP8_BLOCK),
                ]
        with self.turn:
            for memory in dict.fromkeys(self.transport.memory):
                memory.reserve(lengths)

    def _empty(self, part: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if not self.transport.has_peers:
            return torch.empty(shape, dtype=dtype, device=self.device(part))
        return self.transport.memory[part].empty(shape, dtype)

    def _clear_tails(self, opened: Opened, call: Call, at: Mapping[str, Buffers]) -> None:
        """Zeros behind the rows of the plan, where the receive buffers are longer."""
        for name, array in call.arrays.items():
            if array.is_output and array.axis == "rows" and array.has_zeros:
                for part, rows in enumerate(at[name]):
                    self.transport.clear_rows(part, rows, array.row_bytes, opened.totals[part])

    def _reachable(self, array: Array) -> list[torch.Tensor]:
        """The parts of an array, aligned to their rows; copied to where other ranks reach them if those read them."""
        parts = list(array.parts)
        widest = min(_WIDE_BYTES, array.row_bytes & -array.row_bytes)
        narrow = any(number % _WIDE_BYTES != 0 for number in (array.row_bytes, *(part.data_ptr() for part in parts)))
        is_reached = {ALWAYS: True, NARROW: narrow, UNSUMMED: narrow or not self._adds_per_rank}
        if array.is_output or not self.transport.has_peers:
            return parts
        for part, tensor in enumerate(parts):
            memory = self.transport.memory[part]
            if tensor.numel() == 0:
                continue
            if is_reached.get(array.reach, False) and not memory.holds(tensor):
                parts[part] = memory.empty(tuple(tensor.shape), tensor.dtype).copy_(tensor)
            elif widest > 0 and tensor.data_ptr() % widest != 0:
                # All ranks choose the same access, whatever their addresses are.
                parts[part] = tensor.clone()
        return parts

    def _attached(self, states: Parts) -> DevicePlan:
        with self.transport.followed():
            return self.transport.attach(buffers_of(states))

    def _attach(self, states: Parts) -> DevicePlan:
        """The plan in copies of states, or in states whose plan is not kept any more."""
        plan = self.transport.attach(buffers_of(states))
        self._copies.append(plan)
        while len(self._copies) > _MOST_COPIES:
            self._release(self._copies.popleft())
        return plan

    def _keep(self, key: tuple[int, ...], plan: DevicePlan) -> None:
        """Keeps what native code knows of a plan: its tokens, and its rows once they were asked for."""
        replaced = self._planned.pop(key, None)
        if replaced is not None:
            self._release(replaced)
        self._planned[key] = plan
        if accelerator.is_capturing():
            self._pinned.append(plan)
        while len(self._planned) > MOST_PLANS:
            self._release(self._planned.popitem(last=False)[1])

    def _release(self, plan: DevicePlan) -> None:
        if accelerator.is_capturing():
            self._pinned.append(plan)
        elif plan not in self._pinned:
            plan.close()

    def _check_states(self, states: Parts) -> None:
        if len(states) != len(self.local_ranks):
            raise FuscoError(
                "E_OPTION",
                f"{len(states)} states for {len(self.local_ranks)} local ranks",
                hint="Operators whose name ends in _each take a list with one tensor for each local rank.",
            )
        for part, state in enumerate(states):
            is_bytes = state.dtype == torch.uint8 and state.dim() == 1 and state.is_contiguous()
            if not is_bytes or state.numel() != self._state_bytes or state.device != self.device(part):
                raise FuscoError(
                    "E_OPTION",
                    "the tensor is not the state of a handle of this ExpertShuffle",
                    hint="Give handle.state, or a copy of all its bytes on the same device.",
                )

    def _shards(self, states: Parts) -> list[bytes]:
        opened = self.open(states)
        with self.transport.followed():
            return [opened.native.shard(part).raw for part in range(len(states))]

    def _gather_ids(self, ids: Parts) -> list[torch.Tensor]:
        """The ids of all ranks, in host memory. Collective; waits."""
        local = [table.cpu().contiguous() for table in ids]
        headed = [_IDS[table.dtype].to_bytes(4, "little") + _bytes_of(table) for table in local]
        dtypes = {number: dtype for dtype, number in _IDS.items()}
        gathered = []
        for data in self.transport.gather("ids", headed):
            dtype = dtypes[int.from_bytes(data[:4], "little")]
            flat = torch.frombuffer(bytearray(data[4:]), dtype=dtype) if len(data) > 4 else torch.empty(0, dtype=dtype)
            gathered.append(flat.view(-1, self.options.topk))
        return gathered

    def _plan_on_host(self, tables: Parts) -> Plan:
        return Planner(self.options).plan([IdTable(table) for table in tables])

    def _record(self, ids: Parts) -> None:
        """Records a step, collectively, until rank 0 has closed its recorder."""
        if accelerator.is_capturing():
            raise FuscoError("E_OPTION", "a captured graph cannot record its routing", hint="Close the recorder first.")
        is_open = self.recorder is not None and not self.recorder.closed
        if self.transport.gather("recording", [bytes([is_open])] * len(self.local_ranks))[0] == b"\0":
            self._is_recording = False
            return
        tables = self._gather_ids(ids)
        if is_open:
            assert self.recorder is not None
            self.recorder.add([table.numpy() for table in tables], self._plan_on_host(tables))


def _key(states: Parts) -> tuple[int, ...]:
    return tuple(state.data_ptr() for state in states)


def _bytes_of(table: torch.Tensor) -> bytes:
    return table.view(torch.uint8).numpy().tobytes() if table.numel() > 0 else b""
