"""Sharded MoE blocks of transformers against the same model unsharded: forward, gradients, checkpoints, errors."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from gloo_ranks import run_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fusco import FuscoError
from fusco.integrations.transformers import (
    expert_parameters,
    gated_blocks,
    gathered_state_dict,
    shard_experts,
)

transformers = pytest.importorskip("transformers", minversion="5.0")

SEQUENCES, LENGTH, VOCABULARY = 4, 6, 40
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
}


def mixtral() -> nn.Module:
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**SHAPE, num_local_experts=6))


def qwen3_moe() -> nn.Module:
    config = transformers.Qwen3MoeConfig(
        **SHAPE, num_experts=7, moe_intermediate_size=24, head_dim=8, norm_topk_prob=True
    )
    return transformers.Qwen3MoeForCausalLM(config)


MODELS = {"mixtral": mixtral, "qwen3_moe": qwen3_moe}


def model_of(name: str) -> nn.Module:
    torch.manual_seed(7)
    return MODELS[name]()


def batch() -> torch.Tensor:
    return torch.randint(VOCABULARY, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(1))


def loss_and_gradients(model: nn.Module, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and gradients of the sum of the losses of all tokens."""
    logits = model(ids).logits
    nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").backward()
    return logits.detach()


def sharded_step(name: str, options: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor], list[str]]:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model = model_of(name)
    shard_experts(model, max_tokens=SEQUENCES * LENGTH, **options)
    logits = loss_and_gradients(model, batch().chunk(ranks)[rank])
    complete = [path for path, _ in expert_parameters(model)]
    gradients = {}
    for path, parameter in model.named_parameters():
        if path not in complete:
            dist.all_reduce(parameter.grad)
        gradients[path] = parameter.grad
    return logits, gradients, complete


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("name", MODELS)
def test_sharded_model_has_the_logits_and_gradients_of_the_unsharded(name: str, ranks: int) -> None:
    whole = model_of(name)
    logits = loss_and_gradients(whole, batch())
    results = run_ranks(ranks, sharded_step, name, {"sum": "token"} if ranks == 2 else {})

    torch.testing.assert_close(torch.cat([result[0] for result in results]), logits, atol=1e-5, rtol=1e-4)
    complete = results[0][2]
    assert len(complete) == 2 * SHAPE["num_hidden_layers"]
    for path, parameter in whole.named_parameters():
        parts = [result[1][path] for result in results]
        gradient = torch.cat(parts) if path in complete else parts[0]
        torch.testing.assert_close(
            gradient, parameter.grad, atol=1e-5, rtol=1e-4, msg=lambda text, path=path: f"{path}: {text}"
        )


def data_parallel_step(name: str) -> dict[str, torch.Tensor]:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model = model_of(name)
    shard_experts(model, max_tokens=SEQUENCES * LENGTH)
    complete = dict(expert_parameters(model))
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, complete)
    ids = batch().chunk(ranks)[rank]
    parallel = DistributedDataParallel(model)
    parallel(ids, labels=ids).loss.backward()
    for parameter in complete.values():
        parameter.grad /= ranks
    state = {path: parameter.grad for path, parameter in model.named_parameters()}
    for path, parameter in complete.items():
        parameter.data = parameter.grad
        state[path] = gathered_state_dict(model)[path]
    return state


def test_data_parallel_takes_the_mean_of_all_other_gradients() -> None:
    whole, ids = model_of("mixtral"), batch()
    whole(ids, labels=ids).loss.backward()
    for gradients in run_ranks(2, data_parallel_step, "mixtral"):
        for path, parameter in whole.named_parameters():
            torch.testing.assert_close(gradients[path], parameter.grad, atol=1e-5, rtol=1e-4)


def save_sharded(name: str, folder: str) -> None:
    model = model_of(name)
    shard_experts(model, max_tokens=LENGTH)
    state = gathered_state_dict(model)
    if dist.get_rank() == 0:
        model.save_pretrained(folder, state_dict=state)


def test_checkpoint_of_a_sharded_model_is_read_by_transformers(tmp_path) -> None:
    run_ranks(2, save_sharded, "qwen3_moe", str(tmp_path))
    loaded = transformers.Qwen3MoeForCausalLM.from_pretrained(tmp_path)
    for path, parameter in model_of("qwen3_moe").named_parameters():
        assert torch.equal(loaded.get_parameter(path), parameter), path


def placed(dtype: torch.dtype, options: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model = model_of("mixtral").to(dtype).eval()
    shard_experts(model, max_tokens=SEQUENCES * LENGTH, **options)
    with torch.no_grad():
        return model(batch()).logits, gathered_state_dict(model)


@pytest.mark.parametrize(
    ("ranks", "dtype", "options"),
    [
        (2, torch.float32, {"placement": [1, 0, 1, 0, 1, 0]}),
        (2, torch.bfloat16, {"capacity": 0, "align": 8}),
        (1, torch.float32, {"ranks": 3}),
    ],
)
def test_experts_may_be_placed_padded_and_in_bf16(ranks: int, dtype: torch.dtype, options: dict) -> None:
    whole = model_of("mixtral").to(dtype).eval()
    with torch.no_grad():
        logits = whole(batch()).logits
    tolerance = {"atol": 1e-5, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 2e-2, "rtol": 2e-2}
    for given, state in run_ranks(ranks, placed, dtype, options):
        torch.testing.assert_close(given, logits, **tolerance)
        for path, value in whole.state_dict().items():
            assert torch.equal(state[path], value), path


def refused(kind: str) -> str:
    models = {
        "dense": lambda: nn.Linear(2, 2),
        "biases": lambda: transformers.GptOssForCausalLM(
            transformers.GptOssConfig(**SHAPE, num_local_experts=4, head_dim=8)
        ),
        "twice": lambda: sharded_once(),
        "topk": lambda: mixtral().model.layers,
    }
    options = {"placement": [0, 0, 0, 0, 0, [0, 1]]} if kind == "replicas" else {}
    with pytest.raises(FuscoError) as caught:
        shard_experts(models.get(kind, mixtral)(), max_tokens=4, **options)
    return str(caught.value)


def sharded_once() -> nn.Module:
    model = model_of("mixtral")
    shard_experts(model, max_tokens=4)
    return model


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("dense", "E_OPTION the model has no module"),
        ("biases", "E_OPTION GptOssExperts has the parameters"),
        ("twice", "E_OPTION the experts of this model are sharded"),
        ("topk", "E_OPTION the model has no config.num_experts_per_tok"),
        ("replicas", "E_PLACEMENT the weights of replicas"),
    ],
)
def test_models_that_cannot_be_sharded_are_refused(kind: str, text: str) -> None:
    assert text in run_ranks(1, refused, kind)[0]


def test_gated_blocks_leaves_rows_behind_the_last_block_zero_and_takes_empty_blocks() -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(6, 4, generator=generator)
    gate_up, down = torch.randn(3, 10, 4, generator=generator), torch.randn(3, 4, 5, generator=generator)
    made = gated_blocks(rows, torch.tensor([0, 2, 2, 5]), gate_up, down, torch.relu)
    expected = torch.zeros(6, 4)
    for row, expert in enumerate([0, 0, 2, 2, 2]):
        gate, up = gate_up[expert, :5] @ rows[row], gate_up[expert, 5:] @ rows[row]
        expected[row] = down[expert] @ (torch.relu(gate) * up)
    torch.testing.assert_close(made, expected)
