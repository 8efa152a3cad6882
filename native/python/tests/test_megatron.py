"""The backend of Megatron-Core's flex dispatcher, in a stand-in of Megatron's MoE layer."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from framework_case import EXPERTS, HIDDEN, TOKENS, TOPK, Layer, check, expert_rows, ids_and_layer, results
from gloo_ranks import run_ranks
from torch import Tensor

from fusco import FuscoError
from fusco.integrations import megatron

CONFIG = {
    "hidden_size": HIDDEN,
    "num_moe_experts": EXPERTS,
    "moe_router_topk": TOPK,
    "moe_router_dtype": "fp32",
    "moe_flex_dispatcher_backend": "deepep",
    "moe_pad_expert_input_to_capacity": False,
}


def config(**changes: object) -> SimpleNamespace:
    return SimpleNamespace(**{**CONFIG, **changes})


def process_groups(tp: int) -> SimpleNamespace:
    """Groups of Megatron: consecutive ranks are tensor parallel."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    tp_groups = [dist.new_group(list(range(first, first + tp))) for first in range(0, ranks, tp)]
    ep_groups = [dist.new_group(list(range(first, ranks, tp))) for first in range(tp)]
    return SimpleNamespace(tp_ep=dist.group.WORLD, expt_tp=tp_groups[rank // tp], ep=ep_groups[rank % tp])


def on_rank(tp: int, dtype: str) -> tuple[Layer, str]:
    from megatron.core.transformer.moe.moe_layer import MoELayer

    megatron.install()
    groups = process_groups(tp)
    ids, layer = ids_and_layer(masked=True)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    mine = layer.part(rank, ranks)
    # Expert parallel ranks divide the experts, tensor parallel ranks the inner axis of each.
    ep, shard = divmod(rank, tp)
    of_ep = layer.part(ep, ranks // tp)
    mine.up = of_ep.up.detach().chunk(tp, dim=1)[shard].clone().requires_grad_()
    mine.down = of_ep.down.detach().chunk(tp, dim=2)[shard].clone().requires_grad_()

    def experts(rows: Tensor, counts: Tensor, row_probs: Tensor) -> Tensor:
        assert row_probs.dtype == (torch.float64 if dtype == "fp64" else torch.float32)
        return expert_rows(rows, counts, mine.up, mine.down) * row_probs.to(rows.dtype)[:, None]

    own_ids = ids.chunk(ranks)[rank]
    chosen = torch.nn.functional.one_hot(own_ids + 1, EXPERTS + 1)[..., 1:]
    probs = (chosen * mine.weights[..., None]).sum(dim=1)
    moe = MoELayer(config(moe_router_dtype=dtype), experts, range(len(mine.up)), groups)
    output = moe.forward(mine.x.view(-1, 1, HIDDEN), probs, chosen.sum(dim=1).bool())
    return results(output.view(-1, HIDDEN), mine), type(moe.token_dispatcher).__name__


@pytest.mark.parametrize(("ranks", "tp", "dtype"), [(2, 1, "fp32"), (4, 1, "fp64"), (4, 2, "fp32")])
def test_layer_has_the_output_and_gradients_of_a_dense_computation(ranks: int, tp: int, dtype: str) -> None:
    ids, layer = ids_and_layer(masked=True)
    parts = run_ranks(ranks, on_rank, tp, dtype)
    assert {name for _, name in parts} == {"FuscoFlexTokenDispatcher"}
    whole = [part for part, _ in parts]
    for first in range(0, ranks, tp):
        shards = whole[first : first + tp]
        joined = replace(
            shards[0], up=torch.cat([s.up for s in shards], 1), down=torch.cat([s.down for s in shards], 2)
        )
        # The other ranks of the tensor parallel group add tokens, and no experts.
        empty = {"up": joined.up[:0], "down": joined.down[:0]}
        whole[first : first + tp] = [joined, *(replace(s, **empty) for s in shards[1:])]
    check(whole, ids, layer)


def manager(**changes: object) -> megatron.FuscoDispatchManager:
    group = SimpleNamespace(size=lambda: 2)
    return megatron.FuscoDispatchManager(group, EXPERTS // 2, 2, EXPERTS, config(**changes))


def test_map_becomes_ascending_ids_with_their_probabilities() -> None:
    routing_map = torch.zeros(3, EXPERTS, dtype=torch.bool)
    routing_map[0, [5, 1]] = True
    routing_map[2, 7] = True
    probs = torch.arange(3 * EXPERTS, dtype=torch.float64).view(3, EXPERTS)
    made = manager()
    made.setup_metadata(routing_map.view(3, 2, EXPERTS // 2), probs.view(3, 2, EXPERTS // 2))
    assert made.token_indices.tolist() == [[1, 5], [-1, -1], [7, -1]]
    assert made.token_probs.tolist() == [[1, 5], [0, 0], [23, 0]]
    assert made.token_probs.dtype == torch.float32


def test_token_with_more_experts_than_topk_is_refused() -> None:
    with pytest.raises(FuscoError, match="a token has 8 experts; router_topk is 2"):
        manager().setup_metadata(torch.ones(TOKENS, EXPERTS, dtype=torch.bool), torch.rand(TOKENS, EXPERTS))


def test_padding_to_capacity_is_refused() -> None:
    with pytest.raises(FuscoError, match="moe_pad_expert_input_to_capacity"):
        manager(moe_pad_expert_input_to_capacity=True)
