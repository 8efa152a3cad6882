"""Dispatch and combine of one layer with the dispatcher for SGLang, on all ranks.

    torchrun --standalone --nproc-per-node 2 sglang_dispatcher.py

Needs SGLang, or the stand-in of its interface: PYTHONPATH=native/python/tests/standins. A server uses it with
`--moe-a2a-backend customized`, where this package is installed.
"""

from types import SimpleNamespace

import torch
import torch.distributed as dist
from sglang.srt.layers.moe.token_dispatcher.standard import StandardCombineInput
from sglang.srt.layers.moe.topk import StandardTopKOutput

from fusco.integrations.sglang import FuscoDispatcher

EXPERTS, TOPK, HIDDEN = 8, 2, 16


@torch.inference_mode()
def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    config = SimpleNamespace(num_experts=EXPERTS, hidden_size=HIDDEN, top_k=TOPK, apply_router_weight_on_input=False)
    dispatcher = FuscoDispatcher(dist.group.WORLD, config, max_tokens=8)

    tokens = 0 if rank == 1 else 5  # a rank without requests takes part
    x = torch.randn(tokens, HIDDEN)
    weights, ids = torch.rand(tokens, EXPERTS).topk(TOPK)
    weights = weights / weights.sum(dim=1, keepdim=True)
    given = dispatcher.dispatch(x, StandardTopKOutput(weights, ids, None))
    output = dispatcher.combine(StandardCombineInput(2 * given.hidden_states))  # experts that double their rows

    torch.testing.assert_close(output, 2 * x)  # the weights of a token add up to 1
    print(f"rank {rank}: {len(given.hidden_states)} rows for its experts, {len(output)} tokens")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
