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
from double_plans import HEAD_WORDS, OVERFLOW, RECV_ROWS, DoublePlanner, Peers, buffer_bytes, exchange

from fusco._library import library
from fusco.errors import FuscoError
from fusco.host import shared_context
from fusco.torch import accelerator

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
    out.value = buffer_bytes(options, limits)


def fusco_cuda_planner_create(context, options, limits, out):
    _put(out, DoublePlanner(Peers(_open(context).devices, device.holds), options, limits))


def fusco_cuda_plan_on_device(planner, call, out):
    _put(out, _open(planner).fill(call))


def fusco_cuda_plan_attach(planner, buffers, out):
    _put(out, _open(planner).attach(buffers))


def fusco_cuda_plan_describe(plan, rank, view):
    found = _open(plan)
    words = found.addresses[rank] + 4 * HEAD_WORDS
    local = len(found.planner.options.experts_of(found.planner.peers.local[rank]))
    view.local_instances = local
    at = functools.partial(ctypes.cast, typ=ctypes.POINTER(ctypes.c_uint32))
    view.expert_offsets = at(words)
    view.expert_counts = at(words + 4 * (local + 1))
    view.recv_rows = at(found.addresses[rank] + 4 * RECV_ROWS)
    view.overflow_rows = at(found.addresses[rank] + 4 * OVERFLOW)


def fusco_cuda_plan_status(plan, rank, rows):
    found = _open(plan)
    found.check(rank)
    rows.value = found.word(rank, RECV_ROWS)


def fusco_cuda_plan_shard(plan, rank, shard):
    found = _open(plan)
    found.check(rank)
    data = found.shard(rank)
    if shard.data:
        ctypes.memmove(shard.data, data, len(data))
    shard.bytes = len(data)


def _run(plan, name, call):
    exchange(_open(plan), name, call)


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
        self.peers = Peers(_objects[desc.context].devices, device.holds, desc.rank, desc.ranks)
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
