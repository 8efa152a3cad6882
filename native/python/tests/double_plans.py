"""Plans in plan buffers of host memory, for device_double.py: made, read and executed by the code for the CPU."""

from __future__ import annotations

import ctypes

import torch.distributed as dist

from fusco import _structs as s
from fusco.errors import FuscoError
from fusco.host import HostPlan, shared_context
from fusco.options import PlanOptions
from fusco.plan import Plan
from fusco.planner import Planner, open_tables
from fusco.shard import blocks_of

HEAD_WORDS = 16
_TOKENS, RECV_ROWS, OVERFLOW, _SHARD_BYTES, _LOCAL, _BAD = range(6)
_ID_DTYPES = ("i", "q", "h", "H", "b", "B", "I", "Q")


class Peers:
    """The ranks of a call: those of this process, or one of each process.

    Args:
        devices: of the local ranks.
        holds: whether other ranks reach memory, given its address and bytes.
        rank: of this process; None: all ranks are here.
        ranks: of the group.
    """

    def __init__(self, devices, holds, rank=None, ranks=None):
        self.devices = devices
        self.holds = holds
        self.rank = rank
        self.ranks = ranks or len(devices)
        self.has_peers = rank is not None or len(set(devices)) > 1

    @property
    def local(self):
        return range(self.ranks) if self.rank is None else [self.rank]

    def gather(self, local):
        """What each rank has, from what the local ranks have."""
        if self.rank is None:
            return local
        gathered = [None] * self.ranks
        dist.all_gather_object(gathered, local[0])
        return gathered


class DoublePlanner:
    def __init__(self, peers, options, limits):
        self.peers = peers
        self.native = options
        self.options = PlanOptions.from_native(options)
        self.topk = self.options.topk
        self.bound = limits.max_recv_rows
        self.max_tokens = limits.max_tokens
        self.bytes = buffer_bytes(options, limits)
        self.planner = Planner(self.options)

    def fill(self, call):
        """Plans into the plan buffers of the local ranks."""
        local = []
        for part in range(len(self.peers.local)):
            ids = call.ids[part]
            if ids.tokens > self.max_tokens:
                raise FuscoError("E_LIMIT", f"{ids.tokens} tokens")
            values = memoryview(ctypes.string_at(ids.data, ids.tokens * ids.topk * _item(ids.dtype)))
            local.append((ids.tokens, list(values.cast(_ID_DTYPES[ids.dtype])) if ids.tokens else []))
        tables, bad = [], []
        for tokens, flat in self.peers.gather(local):
            rows, wrong = self._without_bad([flat[i * self.topk : (i + 1) * self.topk] for i in range(tokens)])
            tables.append(rows)
            bad.append(wrong)
        plan = self.planner.plan(open_tables(tables, self.topk))
        buffers = []
        for part, rank in enumerate(self.peers.local):
            buffer = call.buffers[part]
            self._check(buffer)
            self._write(buffer.data, plan, rank, len(tables[rank]), bad[rank])
            buffers.append(buffer.data)
        return DoublePlan(self, buffers)

    def attach(self, buffers):
        addresses = []
        for part in range(len(self.peers.local)):
            self._check(buffers[part])
            addresses.append(buffers[part].data)
        return DoublePlan(self, addresses)

    def _check(self, buffer):
        if buffer.bytes < self.bytes or buffer.data % 64:
            raise FuscoError("E_BUFFER", "a plan buffer is too small or misaligned")

    def _without_bad(self, rows):
        wrong = 0
        for token, row in enumerate(rows):
            for k, value in enumerate(row):
                is_bad = (value != -1 and not 0 <= value < self.options.experts) or (value >= 0 and value in row[:k])
                if is_bad:
                    wrong = wrong or 1 + token * self.topk + k
                    row[k] = -1
        return rows, wrong

    def _write(self, address, plan, rank, tokens, bad):
        shard = bytes(plan.shard(rank))
        blocks = blocks_of(plan.shard(rank))
        bound = self.bound or blocks.offsets[-1]
        counts = [max(0, min(n, bound - first)) for n, first in zip(blocks.counts, blocks.offsets)]
        overflow = sum(blocks.counts) - sum(counts)
        words = [tokens, blocks.offsets[-1], overflow, len(shard), len(counts), bad]
        words += [0] * (HEAD_WORDS - len(words)) + [min(first, bound) for first in blocks.offsets] + counts
        ctypes.memmove(address, (ctypes.c_uint32 * len(words))(*words), 4 * len(words))
        ctypes.memmove(address + 4 * self.shard_at, shard, len(shard))

    @property
    def shard_at(self):
        return HEAD_WORDS + 2 * self.options.experts + 2


class DoublePlan:
    def __init__(self, planner, addresses):
        self.planner = planner
        self.addresses = addresses

    def word(self, part, index):
        return ctypes.c_uint32.from_address(self.addresses[part] + 4 * index).value

    def shard(self, part):
        return ctypes.string_at(self.addresses[part] + 4 * self.planner.shard_at, self.word(part, _SHARD_BYTES))

    def check(self, part):
        bad, rank = self.word(part, _BAD), self.planner.peers.local[part]
        if bad:
            token, k = divmod(bad - 1, self.planner.topk)
            raise FuscoError("E_ROUTING_ID", "bad", rank=rank, path=f"/ranks/{rank}/tokens/{token}/k/{k}")

    def host_plan(self):
        """The plan of all ranks in the host backend."""
        peers = self.planner.peers
        shards = peers.gather([self.shard(part) for part in range(len(self.addresses))])
        kept = [ctypes.create_string_buffer(shard, len(shard)) for shard in shards]
        buffers = (s.Buffer * len(kept))(*[(ctypes.addressof(each), len(each)) for each in kept])
        plan = Plan(self.planner.native, 0, None, buffers, kept)
        return HostPlan(shared_context()._handle, plan)


