"""The pipeline as a DVC user meets it: a small data set, real stages, a real repository."""

import json
import shutil
from pathlib import Path

import pytest
from repository import TINY, call, change, commit, copy_of, new_repository, repro, stages_run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("repro")]


@pytest.fixture(scope="module")
def repository(built: Path) -> Path:
    return copy_of(built, "changed")


def test_the_second_repro_does_nothing(repository: Path) -> None:
    assert repro(repository) == []


def test_dvc_shows_the_metrics(repository: Path) -> None:
    shown = json.loads(call(repository, "dvc", "metrics", "show", "--json"))
    assert 0 <= shown[""]["data"]["reports/metrics.json"]["data"]["test"]["cpm"] <= 1


def test_another_clone_has_the_same_tables_crops_and_predictions(repository: Path, tmp_path: Path) -> None:
    other = new_repository(tmp_path / "other")
    repro(other, "predict")
    for name in (
        "scans.csv",
        "nodules.parquet",
        "candidates.parquet",
        "crops.json",
        "predictions.parquet",
        "gallery.npz",
    ):
        assert (other / "data" / name).read_bytes() == (repository / "data" / name).read_bytes(), name
    for name in ("models/best", "models/last"):
        for file in ("weights.safetensors", "model.json"):
            assert (other / name / file).read_bytes() == (repository / name / file).read_bytes(), (name, file)
    epochs = "reports/train/epochs.csv"
    assert (other / epochs).read_bytes() == (repository / epochs).read_bytes()


def test_a_changed_threshold_re_runs_evaluate_alone(repository: Path) -> None:
    change(repository, {"evaluate.threshold": 0.4})
    assert "evaluate.threshold" in call(repository, "dvc", "params", "diff")
    assert repro(repository) == ["evaluate"]


def test_an_experiment_with_another_learning_rate_re_runs_training_and_what_follows(repository: Path) -> None:
    commit(repository)
    output = call(repository, "dvc", "exp", "run", "--name", "slower", "-S", "train.learning_rate=0.0002")
    assert stages_run(output) == ["train", "predict", "evaluate"]
    (row,) = [line for line in call(repository, "dvc", "exp", "show", "--csv").splitlines() if "slower" in line]
    assert "0.0002" in row
    assert "train.learning_rate" in call(repository, "dvc", "params", "diff")
    assert "test.cpm" in call(repository, "dvc", "metrics", "diff", "--all")


def test_a_changed_crop_size_re_runs_from_the_cache_on(repository: Path) -> None:
    change(repository, {"crop.size_irc": [16, 20, 20]})
    assert repro(repository) == ["build-cache", "train", "predict", "evaluate"]


def test_one_more_subset_fetches_that_subset_only(repository: Path) -> None:
    change(repository, {"fetch.parts": [*TINY["fetch.parts"], "subset3"]})
    assert repro(repository, "build-cache") == ["fetch-subsets@subset3", "merge-annotations", "build-cache"]
    scans = (repository / "data" / "scans.csv").read_text()
    assert "subset3/" in scans


def test_without_the_scans_evaluate_runs_alone(repository: Path) -> None:
    shutil.rmtree(repository / "data" / "raw" / "subset0")
    change(repository, {"evaluate.threshold": 0.3})
    assert repro(repository, "--single-item", "evaluate") == ["evaluate"]
