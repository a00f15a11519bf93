import json
import math
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
import torch
from tracked import HOST, USER, boards_of, log_everything, name_machine, run_of, start

from lunaops.errors import InputError
from lunaops.tracking import RunLink, Tracker, read_link, write_link

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from mlflow import MlflowClient


def test_params_are_text_that_compares(store: "MlflowClient") -> None:
    params = {"train.learning_rate": 0.001, "crop.size_irc": [32, 48, 48], "a.null": None, "a.yes": True, "a.text": "x"}
    with start(params=params) as tracker:
        pass
    assert run_of(store, tracker).data.params == {
        "train.learning_rate": "0.001",
        "crop.size_irc": "[32,48,48]",
        "a.null": "null",
        "a.yes": "true",
        "a.text": "x",
    }


def test_more_and_longer_params_than_mlflow_takes_at_once(store: "MlflowClient") -> None:
    with start(params={f"a.p{i}": i for i in range(150)} | {"a.long": "x" * 10_000}) as tracker:
        pass
    params = run_of(store, tracker).data.params
    assert len(params) == 151
    assert len(params["a.long"]) == 6000


def test_tags_say_where_the_run_comes_from(store: "MlflowClient", tmp_path: Path) -> None:
    (tmp_path / "candidates.parquet").write_bytes(b"hello")
    with start(inputs={"candidates": tmp_path / "candidates.parquet"}, tags={"device": "cpu: x86_64"}) as tracker:
        pass
    tags = run_of(store, tracker).data.tags
    assert tags["dvc.candidates"] == "5d41402abc4b2a76b9719d911017c592"  # md5 of 'hello'
    assert tags["version.torch"] == torch.__version__
    assert tags["device"] == "cpu: x86_64"


