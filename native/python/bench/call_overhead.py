"""What a call costs without its rows: ``python native/python/bench/call_overhead.py``.

One rank, one token of 16 bytes, one thread. Medians of many runs of each line, taken in turns:

    prepared   the C function alone, called through ctypes with structs that were filled before
    structs    HostPlan.dispatch or combine: fills ctypes structs, then calls
    packed     the same call with its structs packed as words of an array, the other shape that was considered
    operator   torch.ops.fusco.dispatch or combine, with PyTorch's dispatcher, without a gradient
"""

from __future__ import annotations

import ctypes
import statistics
import time
from array import array
from ctypes import byref

import torch

import fusco
import fusco.torch
from fusco import _structs as s
from fusco._library import buffer_array, library
from fusco.host import HostContext

ROUNDS, CALLS = 1000, 20


def main() -> None:
    plan = fusco.plan([[[0, 1]]], experts=2, ranks_per_node=1)
    host = HostContext(1).prepare(plan)
    x, rows = torch.ones(1, 4), torch.ones(2, 4)
    token, received = [(x.data_ptr(), 16)], [(rows.data_ptr(), 32)]
    pointer = host._handle.pointer
    filled, _keep = filled_dispatch(token, received)
    error = s.Error()
    shuffle = fusco.torch.ExpertShuffle(experts=2, hidden=4, topk=2, max_tokens=1, threads=1)
    handle = shuffle.plan(torch.tensor([[0, 1]]))
    candidates = {
        "dispatch, prepared": lambda: library.fusco_dispatch(pointer, byref(filled), None, byref(error)),
        "dispatch, structs": lambda: host.dispatch([(False, 0, 16, token, received)]),
        "dispatch, packed": lambda: packed_dispatch(pointer, token, received),
        "dispatch, operator": lambda: torch.ops.fusco.dispatch(x, handle.state, -1, shuffle.name),
        "combine, structs": lambda: host.combine(1, 16, received, token),
        "combine, operator": lambda: torch.ops.fusco.combine(rows, None, handle.state, 1, shuffle.name),
    }
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(ROUNDS):
        for name, function in candidates.items():
            start = time.perf_counter_ns()
            for _ in range(CALLS):
                function()
            times[name].append((time.perf_counter_ns() - start) / CALLS / 1000)
    for name, values in times.items():
        print(f"{name:20} {statistics.median(values):6.1f} us")


def filled_dispatch(token, received):
    source, target = buffer_array(token), buffer_array(received)
    payload = s.sized(s.Payload, row_bytes=16, to=target)
    setattr(payload, "from", source)
    payloads = (s.Payload * 1)(payload)
    return s.sized(s.DispatchCall, payload_count=1, payloads=payloads), (source, target, payload)


def packed_dispatch(pointer, token, received):
    source = array("Q", [word for pair in token for word in pair])
    target = array("Q", [word for pair in received for word in pair])
    size = ctypes.sizeof(s.Payload)
    payload = array("Q", [size, 0, 16, source.buffer_info()[0], target.buffer_info()[0]])
    made = array("Q", [ctypes.sizeof(s.DispatchCall) | 1 << 32, payload.buffer_info()[0], 0, 0])
    error = s.Error()
    call = ctypes.cast(made.buffer_info()[0], ctypes.POINTER(s.DispatchCall))
    assert library.fusco_dispatch(pointer, call, None, byref(error)) == 0


if __name__ == "__main__":
    main()
