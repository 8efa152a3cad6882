"""The dispatcher for SGLang, in a stand-in of its layer, chosen through its plug-in hook."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from framework_case import EXPERTS, HIDDEN, TOPK, expected, ids_and_layer
from gloo_ranks import run_ranks

from fusco import FuscoError
from fusco.integrations import sglang


def config(**changes: object) -> SimpleNamespace:
    fields = {"num_experts": EXPERTS, "hidden_size": HIDDEN, "top_k": TOPK, "apply_router_weight_on_input": False}
    return SimpleNamespace(**{**fields, **changes})


def on_rank(tokens: list[int], backend: str) -> tuple[torch.Tensor, str]:
    from sglang.srt.layers.moe.fused_moe_triton import layer as sglang_layer
    from sglang.srt.layers.moe.topk import StandardTopKOutput
    from sglang.srt.plugins.hook_registry import HookRegistry
    from sglang.srt.runtime_context import get_server_args

    sglang.register()
    HookRegistry.apply_hooks()
    get_server_args().moe_a2a_backend = backend
    rank, ranks = dist.get_rank(), dist.get_world_size()
    ids, layer = ids_and_layer(masked=True)
    up, down = (weight.chunk(ranks)[rank] for weight in (layer.up, layer.down))
    moe = sglang_layer.FusedMoE(config(), lambda row, expert: down[expert] @ (up[expert] @ row).relu())
    outputs = []
    # Two forward passes: the second one reuses the layer, as a server does.
    for _ in range(2):
        own = slice(sum(tokens[:rank]), sum(tokens[: rank + 1]))
        topk_output = StandardTopKOutput(layer.weights[own], ids[own], None)
        with torch.no_grad():
            outputs.append(moe.forward(layer.x[own], topk_output))
    assert torch.equal(*outputs)
    return outputs[0], type(moe.dispatcher).__name__


@pytest.mark.parametrize("tokens", [[6, 6], [0, 12], [5, 3, 0, 4]])
def test_layer_has_the_output_of_a_dense_computation_with_any_numbers_of_tokens(tokens: list[int]) -> None:
    parts = run_ranks(len(tokens), on_rank, tokens, "customized")
    assert {name for _, name in parts} == {"FuscoDispatcher"}
    assert [len(output) for output, _ in parts] == tokens
    whole = expected(*ids_and_layer(masked=True)).target
    torch.testing.assert_close(torch.cat([output for output, _ in parts]).double(), whole, atol=1e-5, rtol=1e-5)


def test_other_backends_of_the_server_keep_their_dispatcher() -> None:
    assert run_ranks(1, on_rank, [12], "none")[0][1] == "StandardDispatcher"


def test_weights_on_the_input_of_experts_are_refused() -> None:
    with pytest.raises(FuscoError, match="apply_router_weight_on_input"):
        sglang.FuscoDispatcher(None, config(apply_router_weight_on_input=True), max_tokens=4)
