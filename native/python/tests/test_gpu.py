"""The cases of gpu_cases.py and gpu_ranks.py in pytest, where there are GPUs: `pytest -m gpu`."""

from __future__ import annotations

import gpu_cases
import gpu_ranks
import pytest
import torch
import torch.multiprocessing as mp

pytestmark = pytest.mark.gpu
GPUS = torch.cuda.device_count()


def run_rank(rank, ranks, folder, name):
    gpu_ranks.run_rank(rank, ranks, folder, [name])


@pytest.mark.skipif(GPUS < 1, reason="needs a GPU")
@pytest.mark.parametrize("case", gpu_cases.ONE_GPU, ids=lambda case: case.__name__)
def test_one_gpu(case):
    case()


@pytest.mark.skipif(GPUS < 2, reason="needs two GPUs")
@pytest.mark.parametrize("case", gpu_cases.SEVERAL_GPUS, ids=lambda case: case.__name__)
def test_several_gpus(case):
    case()


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", [case.__name__ for case in gpu_ranks.RANKS])
def test_a_process_for_each_gpu(ranks, name, tmp_path):
    if ranks > GPUS:
        pytest.skip(f"needs {ranks} GPUs")
    mp.spawn(run_rank, (ranks, str(tmp_path), name), nprocs=ranks)
    assert all((tmp_path / f"{rank}.json").exists() for rank in range(ranks))
