"""Dispatch and combine of one layer with the token dispatcher for TorchTitan, on all ranks.

    torchrun --standalone --nproc-per-node 2 torchtitan_dispatcher.py

Needs TorchTitan, or the stand-in of its interface: PYTHONPATH=native/python/tests/standins. In a training run,
`FuscoTokenDispatcher.Config` takes the place of the token dispatcher in the configuration of a model.
"""

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from fusco.integrations.torchtitan import FuscoTokenDispatcher

EXPERTS, TOPK, HIDDEN, TOKENS = 8, 2, 16, 5


def main() -> None:
    dist.init_process_group("gloo")
    dispatcher = FuscoTokenDispatcher(
        FuscoTokenDispatcher.Config(num_experts=EXPERTS, top_k=TOPK, hidden_dim=HIDDEN, tokens_per_rank=TOKENS)
    )
    dispatcher.wire_meshes(ep_mesh=init_device_mesh("cpu", (dist.get_world_size(),)), tp_mesh=None)

    x = torch.randn(TOKENS, HIDDEN, requires_grad=True)
    scores, ids = torch.rand(TOKENS, EXPERTS).topk(TOPK)
    scores = (scores / scores.sum(dim=1, keepdim=True)).requires_grad_()
    rows, counts, metadata = dispatcher.dispatch(x, scores, ids, ids.flatten().bincount(minlength=EXPERTS))
    sizes = {"num_local_tokens_after_padding": TOKENS, "local_seq_len_after_padding": TOKENS}
    output = dispatcher.combine(2 * rows, metadata, x, **sizes)  # experts that double their rows

    output.sum().backward()
    torch.testing.assert_close(output, 2 * x)  # the scores of a token add up to 1
    torch.testing.assert_close(scores.grad, 2 * x.detach().sum(dim=1, keepdim=True).expand(-1, TOPK))
    print(f"rank {dist.get_rank()}: {counts.tolist()} rows for its experts")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
