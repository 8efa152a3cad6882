"""Times of calls that take turns, so that what else the machine does meets all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist


def timed_ms(run: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of a call on this rank, from when all ranks are ready. Collective."""
    dist.barrier()
    if device.type == "cpu":
        before = time.perf_counter()
        run()
        return 1000 * (time.perf_counter() - before)
    torch.cuda.synchronize()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def medians_ms(calls: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median milliseconds of each call on the slowest rank; the calls take turns. Collective."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, run in calls.items():
            times[name].append(timed_ms(run, device))
    slowest = torch.tensor(list(times.values()), device=device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return dict(zip(times, (round(ms, 4) for ms in slowest.median(1).values.tolist())))
