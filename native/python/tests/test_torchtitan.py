"""The dispatcher for TorchTitan, on a stand-in of its base classes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from framework_case import EXPERTS, HIDDEN, TOKENS, TOPK, Layer, check, expert_rows, ids_and_layer, results
from gloo_ranks import run_ranks
from torch.distributed.device_mesh import init_device_mesh

from fusco.integrations.torchtitan import FuscoTokenDispatcher


def dispatcher(**options: object) -> FuscoTokenDispatcher:
    return FuscoTokenDispatcher(FuscoTokenDispatcher.Config(num_experts=EXPERTS, top_k=TOPK, **options))


def run_layer(made: FuscoTokenDispatcher, rank: int, ranks: int, **padding: int) -> tuple[torch.Tensor, Layer]:
    ids, layer = ids_and_layer()
    mine = layer.part(rank, ranks)
    own_ids = ids.chunk(ranks)[rank]
    counts = own_ids.flatten().bincount(minlength=EXPERTS)
    rows, rows_per_expert, metadata = made.dispatch(mine.x, mine.weights, own_ids, counts)
    output = made.combine(
        expert_rows(rows, rows_per_expert, mine.up, mine.down),
        metadata,
        mine.x,
        num_local_tokens_after_padding=padding.get("tokens", len(mine.x)),
        local_seq_len_after_padding=padding.get("length", len(mine.x)),
    )
    return output, mine


def on_rank(options: dict[str, object]) -> Layer:
    made = dispatcher(**options)
    made.wire_meshes(ep_mesh=init_device_mesh("cpu", (dist.get_world_size(),)), tp_mesh=None)
    return results(*run_layer(made, dist.get_rank(), dist.get_world_size()))


@pytest.mark.parametrize(
    ("ranks", "options"), [(2, {"hidden_dim": HIDDEN, "tokens_per_rank": TOKENS, "sum": "token"}), (4, {"align": 4})]
)
def test_layer_has_the_output_and_gradients_of_a_dense_computation(ranks: int, options: dict[str, object]) -> None:
    check(run_ranks(ranks, on_rank, options), *ids_and_layer())


def test_one_rank_without_a_mesh_uses_the_dispatcher_of_the_framework() -> None:
    made = dispatcher()
    made.wire_meshes(ep_mesh=None, tp_mesh=None)
    check([results(*run_layer(made, 0, 1))], *ids_and_layer())


def on_sequence_parallel_rank() -> torch.Tensor:
    rank = dist.get_rank()
    made = dispatcher()
    tp_mesh = SimpleNamespace(size=lambda: 2, _sym_get_coordinate=lambda axis: rank)
    made.wire_meshes(ep_mesh=init_device_mesh("cpu", (2,)), tp_mesh=tp_mesh)
    # Two sequences of 6 tokens: each rank has half of each, 3 tokens, padded to 4.
    output, _ = run_layer(made, rank, 2, tokens=8, length=3)
    return output.detach()


def test_sequence_parallel_ranks_put_their_tokens_in_their_places_and_zero_elsewhere() -> None:
    parts = run_ranks(2, on_sequence_parallel_rank)
    made = dispatcher()
    whole = run_layer(made, 0, 1)[0].detach()
    places = torch.tensor([[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]])
    for rank, part in enumerate(parts):
        assert part.shape == (16, HIDDEN)
        torch.testing.assert_close(part[places[rank]], whole[6 * rank : 6 * rank + 6], atol=1e-5, rtol=1e-5)
        part[places[rank]] = 0
        assert not part.any()