def exchange(plan, name, call):
    """Runs a call on the buffers of all ranks in temporary memory, so that rows beyond the bound go nowhere."""
    peers = plan.planner.peers
    host = plan.host_plan()
    row_axis, token_axis = host.recv_rows, host.tokens
    arrays = _arrays(name, call, plan.planner.topk)
    copies = []
    for pointer, row_bytes, on_rows, is_output, reached in arrays:
        counts = row_axis if on_rows else token_axis
        local = []
        for part, rank in enumerate(peers.local):
            buffer = pointer[part]
            if is_output and not on_rows and buffer.bytes < counts[rank] * row_bytes:
                raise FuscoError("E_BUFFER", f"{name} is given {buffer.bytes} bytes for {counts[rank]} rows")
            if buffer.bytes and reached(plan.planner.options, row_bytes) and peers.has_peers:
                assert plan.planner.peers.holds(buffer.data, buffer.bytes), f"{name}: other ranks cannot reach an array"
            local.append(ctypes.string_at(buffer.data, buffer.bytes) if buffer.bytes else b"")
        gathered = peers.gather(local)
        kept = [
            ctypes.create_string_buffer(data[: count * row_bytes], max(1, count * row_bytes))
            for data, count in zip(gathered, counts)
        ]
        copies.append(kept)
    buffers = [
        (s.Buffer * peers.ranks)(
            *[
                (ctypes.addressof(each), (row_axis if on_rows else token_axis)[r] * row_bytes)
                for r, each in enumerate(kept)
            ]
        )
        for kept, (_, row_bytes, on_rows, _, _) in zip(copies, arrays)
    ]
    host._run(name, _rebuilt(name, call, buffers))
    for kept, (pointer, row_bytes, on_rows, is_output, _) in zip(copies, arrays):
        if not is_output:
            continue
        for part, rank in enumerate(peers.local):
            length = (row_axis if on_rows else token_axis)[rank] * row_bytes
            ctypes.memmove(pointer[part].data, kept[rank], min(length, pointer[part].bytes))


def _never(options, row_bytes):
    return False


def _always(options, row_bytes):
    return True


def _narrow(options, row_bytes):
    return row_bytes % 16 != 0


def _unsummed(options, row_bytes):
    adds = options.strategy == "hier" and options.sum == "node" and options.ranks_per_node == 1
    return row_bytes % 16 != 0 or not adds


def _arrays(name, call, topk):
    """(buffers, row bytes, counts rows, is output, who reaches it) of each array of a call."""
    weights = 4 * topk
    if name == "dispatch":
        arrays = []
        for i in range(call.payload_count):
            payload = call.payloads[i]
            arrays.append((getattr(payload, "from"), payload.row_bytes, False, False, _never, payload.per))
            arrays.append((payload.to, payload.row_bytes, True, True, _always, 0))
        arrays = [(p, n * (topk if per else 1), rows, out, reach) for p, n, rows, out, reach, per in arrays]
        return arrays + ([(call.origins, 12, True, True, _always)] if call.origins else [])
    if name == "combine":
        arrays = [
            (getattr(call, "from"), call.row_bytes, True, False, _unsummed),
            (call.to, call.row_bytes, False, True, _never),
        ]
        return arrays + ([(call.weights, weights, False, False, _never)] if call.weights else [])
    if name == "weight_gradient":
        return [
            (call.output_gradient, call.row_bytes, False, False, _never),
            (getattr(call, "from"), call.row_bytes, True, False, _always),
            (call.to, weights, False, True, _never),
        ]
    return [
        (call.output_gradient, call.row_bytes, False, False, _never),
        (getattr(call, "from"), call.row_bytes, True, False, _narrow),
        (call.weights, weights, False, False, _never),
        (call.to, call.row_bytes, True, True, _always),
        (call.weights_gradient, weights, False, True, _always),
    ]


def _rebuilt(name, call, buffers):
    """The same call with other buffers."""
    if name == "dispatch":
        payloads = []
        for i in range(call.payload_count):
            old = call.payloads[i]
            size = ctypes.sizeof(s.Payload)
            payloads.append(s.Payload(size, old.per, old.dtype, old.row_bytes, buffers[2 * i], buffers[2 * i + 1]))
        rest = buffers[2 * len(payloads) :]
        array = (s.Payload * len(payloads))(*payloads)
        return s.DispatchCall(ctypes.sizeof(s.DispatchCall), len(payloads), array, rest[0] if rest else None, None)
    kind = type(call)
    return kind(ctypes.sizeof(kind), call.dtype, call.row_bytes, *buffers)


def _item(dtype):
    return (4, 8, 2, 2, 1, 1, 4, 8)[dtype]


def buffer_bytes(options, limits):
    entries = limits.max_tokens * options.topk
    rows = options.ranks * limits.max_tokens * min(options.topk, options.experts) + options.experts * options.align
    return -(-(4096 + 64 * (entries + rows) + 64 * options.experts * options.ranks) // 256) * 256
