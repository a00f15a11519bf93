import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from test_training import model_of
from tiny import make_tiny, outputs, results

from lunaops.distributed import ALONE, World, join_world, part_ends, share_of


def test_every_sample_is_one_ranks_and_a_batch_is_shared_as_equally_as_can_be() -> None:
    shares = [share_of(rank, 3, total=10, batch_size=4).tolist() for rank in range(3)]
    assert shares == [[0, 3, 4, 7, 8], [1, 5, 9], [2, 6]]


@given(length=st.integers(1, 40), size=st.integers(1, 5), parts=st.integers(1, 40))
def test_the_parts_of_a_batch_are_the_same_however_many_ranks_share_it(length: int, size: int, parts: int) -> None:
    parts = min(parts, length)
    of_rank = [
        np.split(np.arange(length)[rank::size], part_ends(rank, size, length=length, parts=parts))
        for rank in range(size)
    ]
    wanted = [part.tolist() for part in np.array_split(np.arange(length), parts)]
    assert [sorted(np.concatenate(shares).tolist()) for shares in zip(*of_rank, strict=True)] == wanted


def test_alone_nothing_is_changed_and_nobody_is_asked() -> None:
    column = np.arange(3)
    assert ALONE.gathered(column, total=3, batch_size=2) is column
    assert (ALONE.any(True), ALONE.any(False), ALONE.is_first) == (True, False, True)
    model = model_of()
    ALONE.share_input_statistics(model.tail_batchnorm)
    assert model.tail_batchnorm.all_reduce is None
    assert ALONE.wrapped(model) is model


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_world(torch.device("cpu")) as joined:
        assert joined == (World(0, 1), torch.device("cpu"))


def test_ranks_share_the_statistics_of_the_input_layer() -> None:
    layer = model_of().tail_batchnorm
    World(0, 2).share_input_statistics(layer)
    assert layer.all_reduce is torch.distributed.all_reduce


def launch(paths: dict[str, Path], cache: Path, *, ranks: int, restarts: int = 0) -> "subprocess.Popen[str]":
    """Training by torchrun; of one rank by Python alone, as people do it."""
    options = [text for name, path in paths.items() for text in (f"--{name.replace('_', '-')}", str(path))]
    environment = os.environ | {
        "LUNAOPS_CACHE_DIR": str(cache),
        "MLFLOW_TRACKING_URI": "off",
        "OMP_NUM_THREADS": "1",
    }
    torchrun = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={ranks}",
        f"--max-restarts={restarts}",
    ]
    return subprocess.Popen(
        [sys.executable, *(torchrun if ranks > 1 else []), "-m", "stages.train", *options],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> None:
    output, _ = process.communicate()
    assert process.returncode == 0, output


def numbers(folder: Path) -> list[dict[str, float]]:
    with (folder / "reports" / "epochs.csv").open() as file:
        return [{name: float(text or "nan") for name, text in row.items()} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_two_ranks_compute_what_one_does_also_in_parts_and_with_an_odd_last_batch(tmp_path: Path) -> None:
    # Batches of 8 in parts of 3, 3, 2, and one of 1; of validation 8, 1. A rate so low that no two scores lie within
    # the tolerance and swap.
    paths = make_tiny(tmp_path, samples_per_epoch=17, accumulate=3, optimizer="sgd", learning_rate=0.001, epochs=2)
    for ranks in (1, 2):
        finish(launch(paths | outputs(tmp_path / f"{ranks}"), tmp_path / "crops", ranks=ranks))
    one, two = numbers(tmp_path / "1"), numbers(tmp_path / "2")
    assert len(one) == len(two) == 2
    for first, second in zip(one, two, strict=True):
        assert first["train/num_pos"] + first["train/num_neg"] == 17
        for name, value in first.items():
            is_counted = name.startswith(("train/num", "val/num", "train/correct", "val/correct", "epoch", "samples"))
            rel = 1e-6 if name.endswith("norm") else 0
            assert second[name] == pytest.approx(value, rel=rel, abs=0 if is_counted else 1e-5, nan_ok=True), name


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_is_started_again_with_the_others_and_all_ends_as_undisturbed(
    tmp_path: Path, rank: int
) -> None:
    paths = make_tiny(tmp_path, epochs=8)
    finish(launch(paths | outputs(tmp_path / "whole"), tmp_path / "crops", ranks=2))
    process = launch(paths, tmp_path / "crops", ranks=2, restarts=1)  # the first must do
    while not (paths["models"] / "last" / "model.json").exists():
        time.sleep(0.01)
    ranks = {int(child.environ()["RANK"]): child for child in psutil.Process(process.pid).children()}
    ranks[rank].kill()
    finish(process)
    assert results(tmp_path / "run") == results(tmp_path / "whole")
