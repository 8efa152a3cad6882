"""The six stages of Megatron-Core's flex token dispatcher with this backend, for one layer on all ranks.

    torchrun --standalone --nproc-per-node 2 megatron_dispatcher.py

Needs Megatron-Core, or the stand-in of its interface: PYTHONPATH=native/python/tests/standins. In a training run, call
`fusco.integrations.megatron.install()` before the model is built, and nothing else.
"""

from types import SimpleNamespace

import torch
import torch.distributed as dist

from fusco.integrations.megatron import FuscoFlexTokenDispatcher

EXPERTS, TOPK, HIDDEN = 8, 2, 16


def main() -> None:
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    alone = [dist.new_group([r]) for r in range(ranks)][rank]
    groups = SimpleNamespace(ep=dist.group.WORLD, tp_ep=dist.group.WORLD, expt_tp=alone)
    config = SimpleNamespace(num_moe_experts=EXPERTS, moe_router_topk=TOPK, moe_router_dtype="fp32", hidden_size=HIDDEN)
    local = EXPERTS // ranks
    dispatcher = FuscoFlexTokenDispatcher(local, list(range(rank * local, (rank + 1) * local)), config, groups)

    x = torch.randn(5, 1, HIDDEN, requires_grad=True)  # [sequence, batch, hidden]
    scores, chosen = torch.rand(5, EXPERTS).topk(TOPK)
    routing_map = torch.zeros(5, EXPERTS, dtype=torch.bool).scatter(1, chosen, True)
    probs = torch.zeros(5, EXPERTS).scatter(1, chosen, scores / scores.sum(dim=1, keepdim=True))

    tokens, token_probs = dispatcher.dispatch_preprocess(x, routing_map, probs)
    arrived, arrived_probs = dispatcher.token_dispatch(tokens, token_probs)
    rows, counts, row_probs = dispatcher.dispatch_postprocess(arrived, arrived_probs)
    made = 2 * rows * row_probs[:, None]  # experts that double their rows
    output = dispatcher.combine_postprocess(dispatcher.token_combine(dispatcher.combine_preprocess(made)))

    output.sum().backward()
    torch.testing.assert_close(output, 2 * x)  # the probabilities of a token add up to 1
    torch.testing.assert_close(x.grad, torch.full_like(x, 2))
    print(f"rank {rank}: {counts.tolist()} rows for its {local} experts")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
