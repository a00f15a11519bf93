"""The pipeline as a DVC user meets it: a small data set, real stages, a real repository."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from ruamel.yaml import YAML

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("repro")]

TINY = {
    "fetch.parts": ["labels", "subset0", "subset1", "subset2"],
    "phantom.subsets": 4,
    "phantom.scans_per_subset": 2,
    "phantom.share_without_nodules": 0.0,
    "phantom.max_megavoxels": 0.8,
    "split.val": ["subset1"],
    "split.test": ["subset2"],
    "crop.size_irc": [16, 16, 16],
    "train.epochs": 2,
    "train.samples_per_epoch": 32,
    "train.batch_size": 16,
}


def change(repository: Path, changes: dict[str, Any]) -> None:
    yaml = YAML()
    tree = yaml.load((repository / "params.yaml").read_text())
    for key, value in changes.items():
        section, name = key.split(".")
        assert name in tree[section], key
        tree[section][name] = value
    with (repository / "params.yaml").open("w") as file:
        yaml.dump(tree, file)


def call(repository: Path, *command: str, mlflow: str = "off") -> str:
    environment = os.environ | {
        "LUNAOPS_CACHE_DIR": str(repository.parent / "crops"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "MLFLOW_TRACKING_URI": mlflow,
    }
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def repro(repository: Path, *arguments: str, mlflow: str = "off") -> list[str]:
    """The stages that ran."""
    return stages_run(call(repository, "dvc", "repro", *arguments, mlflow=mlflow))


def stages_run(output: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", output)


def new_repository(folder: Path) -> Path:
    """The project as it stands, committed, with the tiny data set's params."""
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file() and name != "dvc.lock" and not name.startswith(("reports/", "data/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    change(folder, TINY)
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        call(folder, "git", *command)
    return folder


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = new_repository(tmp_path_factory.mktemp("repro") / "project")
    assert repro(folder, mlflow="sqlite:///mlflow.db") == [
        "fetch-subsets@labels",
        "fetch-subsets@subset0",
        "fetch-subsets@subset1",
        "fetch-subsets@subset2",
        "merge-annotations",
        "build-cache",
        "train",
        "predict",
        "evaluate",
    ]
    return folder


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
    call(repository, "git", "add", ".")
    call(repository, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "b")
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
