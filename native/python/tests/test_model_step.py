"""The benches of steps against all_to_all_single: the exchange that they compare with, and short steps of a model."""

from __future__ import annotations

import sys
from pathlib import Path

import layers
import pytest
import torch
import torch.distributed as dist
from gloo_ranks import run_ranks

pytest.importorskip("transformers", minversion="5.0")
sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

import model_step
import sorted_exchange
import train_moe

TOKENS, EXPERTS, TOPK = 12, 8, 2
TEXT = b"Rows go to their experts and come back, whichever exchange brings them. " * 20
SIZES = model_step.Sizes(train_moe.SMALL, sequences=2, length=16, rounds=3, backend="host")


def sorted_layer() -> tuple[torch.Tensor, ...]:
    """Output and gradients of a rank's part of a layer."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    x, ids, weights, experts, gradient = layers.step(7, TOKENS * ranks, TOPK, EXPERTS)
    x, ids, weights, gradient = (each.split(TOKENS)[rank].contiguous() for each in (x, ids, weights, gradient))
    exchange = sorted_exchange.SortedExchange(EXPERTS)
    return layers.forward_backward(exchange, x, ids.long(), weights, experts.chunk(ranks)[rank], gradient)


def test_sorted_exchange_gives_output_and_gradients_of_a_dense_layer() -> None:
    parts = run_ranks(2, sorted_layer)
    expected = layers.dense_step(*layers.step(7, TOKENS * 2, TOPK, EXPERTS))
    for found, wanted in zip(zip(*parts), expected, strict=True):
        torch.testing.assert_close(torch.cat(found).double(), wanted.double(), rtol=1e-4, atol=1e-4)


def first_step() -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and replicated gradients of the first step of the sorted variant."""
    batches = train_moe.Batches(TEXT, SIZES.sequences * dist.get_world_size(), SIZES.length)
    exchange = sorted_exchange.SortedExchange(SIZES.model["num_experts"])
    variant = model_step.Variant(model_step.make_model(SIZES), exchange, SIZES, batches)
    variant.step()
    named = dict(variant.model.named_parameters())
    return variant.all_losses()[0], {name: named[name].grad for name in ("model.embed_tokens.weight",)}


def test_first_loss_and_its_gradients_are_those_of_the_unsharded_model() -> None:
    found = run_ranks(2, first_step)
    torch.manual_seed(0)
    model = model_step.Qwen3MoeForCausalLM(train_moe.model_config(SIZES.model, "sdpa")).to(torch.bfloat16)
    loss = train_moe.mean_loss(model, train_moe.Batches(TEXT, 2 * SIZES.sequences, SIZES.length).step(0))
    loss.backward()
    for value, gradients in found:
        assert value == pytest.approx(loss.item(), rel=1e-3)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, model.get_parameter(name).grad, rtol=0.1, atol=2e-3)


def test_variants_train_the_same_model_and_are_timed() -> None:
    results = run_ranks(2, model_step.measure, SIZES, TEXT)
    names = [model_step.BASELINE, "fusco, exact size", "fusco, bounded"]
    for result in results:
        assert model_step.agrees(result), result["lossDifferences"]
        assert {name: len(losses) for name, losses in result["losses"].items()} == dict.fromkeys(names, 7)
        assert all(losses[-1] < losses[0] for losses in result["losses"].values())
        for times in (result["stepMs"], result["exchangeMs"]):
            assert list(times) == names and min(times.values()) > 0
    gain = results[0]["gains"]["fusco, bounded"]["stepMs"]
    assert gain == pytest.approx(results[0]["stepMs"][names[0]] - results[0]["stepMs"][names[2]], abs=1e-3)
    assert results[0]["losses"] == results[1]["losses"]


def test_other_losses_and_rows_that_were_dropped_are_no_agreement() -> None:
    result = {"rowsBeyondBound": 0, "lossDifferences": {"a": model_step.differences([2.0, 1.0], [2.0, 1.0])}}
    assert model_step.agrees(result)
    assert not model_step.agrees({**result, "rowsBeyondBound": 1})
    assert not model_step.agrees({**result, "lossDifferences": {"a": model_step.differences([2.1, 1.0], [2.0, 1.0])}})
    assert not model_step.agrees({**result, "lossDifferences": {"a": model_step.differences([2.0, 1.1], [2.0, 1.0])}})
