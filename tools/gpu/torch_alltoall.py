"""The usual pipeline in PyTorch, for tools/gpu/multi.sh: index_select, all_to_all_single, index_select, and back.

torchrun --nproc-per-node N torch_alltoall.py TOKENS HIDDEN TOPK EXPERTS OUT.json
"""

import json
import os
import sys

import torch
import torch.distributed as dist

tokens, hidden, topk, experts = map(int, sys.argv[1:5])
rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
dist.init_process_group("nccl")
generator = torch.Generator(device="cuda").manual_seed(rank + 1)
scores = torch.rand(tokens, experts, generator=generator, device="cuda")
ids = scores.topk(topk, dim=1).indices.reshape(-1)
rows = torch.randn(tokens, hidden, generator=generator, device="cuda").to(torch.bfloat16)
weights = torch.full((tokens, topk, 1), 1 / topk, device="cuda")

# Layout: known before the clock starts, as a reused plan is.
order = ids.argsort(stable=True)
source = order // topk
counts = torch.bincount(ids, minlength=experts).reshape(ranks, -1)
theirs = torch.empty_like(counts)
dist.all_to_all_single(theirs, counts)
send = counts.sum(1).tolist()
receive = theirs.sum(1).tolist()
# What arrives is in the order (source rank, expert); experts want (expert, source rank).
local = experts // ranks
arrived = torch.repeat_interleave(torch.arange(local, device="cuda").repeat(ranks), theirs.reshape(-1))
unpack = arrived.argsort(stable=True)
repack = unpack.argsort()
home = order.argsort()
received = torch.empty(sum(receive), hidden, dtype=torch.bfloat16, device="cuda")
returned = torch.empty(tokens * topk, hidden, dtype=torch.bfloat16, device="cuda")


def dispatch():
    dist.all_to_all_single(received, rows.index_select(0, source), receive, send)
    return received.index_select(0, unpack)


def combine(y):
    dist.all_to_all_single(returned, y.index_select(0, repack), send, receive)
    back = returned.index_select(0, home).reshape(tokens, topk, hidden)
    return torch.bmm(weights.to(torch.bfloat16).transpose(1, 2), back).squeeze(1)


def median_ms(work, rounds=9):
    times = []
    for turn in range(rounds + 2):
        dist.barrier()
        torch.cuda.synchronize()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        if turn >= 2:
            times.append(start.elapsed_time(end))
    slowest = torch.tensor(times, device="cuda")
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return slowest.median().item()


y = dispatch()
figures = {"tokens": tokens, "dispatchMs": median_ms(dispatch), "combineMs": median_ms(lambda: combine(y))}
if rank == 0:
    with open(sys.argv[5], "w") as file:
        json.dump(figures, file, indent=2)
    print(json.dumps(figures))
dist.destroy_process_group()
