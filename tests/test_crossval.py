"""Pooling, and the command on a small data set in a real repository, one fold of which is killed half way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from test_repro import call, change, new_repository, stages_run

from lunaops.crossval import fetch_outputs, pool
from lunaops.errors import InputError


def fold(folder: Path, split_of: dict[str, str]) -> dict[str, Path]:
    """The tables of a fold in which each scan has one candidate."""
    folder.mkdir()
    scans = pd.DataFrame({"series_uid": list(split_of), "split": list(split_of.values())})
    tables = {
        "scans": scans,
        "predictions": scans[scans["split"] != "train"].assign(score=0.5),
        "nodules": pd.DataFrame({"nodule_id": [0], "series_uid": ["a"]}),
        "excluded": pd.DataFrame({"series_uid": ["b"]}),
    }
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet")
    return {name: folder / f"{name}.parquet" for name in tables} | {"gallery": folder / "gallery.npz"}


def test_what_the_folds_tested_and_validated_is_pooled_and_nothing_that_trained(tmp_path: Path) -> None:
    folds = [
        fold(tmp_path / "0", {"a": "test", "b": "val", "c": "train"}),
        fold(tmp_path / "1", {"a": "train", "b": "test", "c": "val"}),
    ]
    pooled = pool(folds)
    expected = [("a", "test"), ("b", "val"), ("b", "test"), ("c", "val")]
    for name in ("scans", "predictions"):
        assert list(pooled[name][["series_uid", "split"]].itertuples(index=False, name=None)) == expected
    assert len(pooled["nodules"]) == len(pooled["excluded"]) == 1


def test_a_scan_that_two_folds_test_is_named(tmp_path: Path) -> None:
    folds = [fold(tmp_path / name, {"a": "test", "b": "val"}) for name in ("0", "1")]
    with pytest.raises(InputError, match=r"2 scans are in one split of two folds, the first a: .* run them again"):
        pool(folds)


def test_a_fold_that_never_ran_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^fold 3: data/scans.csv: dvc get failed: ERROR: [^\n]+$"):
        fetch_outputs(3, [Path("data", "scans.csv")], tmp_path / "folds")


def test_outputs_are_never_written_over_as_they_may_be_links_into_the_cache(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"fold 3: .* exists; give a new folder"):
        fetch_outputs(3, [Path("data", "scans.csv")], tmp_path)


def test_without_dvc_on_the_path_the_environment_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"dvc is not on the PATH; activate the environment, or say `make crossval`"):
        fetch_outputs(3, [Path("data", "scans.csv")], tmp_path / "folds")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = new_repository(tmp_path_factory.mktemp("crossval") / "project")
    change(
        folder,
        {"split.folds": [0, 2], "train.epochs": 1, "train.samples_per_epoch": 16, "evaluate.register": "nodules"},
    )
    call(folder, "dvc", "repro", "fetch-subsets")
    call(folder, "git", "add", ".")
    call(folder, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "small")
    return folder


@pytest.mark.long
@pytest.mark.xdist_group("repro")
def test_every_scan_tests_once_and_a_fold_that_is_done_or_was_killed_is_not_begun_again(repository: Path) -> None:
    from mlflow import MlflowClient

    killed_while_predicting(repository)
    first = call(repository, sys.executable, "-m", "lunaops", "crossval", mlflow="sqlite:///mlflow.db")
    assert stages_run(first).count("train") == 1  # of two: that of fold 0 was done
    store = MlflowClient(f"sqlite:///{repository}/mlflow.db")
    assert {run.data.params["evaluate.register"] for run in store.search_runs(["1"])} == {"null"}
    assert store.search_registered_models() == []
    numbers = json.loads((repository / "crossval" / "metrics.json").read_text())["test"]
    assert numbers["num_scans"] == 4
    assert pd.read_csv(repository / "crossval" / "plots" / "subsets.csv")["subset"].tolist() == ["subset0", "subset2"]
    again = call(repository, sys.executable, "-m", "lunaops", "crossval")
    assert not [
        file for file in (repository / ".dvc" / "cache").rglob("*") if file.is_file() and not file.stat().st_size
    ]
    assert set(stages_run(again)) <= {"merge-annotations"}
    assert json.loads((repository / "crossval" / "metrics.json").read_text())["test"] == numbers
    assert [f"fold-{k}" in call(repository, "dvc", "exp", "list", "--name-only") for k in (0, 2)] == [True] * 2
    assert call(repository, "git", "status", "--porcelain") == ""


def killed_while_predicting(repository: Path) -> None:
    """Run the command in a group of its own until predict begins, then kill all of it."""
    environment = os.environ | {"LUNAOPS_CACHE_DIR": str(repository.parent / "crops"), "MLFLOW_TRACKING_URI": "off"}
    with (repository.parent / "killed.log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lunaops", "crossval"],
            cwd=repository, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        while "Running stage 'predict'" not in Path(log.name).read_text():
            assert process.poll() is None, Path(log.name).read_text()
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
