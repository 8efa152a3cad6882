"""Stands in for a GPU where there is none: the functions of the C interface for GPUs, over those for the CPU.

Host memory plays the part of device memory, and every call is done when it returns. Tests with it find mistakes in the
structure of the Python code for GPUs: arguments, shapes, lists, lifetimes, what other ranks must reach, the order of
collective calls. They say nothing about streams and kernels. With several processes the ranks meet over gloo.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
from contextlib import nullcontext

import torch
import torch.distributed as dist

from fusco import _structs as s
from fusco._library import library
from fusco.errors import FuscoError
from fusco.host import HostPlan, shared_context
from fusco.options import PlanOptions
from fusco.plan import Plan
from fusco.planner import Planner, open_tables
from fusco.shard import blocks_of
from fusco.torch import accelerator

_HEAD_WORDS = 16
_TOKENS, _RECV_ROWS, _OVERFLOW, _SHARD_BYTES, _LOCAL, _BAD = range(6)
_ID_DTYPES = ("i", "q", "h", "H", "b", "B", "I", "Q")
_keys = itertools.count(1)
_objects = {}
_statuses = {library.fusco_status_name(number).decode(): number for number in range(64)}


class Stream:
    """A stream on which all work is done."""

    def __init__(self, handle):
        self.cuda_stream = handle
        self.waited_for = []

    def wait_stream(self, other):
        self.waited_for.append(other.cuda_stream)


class Device:
    """What tests may change, and see."""

    def __init__(self):
        self.stream = Stream(0x5000)
        self.is_capturing = False
        self.streams_set = []
        self.segments = []
        self.calls = []

    def holds(self, address, length):
        return any(first <= address and address + length <= first + size for first, size, _ in self.segments)


device = Device()


class Context:
    def __init__(self, devices):
        self.devices = devices


class Peers:
    """The ranks of a call: those of this process, or one of each process."""

    def __init__(self, devices, rank=None, ranks=None):
        self.devices = devices
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
        self.bytes = _buffer_bytes(options, limits)
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
        words += [0] * (_HEAD_WORDS - len(words)) + [min(first, bound) for first in blocks.offsets] + counts
        ctypes.memmove(address, (ctypes.c_uint32 * len(words))(*words), 4 * len(words))
        ctypes.memmove(address + 4 * self.shard_at, shard, len(shard))

    @property
    def shard_at(self):
        return _HEAD_WORDS + 2 * self.options.experts + 2


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
    arrays = _arrays(name, call)
    copies = []
    for pointer, row_bytes, on_rows, is_output, reached in arrays:
        counts = row_axis if on_rows else token_axis
        local = []
        for part, rank in enumerate(peers.local):
            buffer = pointer[part]
            if is_output and not on_rows and buffer.bytes < counts[rank] * row_bytes:
                raise FuscoError("E_BUFFER", f"{name} is given {buffer.bytes} bytes for {counts[rank]} rows")
            if buffer.bytes and reached(plan.planner.options, row_bytes) and peers.has_peers:
                assert device.holds(buffer.data, buffer.bytes), f"{name}: other ranks cannot reach an array"
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


def _arrays(name, call):
    """(buffers, row bytes, counts rows, is output, who reaches it) of each array of a call."""
    topk_bytes = 4
    if name == "dispatch":
        arrays = []
        for i in range(call.payload_count):
            payload = call.payloads[i]
            arrays.append((getattr(payload, "from"), payload.row_bytes, False, False, _never, payload.per))
            arrays.append((payload.to, payload.row_bytes, True, True, _always, 0))
        arrays = [(p, n * (_topk() if per else 1), rows, out, reach) for p, n, rows, out, reach, per in arrays]
        return arrays + ([(call.origins, 12, True, True, _always)] if call.origins else [])
    weights = topk_bytes * _topk()
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


_current_topk = [1]


def _topk():
    return _current_topk[0]


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


def _buffer_bytes(options, limits):
    entries = limits.max_tokens * options.topk
    rows = options.ranks * limits.max_tokens * min(options.topk, options.experts) + options.experts * options.align
    return -(-(4096 + 64 * (entries + rows) + 64 * options.experts * options.ranks) // 256) * 256


# -- the functions


def native(function):
    """A function of the C interface that returns a status, from one that raises."""

    @functools.wraps(function)
    def returns_status(*arguments):
        *given, error = arguments
        device.calls.append(function.__name__)
        try:
            function(*[getattr(each, "_obj", each) for each in given])
            return 0
        except FuscoError as failure:
            target = error._obj
            target.status = _statuses[failure.code]
            target.rank = -1 if failure.rank is None else failure.rank
            target.path = failure.path.encode()
            target.message = failure.message.encode()[:255]
            return target.status

    return returns_status


def _open(pointer):
    return _objects[pointer.value]


def _put(out, made):
    out.value = next(_keys)
    _objects[out.value] = made


def fusco_cuda_device_count(count):
    count.value = 8


def fusco_cuda_context_create(ranks, devices, out):
    _put(out, Context(list(devices)))


def fusco_cuda_set_stream(context, rank, stream):
    device.streams_set.append((_open(context), rank, stream))


def fusco_cuda_limit_sms(context, count):
    _open(context).sms = count


def fusco_cuda_check(context):
    _open(context)


def fusco_cuda_alloc(context, rank, length, out):
    memory = ctypes.create_string_buffer(length + 256)
    first = -(-ctypes.addressof(memory) // 256) * 256
    device.segments.append((first, length, memory))
    ctypes.memset(first, 0x7F, length)
    out.value = first


def fusco_cuda_clear_rows(context, rank, rows, row_bytes, first):
    start = min(ctypes.c_uint32.from_address(first).value * row_bytes, rows.bytes)
    ctypes.memset(rows.data + start, 0, rows.bytes - start)


def fusco_cuda_plan_buffer_bytes(options, limits, out):
    out.value = _buffer_bytes(options, limits)


def fusco_cuda_planner_create(context, options, limits, out):
    _put(out, DoublePlanner(Peers(_open(context).devices), options, limits))


def fusco_cuda_plan_on_device(planner, call, out):
    _put(out, _open(planner).fill(call))


def fusco_cuda_plan_attach(planner, buffers, out):
    _put(out, _open(planner).attach(buffers))


def fusco_cuda_plan_describe(plan, rank, view):
    found = _open(plan)
    words = found.addresses[rank] + 4 * _HEAD_WORDS
    local = len(found.planner.options.experts_of(found.planner.peers.local[rank]))
    view.local_instances = local
    at = functools.partial(ctypes.cast, typ=ctypes.POINTER(ctypes.c_uint32))
    view.expert_offsets = at(words)
    view.expert_counts = at(words + 4 * (local + 1))
    view.recv_rows = at(found.addresses[rank] + 4 * _RECV_ROWS)
    view.overflow_rows = at(found.addresses[rank] + 4 * _OVERFLOW)


def fusco_cuda_plan_status(plan, rank, rows):
    found = _open(plan)
    found.check(rank)
    rows.value = found.word(rank, _RECV_ROWS)


def fusco_cuda_plan_shard(plan, rank, shard):
    found = _open(plan)
    found.check(rank)
    data = found.shard(rank)
    if shard.data:
        ctypes.memmove(shard.data, data, len(data))
    shard.bytes = len(data)


def _run(plan, name, call):
    found = _open(plan)
    _current_topk[0] = found.planner.topk
    exchange(found, name, call)


def fusco_cuda_dispatch(plan, path, call, report):
    _run(plan, "dispatch", call)


def fusco_cuda_combine(plan, call, report):
    _run(plan, "combine", call)


def fusco_cuda_weight_gradient(plan, call, report):
    _run(plan, "weight_gradient", call)


def fusco_cuda_combine_gradient(plan, call, report):
    _run(plan, "combine_gradient", call)


def _fp8(quantizes, call):
    work = shared_context()
    function = work.quantize if quantizes else work.dequantize
    function(call.dtype, (call.rows, call.hidden), call.values.data, call.codes.data, call.scales.data)


def fusco_cuda_fp8_quantize(context, rank, call):
    _fp8(True, call)


def fusco_cuda_fp8_dequantize(context, rank, call):
    _fp8(False, call)


class DoubleGroup:
    def __init__(self, desc):
        self.peers = Peers(_objects[desc.context].devices, desc.rank, desc.ranks)
        self.last = 1

    def enter(self, call):
        """Compares a call with those of the other ranks."""
        assert call.number == self.last + 1, "calls are numbered one after the other"
        self.last = call.number
        identities = self.peers.gather([(call.number, call.digest)])
        for rank, identity in enumerate(identities):
            if identity != (call.number, call.digest):
                raise FuscoError("E_PEER_MISMATCH", f"rank {rank} makes another call", rank=rank)


def fusco_nccl_open(path, opened):
    opened.version = 22900
    opened.path = b"the double"


def fusco_nccl_unique_id(made):
    made[0] = 7


def fusco_nccl_group_create(desc, out):
    assert desc.id[0] == 7 and desc.mailbox.startswith(b"/fusco-")
    _put(out, DoubleGroup(desc))


def fusco_nccl_check(group):
    _open(group)


def fusco_nccl_all_gather(group, call, local, gathered, length):
    found = _open(group)
    found.enter(call)
    data = b"".join(found.peers.gather([local[:length]]))
    ctypes.memmove(gathered, data, len(data))


def fusco_nccl_register(group, buffers, count):
    for i in range(count):
        assert device.holds(buffers[i].data, buffers[i].bytes)


def fusco_nccl_planner_create(group, call, options, limits, out):
    found = _open(group)
    found.enter(call)
    made = DoublePlanner(found.peers, options, limits)
    made.group = found
    _put(out, made)


def fusco_nccl_plan_on_device(planner, call, plan_call, out):
    _open(planner).group.enter(call)
    _put(out, _open(planner).fill(plan_call))


fusco_nccl_plan_attach = fusco_cuda_plan_attach


def fusco_nccl_plan_describe(plan, view):
    fusco_cuda_plan_describe(plan, 0, view)


def fusco_nccl_plan_status(plan, rows):
    fusco_cuda_plan_status(plan, 0, rows)


def fusco_nccl_plan_shard(plan, shard):
    fusco_cuda_plan_shard(plan, 0, shard)


def _run_nccl(plan, call, name, filled):
    _open(plan).planner.group.enter(call)
    _run(plan, name, filled)


def fusco_nccl_dispatch(plan, call, filled, report, peers):
    _run_nccl(plan, call, "dispatch", filled)


def fusco_nccl_combine(plan, call, filled, report, peers):
    _run_nccl(plan, call, "combine", filled)


def fusco_nccl_weight_gradient(plan, call, filled, report, peers):
    _run_nccl(plan, call, "weight_gradient", filled)


def fusco_nccl_combine_gradient(plan, call, filled, report, peers):
    _run_nccl(plan, call, "combine_gradient", filled)


def _destroy(pointer):
    _objects.pop(pointer.value, None)


def install(patch):
    """Puts the double in the place of the library and of torch.cuda; `patch` is setattr, or one that can be undone."""
    device.__init__()
    for name, function in list(globals().items()):
        if name.startswith(("fusco_cuda_", "fusco_nccl_")):
            patch(library, name, native(function))
    for name in ("context", "plan", "planner"):
        patch(library, f"fusco_cuda_{name}_destroy", _destroy)
    for name in ("group", "plan", "planner"):
        patch(library, f"fusco_nccl_{name}_destroy", _destroy)
    patch(library, "fusco_cuda_stream", lambda context, rank: 0x9000 + rank)

    def memory_at(address, length, index, owner):
        memory = (ctypes.c_uint8 * length).from_address(address)
        memory.owner = owner
        return torch.frombuffer(memory, dtype=torch.uint8)

    patch(accelerator, "DEVICE_TYPE", "cpu")
    patch(accelerator, "is_available", lambda: True)
    patch(accelerator, "current_device", lambda: 0)
    patch(accelerator, "device", lambda index: torch.device("cpu"))
    patch(accelerator, "identity", lambda index: f"GPU {dist.get_rank() if dist.is_initialized() else index}")
    patch(accelerator, "on_device", lambda index: nullcontext())
    patch(accelerator, "current_stream", lambda index: device.stream)
    patch(accelerator, "external_stream", lambda handle, index: Stream(handle))
    patch(accelerator, "is_capturing", lambda: device.is_capturing)
    patch(accelerator, "memory_at", memory_at)
