"""Shards the experts of a Mixtral model over the ranks, trains it for three steps, and writes a checkpoint.

    torchrun --standalone --nproc-per-node 2 shard_transformers.py [FOLDER]

The model is tiny, with random weights. A loaded one is sharded in the same way.
"""

import sys
import tempfile

import torch
import torch.distributed as dist
from transformers import MixtralConfig, MixtralForCausalLM

from fusco.integrations.transformers import expert_parameters, gathered_state_dict, shard_experts


def main() -> None:
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
    )
    model = MixtralForCausalLM(config)
    shard_experts(model, max_tokens=2 * 16)

    complete = {name for name, _ in expert_parameters(model)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    tokens = torch.randint(64, (2 * ranks, 16), generator=torch.Generator().manual_seed(1))
    for step in range(3):
        mine = tokens.chunk(ranks)[rank]
        loss = model(mine, labels=mine).loss / ranks
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():
            if name not in complete:  # the gradients of experts contain the tokens of all ranks already
                dist.all_reduce(parameter.grad)
        optimizer.step()
        dist.all_reduce(loss.detach())
        if rank == 0:
            print(f"step {step}: loss {loss.item():.4f}")

    state = gathered_state_dict(model)
    if rank == 0:
        folder = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()
        model.save_pretrained(folder, state_dict=state)
        whole = MixtralForCausalLM.from_pretrained(folder)
        print(f"{folder} holds {sum(p.numel() for p in whole.parameters())} parameters, unsharded")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