def test_nothing_names_the_machine_its_user_or_its_folders(
    store: "MlflowClient", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_machine(monkeypatch)
    (tmp_path / "candidates.parquet").write_bytes(b"hello")
    with start(inputs={"candidates": tmp_path / "candidates.parquet"}) as tracker:
        pass
    run = run_of(store, tracker)
    said = json.dumps([run.data.tags, run.data.params, run.info.run_name, run.info.user_id])
    for secret in (HOST, USER, str(tmp_path), sys.prefix):
        assert secret not in said


def test_metrics_have_their_step_and_undefined_ones_are_left_out(store: "MlflowClient") -> None:
    with start() as tracker:
        tracker.log_metrics({"val/loss/all": 0.7, "val/roc_auc": math.nan, "val/loss/pos": math.inf}, step=800)
        tracker.log_metrics({"val/loss/all": 0.5}, step=1600)
    assert tracker.run_id is not None
    history = store.get_metric_history(tracker.run_id, "val/loss/all")
    assert [(point.step, point.value) for point in history] == [(800, 0.7), (1600, 0.5)]
    assert set(run_of(store, tracker).data.metrics) == {"val/loss/all"}


def test_a_dataset_is_known_by_name_hash_and_counts(store: "MlflowClient") -> None:
    frame = pd.DataFrame({"series_uid": ["1.2", "1.2", "1.3"], "is_nodule": [True, False, False]})
    with start() as tracker:
        tracker.log_dataset(
            frame, name="candidates train", context="training", digest="f" * 32, source=Path("data/candidates.parquet")
        )
    inputs = run_of(store, tracker).inputs
    assert inputs is not None
    (logged,) = inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("candidates train", "f" * 32)
    assert json.loads(logged.dataset.profile or "") == {"num_rows": 3, "num_scans": 2, "num_nodule_rows": 1}
    assert json.loads(logged.dataset.source) == {"uri": "data/candidates.parquet"}
    assert [(tag.key, tag.value) for tag in logged.tags] == [("mlflow.data.context", "training")]


def test_files_lie_in_their_folders(store: "MlflowClient", tmp_path: Path) -> None:
    (tmp_path / "plots" / "gallery").mkdir(parents=True)
    (tmp_path / "plots" / "gallery" / "misses.png").write_bytes(b"picture")
    (tmp_path / "plots" / ".gitignore").write_text("DVC's")
    with start() as tracker:
        tracker.log_artifact(tmp_path / "plots" / "gallery" / "misses.png", "pictures")
        tracker.log_artifacts(tmp_path / "plots", "plots")
    assert tracker.run_id is not None
    assert [file.path for file in store.list_artifacts(tracker.run_id, "pictures")] == ["pictures/misses.png"]
    assert [file.path for file in store.list_artifacts(tracker.run_id, "plots")] == ["plots/gallery"]


@pytest.mark.parametrize(
    ("raised", "status"), [(None, "FINISHED"), (RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_a_run_ends_as_the_stage_does(store: "MlflowClient", raised: type[BaseException] | None, status: str) -> None:
    kept: list[Tracker] = []

    def stage() -> None:
        with start() as tracker:
            kept.append(tracker)
            if raised:
                raise raised

    if raised:
        with pytest.raises(raised):
            stage()
    else:
        stage()
    assert run_of(store, kept[0]).info.status == status


def test_the_experiment_is_lunaops_or_what_the_environment_says(
    store: "MlflowClient", monkeypatch: pytest.MonkeyPatch
) -> None:
    with start() as default:
        pass
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    with start() as mine:
        pass
    names = [store.get_experiment(run_of(store, run).info.experiment_id).name for run in (default, mine)]
    assert names == ["lunaops", "mine"]


def test_the_store_is_a_file_here_by_default(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with start() as tracker:
        tracker.log_artifact(tmp_path / "mlflow.db", "any")
    assert list(tmp_path.glob(f"mlruns/*/{tracker.run_id}/artifacts/any/mlflow.db"))


@pytest.mark.parametrize("uri", ["", "sqlite:///mlflow.db"])
def test_runs_in_a_copy_that_dvc_deletes_are_kept_in_the_project(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_of_project = tmp_path / ".dvc" / "tmp" / "exps" / "tmpabc"
    copy_of_project.mkdir(parents=True)
    monkeypatch.chdir(copy_of_project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (copy_of_project / "any.txt").write_text("any")
    with start(tensorboard=Path("runs")) as tracker:
        tracker.log_metrics({"train/loss/all": 0.5}, step=800)
        tracker.log_artifact(copy_of_project / "any.txt")
    assert [path.name for path in copy_of_project.iterdir()] == ["any.txt"]
    assert list(tmp_path.glob("runs/*-trn_cls/events*"))
    assert list(tmp_path.glob(f"mlruns/**/{tracker.run_id}/artifacts/any.txt"))


# Evaluation


def test_an_evaluation_of_a_run_this_store_never_saw_stands_alone(store: "MlflowClient") -> None:
    with start("evaluate", parent=RunLink("elsewhere", "train elsewhere")) as tracker:
        tracker.log_metrics({"test/cpm": 0.75}, step=0)
    run = run_of(store, tracker)
    assert "mlflow.parentRunId" not in run.data.tags
    assert run.data.tags["lunaops.train_journal"] == "elsewhere"
    assert run.data.metrics == {"test/cpm": 0.75}


def test_an_evaluation_of_an_untracked_training_stands_alone(store: "MlflowClient") -> None:
    with start("evaluate", parent=RunLink(None, "train abc")) as tracker:
        pass
    tags = run_of(store, tracker).data.tags
    assert not {"mlflow.parentRunId", "lunaops.train_journal"} & set(tags)


@pytest.mark.parametrize("link", [RunLink("20250101T000000-abc", "train abc"), RunLink(None, "train abc")])
def test_a_link_comes_back_as_it_was_written(tmp_path: Path, link: RunLink) -> None:
    write_link(tmp_path / "run.json", link)
    assert read_link(tmp_path / "run.json") == link


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"run_id": 1}'])
def test_a_file_that_is_no_link_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json: not a link to a training run"):
        read_link(tmp_path / "run.json")


def test_a_link_that_is_missing_names_the_stage_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run the train stage"):
        read_link(tmp_path / "run.json")


# Off


def test_off_takes_everything_and_writes_nothing(without_mlflow: Path, caplog: pytest.LogCaptureFixture) -> None:
    with start() as tracker:
        log_everything(tracker, without_mlflow)
    assert tracker.link == RunLink(None, "train")
    assert [path.name for path in without_mlflow.iterdir()] == ["plots"]
    assert caplog.messages == []


# What goes wrong on this side


def test_what_mlflow_refuses_for_good_is_left_out_and_said_and_the_rest_arrives(
    store: "MlflowClient", caplog: pytest.LogCaptureFixture
) -> None:
    with start() as tracker:
        tracker.log_metrics({"val/loss?": 0.7}, step=800)
        tracker.log_metrics({"val/loss/all": 0.5}, step=800)
    run = run_of(store, tracker)
    assert (run.data.metrics, run.info.status) == ({"val/loss/all": 0.5}, "FINISHED")
    (warning,) = [message for message in caplog.messages if "refuses" in message]
    assert "val/loss?" in warning


def test_a_disk_that_takes_no_journal_costs_mlflow_alone(
    store: "MlflowClient", tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tracking").write_text("a file where the folder should be")
    with start(tensorboard=Path("runs")) as tracker:
        log_everything(tracker, tmp_path)
    assert tracker.link == RunLink(None, "train")
    (warning,) = [message for message in caplog.messages if "cannot be written" in message]
    assert "\n" not in warning
    assert set(boards_of(tmp_path / "runs")) == {"val_cls", "trn_cls"}
