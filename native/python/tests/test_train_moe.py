"""The training example in short: the same bits on 1, 2 and 4 ranks, and the curve of the unsharded model."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import device_double
import pytest
import torch
from gloo_ranks import run_ranks

pytest.importorskip("transformers", minversion="5.0")
sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import debian_text
import train_moe

TRAINING = train_moe.Training(model=train_moe.SMALL, steps=3, length=16)
TEXT = b"The same bits on 1, 2 and 4 ranks, whatever the number of sequences that a rank holds. " * 20


@pytest.fixture(scope="module")
def runs() -> dict[int, train_moe.Run]:
    return {ranks: run_ranks(ranks, train_moe.train_sharded, TRAINING, TEXT)[0] for ranks in (1, 2, 4)}


def test_losses_and_weights_have_the_same_bits_on_1_2_and_4_ranks(runs: dict[int, train_moe.Run]) -> None:
    assert runs[2].losses == runs[1].losses
    assert runs[4].losses == runs[1].losses
    assert {run.weights for run in runs.values()} == {runs[1].weights}
    assert runs[1].losses[-1] < runs[1].losses[0]


def train_on_a_double(backend: str, ranks_here: int) -> train_moe.Run:
    device_double.install(setattr)
    # Its device memory is host memory.
    train_moe.Training.device = property(lambda training: torch.device("cpu"))  # type: ignore[assignment]
    return train_moe.train_sharded(replace(TRAINING, backend=backend), TEXT, False, ranks_here)


@pytest.mark.parametrize(("backend", "processes", "ranks_here"), [("cuda", 1, 4), ("nccl", 2, 1)])
def test_the_backends_of_gpus_train_with_the_same_bits_on_a_double(
    runs: dict[int, train_moe.Run], backend: str, processes: int, ranks_here: int
) -> None:
    run = run_ranks(processes, train_on_a_double, backend, ranks_here)[0]
    assert (run.losses, run.weights) == (runs[1].losses, runs[1].weights)


def test_curve_is_that_of_the_unsharded_model(runs: dict[int, train_moe.Run]) -> None:
    try:
        unsharded = train_moe.train_unsharded(TRAINING, TEXT)
    finally:
        torch.use_deterministic_algorithms(False)
    assert runs[2].losses == pytest.approx(unsharded.losses, abs=1e-4)


def test_sequences_in_one_batch_give_other_bits(runs: dict[int, train_moe.Run]) -> None:
    batched = run_ranks(2, train_moe.train_sharded, TRAINING, TEXT, True)[0]
    assert batched.losses == pytest.approx(runs[2].losses, abs=1e-4)
    assert batched.weights != runs[2].weights


def test_runs_share_a_round_where_they_fit_on_the_gpus() -> None:
    jobs = [train_moe.Job(gpus, dict) for gpus in (1, 1, 2, 4)]
    placed = [[(job.gpus, first) for job, first in jobs] for jobs in train_moe.rounds_of(jobs, 4)]
    assert placed == [[(1, 0), (1, 1), (2, 2)], [(4, 0)]]
    assert [len(jobs) for jobs in train_moe.rounds_of(jobs, 0)] == [1, 1, 1, 1]


def test_verdict_is_open_until_all_numbers_of_ranks_have_run(runs: dict[int, train_moe.Run]) -> None:
    names = [f"ranks {ranks}" for ranks in runs]
    ended = dict(zip(names, runs.values()))
    assert train_moe.compare({names[0]: runs[1]}, names)["sameLosses"] is None
    assert train_moe.compare(ended, names)["sameLosses"] is True
    other = replace(runs[4], losses=[*runs[4].losses[:-1], 0.0], weights="other")
    rotated = {"unsharded, rotated by 2": runs[1]}
    found = train_moe.compare({**ended, names[2]: other, "unsharded": runs[1], **rotated}, names)
    assert (found["sameLosses"], found["sameWeights"]) == (False, False)
    assert found["toUnsharded"] == {"firstStep": None, "largest": 0, "lastQuarter": 0} and found["sameCurve"]
    assert train_moe.compare({**ended, "unsharded": runs[1]}, names)["sameCurve"] is None
    higher = replace(runs[1], losses=[1.02 * loss for loss in runs[1].losses])
    assert train_moe.compare({**ended, "unsharded": higher, **rotated}, names)["sameCurve"] is False


def test_curve_may_be_as_far_from_unsharded_runs_as_these_are_from_one_another() -> None:
    def curve(last: float) -> train_moe.Run:
        return train_moe.Run([5.0] * 75 + [last] * 25, "", 1.0)

    unsharded, rotated = curve(2.0), [curve(2.01), curve(1.99)]
    assert train_moe.is_same_curve(curve(2.05), unsharded, rotated)
    assert not train_moe.is_same_curve(curve(2.07), unsharded, rotated)
    early = train_moe.Run([5.001, *unsharded.losses[1:]], "", 1.0)
    assert not train_moe.is_same_curve(early, unsharded, rotated)


def test_sequences_depend_on_the_step_alone() -> None:
    batches = debian_text.Batches(TEXT, sequences=3, length=8)
    assert torch.equal(batches.step(5), debian_text.Batches(TEXT, sequences=3, length=8).step(5))
    assert not torch.equal(batches.step(5), batches.step(6))
    assert all(bytes(sequence.tolist()) in TEXT for sequence in batches.step(5))


def test_text_has_each_content_once_in_the_order_of_the_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    licenses, documentation = tmp_path / "licenses", tmp_path / "doc"
    files = {
        licenses / "B": "b",
        licenses / "A": "a",
        documentation / "y" / "copyright": "y",
        documentation / "x" / "copyright": "a",
        documentation / "x" / "README": "no",
    }
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (licenses / "link").symlink_to(licenses / "B")
    monkeypatch.setattr(debian_text, "LICENSES", licenses)
    monkeypatch.setattr(debian_text, "DOCUMENTATION", documentation)
    assert debian_text.debian_text() == b"aby"
    assert debian_text.debian_text(2) == b"ab"
    monkeypatch.setattr(debian_text, "LICENSES", tmp_path)
    monkeypatch.setattr(debian_text, "DOCUMENTATION", tmp_path)
    with pytest.raises(FileNotFoundError, match="give a text"):
        debian_text.debian_text()
