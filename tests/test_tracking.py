import copy
import getpass
import json
import logging
import math
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch

from lunaops import provenance
from lunaops.device import place_model
from lunaops.errors import InputError
from lunaops.model import LunaModel
from lunaops.params import read_params
from lunaops.tracking import RunLink, Tracker, read_link, start_run, write_link

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARAMS_FILE = Path(__file__).parent.parent / "params.yaml"
CROP = np.full((1, 1, 16, 16, 16), -1000.0, dtype=np.float32)
HOST, USER = "a-host-nobody-may-see", "a-user-nobody-may-see"


def name_machine(patch: pytest.MonkeyPatch) -> None:
    """Give this machine and its user names that no binary file holds by chance, as it may hold a short real one."""
    patch.setattr(socket, "gethostname", lambda: HOST)
    patch.setattr(platform, "node", lambda: HOST)
    patch.setattr(getpass, "getuser", lambda: USER)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Creating MLflow's tables takes seconds; they are created once and copied."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "MlflowClient":
    """An empty MLflow, which start_run will find; the working directory is a fresh one."""
    from mlflow import MlflowClient

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    return MlflowClient(uri)


def start(kind: Any = "train", **options: Any) -> Any:
    return start_run(kind=kind, **({"params": {}, "inputs": {}} | options))


def run_of(store: "MlflowClient", tracker: Tracker) -> "Run":
    assert tracker.run_id is not None
    return store.get_run(tracker.run_id)


def log_everything(tracker: Tracker, folder: Path) -> None:
    """Call each method once."""
    (folder / "plots").mkdir(exist_ok=True)
    (folder / "plots" / "froc.png").write_bytes(b"picture")
    frame = pd.DataFrame({"series_uid": ["1.2", "1.2"], "is_nodule": [True, False]})
    tracker.log_dataset(frame, name="candidates val", context="validation", digest="0" * 32, source=Path("a.parquet"))
    tracker.log_metrics({"train/loss/all": 0.5, "val/loss/all": 0.7}, step=800)
    tracker.log_scores(np.array([True, False]), np.array([0.9, 0.1]), step=800, split="val")
    tracker.log_artifact(folder / "plots" / "froc.png", "plots")
    tracker.log_artifacts(folder / "plots", "all")
    tracker.log_model(LunaModel((16, 16, 16), 1), CROP, metrics={"val/loss/all": 0.7}, step=800)


# What a run carries


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


def test_the_commit_and_its_dirt_are_tagged(store: "MlflowClient", committed_params: dict[str, Any]) -> None:
    with start(params=committed_params) as clean:
        pass
    Path("params.yaml").write_text("changed: true")
    with start(params=committed_params) as dirty:
        pass
    tags = run_of(store, clean).data.tags
    assert tags["mlflow.source.git.commit"] == provenance.git_commit()
    assert tags["git.dirty"] == "false"
    assert run_of(store, dirty).data.tags["git.dirty"] == "true"


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


def test_runs_in_a_copy_that_dvc_deletes_are_kept_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_of_project = tmp_path / ".dvc" / "tmp" / "exps" / "tmpabc"
    copy_of_project.mkdir(parents=True)
    monkeypatch.chdir(copy_of_project)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (copy_of_project / "any.txt").write_text("any")
    with start(tensorboard=Path("runs")) as tracker:
        tracker.log_metrics({"train/loss/all": 0.5}, step=800)
        tracker.log_artifact(copy_of_project / "any.txt")
    assert [path.name for path in copy_of_project.iterdir()] == ["any.txt"]
    assert list(tmp_path.glob("runs/*-trn_cls/events*"))
    assert list(tmp_path.glob(f"mlruns/**/{tracker.run_id}/artifacts/any.txt"))


# Names


@pytest.fixture
def committed_params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The working directory becomes a repository with params.yaml committed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", os.environ.get("MLFLOW_TRACKING_URI", "off"))
    shutil.copy(PARAMS_FILE, "params.yaml")
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    for command in (["init", "--quiet"], ["add", "params.yaml"], [*identity, "commit", "--quiet", "-m", "first"]):
        subprocess.run(["git", *command], check=True)
    return read_params(PARAMS_FILE).flattened()


def name_of(**options: Any) -> str:
    with start(**options) as tracker:
        name: str = tracker.link.name
    return name


def test_a_run_is_named_by_what_was_changed_since_the_commit(committed_params: dict[str, Any]) -> None:
    commit = (provenance.git_commit() or "")[:7]
    assert name_of(params=committed_params) == f"train {commit}"
    changed = committed_params | {"train.learning_rate": 0.5, "evaluate.threshold": 0.1}
    assert name_of(params=changed) == f"learning_rate=0.5 {commit}"


def test_a_long_list_of_changes_is_cut(committed_params: dict[str, Any]) -> None:
    changes = {"train.seed": 5, "train.epochs": 2, "train.balance": 0.0, "train.momentum": 0.5, "model.channels": 3}
    commit = (provenance.git_commit() or "")[:7]
    assert name_of(params=committed_params | changes) == f"channels=3 seed=5 epochs=2 +2 {commit}"


def test_an_evaluation_is_named_after_its_training_and_its_own_changes(committed_params: dict[str, Any]) -> None:
    parent = RunLink("r", "m", "learning_rate=0.5 abcdef0")
    changed = committed_params | {"train.learning_rate": 0.5, "evaluate.threshold": 0.1}
    name = name_of(kind="evaluate", params=changed, parent=parent)
    assert name == "evaluate threshold=0.1 learning_rate=0.5 abcdef0"


def test_a_dvc_experiment_lends_its_name(committed_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "loyal-rats")
    assert name_of(params=committed_params | {"train.seed": 5}) == "seed=5 loyal-rats"


# TensorBoard


def boards_of(root: Path) -> dict[str, Any]:
    """What TensorBoard reads, by the last part of the folder's name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    boards = {}
    for folder in root.iterdir():
        boards[folder.name.rpartition("-")[2]] = EventAccumulator(str(folder)).Reload()
    return boards


@pytest.fixture
def without_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    return tmp_path


def test_splits_overlay_because_their_tags_are_equal(without_mlflow: Path) -> None:
    with start(tensorboard=without_mlflow / "runs") as tracker:
        tracker.log_metrics({"train/loss/all": 0.5, "val/loss/all": 0.75, "seconds": 3.0}, step=800)
    boards = boards_of(without_mlflow / "runs")
    assert {name: board.Tags()["scalars"] for name, board in boards.items()} == {
        "trn_cls": ["loss/all", "seconds"],
        "val_cls": ["loss/all"],
    }
    (point,) = boards["val_cls"].Scalars("loss/all")
    assert (point.step, point.value) == (800, 0.75)


def test_a_folder_appears_with_its_first_value_only(without_mlflow: Path) -> None:
    with start(tensorboard=without_mlflow / "runs") as tracker:
        assert not (without_mlflow / "runs").exists()
        tracker.log_metrics({"train/roc_auc": math.nan}, step=800)
        assert not (without_mlflow / "runs").exists()
        tracker.log_metrics({"val/roc_auc": 0.5}, step=800)
    assert list(boards_of(without_mlflow / "runs")) == ["val_cls"]


def test_scores_give_a_curve_and_a_histogram_for_each_class(without_mlflow: Path) -> None:
    is_nodule = np.array([True, False, False])
    with start(tensorboard=without_mlflow / "runs") as tracker:
        tracker.log_scores(is_nodule, np.array([0.9, 0.2, 0.1]), step=800, split="train")
    board = boards_of(without_mlflow / "runs")["trn_cls"]
    assert board.Tags()["tensors"] == ["pr"]
    assert sum(board.Histograms("is_neg")[0].histogram_value.bucket) == 2
    assert sum(board.Histograms("is_pos")[0].histogram_value.bucket) == 1


def test_one_class_alone_has_no_curve(without_mlflow: Path) -> None:
    with start(tensorboard=without_mlflow / "runs") as tracker:
        tracker.log_scores(np.array([False, False]), np.array([0.2, 0.1]), step=800, split="val")
    tags = boards_of(without_mlflow / "runs")["val_cls"].Tags()
    assert (tags["tensors"], tags["histograms"]) == ([], ["is_neg"])


def test_no_samples_leave_no_folder(without_mlflow: Path) -> None:
    with start(tensorboard=without_mlflow / "runs") as tracker:
        tracker.log_scores(np.zeros(0, dtype=bool), np.zeros(0), step=800, split="val")
    assert not (without_mlflow / "runs").exists()


# The model


@dataclass(frozen=True)
class Trained:
    """A run that logged a model, and the store that holds them."""

    store: "MlflowClient"
    uri: str
    model: LunaModel
    run_id: str
    link: RunLink

    @property
    def model_id(self) -> str:
        assert self.link.model_id is not None
        return self.link.model_id

    @property
    def model_folder(self) -> Path:
        return Path(self.store.get_logged_model(self.model_id).artifact_location.removeprefix("file://"))


@pytest.fixture(scope="module")
def trained(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Exporting a model takes seconds; it is done once and only read."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("trained")
    shutil.copy(empty_store, folder / "mlflow.db")
    uri = f"sqlite:///{folder}/mlflow.db"
    model = LunaModel((16, 16, 16), 2).train()
    place_model(model, torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("error", message="No complete tensor found")
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        name_machine(patch)
        with start(params={"model.channels": 2}) as tracker:
            tracker.log_metrics({"val/average_precision": 0.5, "val/loss/all": 0.7}, step=800)
            tracker.log_metrics({"val/average_precision": 0.8, "val/loss/all": 0.4}, step=1600)
            tracker.log_model(model, CROP, metrics={"val/average_precision": 0.8, "val/roc_auc": math.nan}, step=1600)
    return Trained(MlflowClient(uri), uri, model, tracker.run_id, tracker.link)


def test_the_model_is_ready_and_knows_its_run_params_and_metrics(trained: Trained) -> None:
    logged = trained.store.get_logged_model(trained.model_id)
    assert logged.status == "READY"
    assert logged.source_run_id == trained.run_id
    assert logged.params == {"model.channels": "2"}
    own = [metric for metric in logged.metrics or [] if metric.run_id == trained.run_id]
    assert [(metric.key, metric.value, metric.step) for metric in own] == [("val/average_precision", 0.8, 1600)]
    outputs = trained.store.get_run(trained.run_id).outputs
    assert outputs is not None
    assert [output.model_id for output in outputs.model_outputs] == [trained.model_id]


def test_linking_metrics_to_the_model_shows_no_point_twice(trained: Trained) -> None:
    history = trained.store.get_metric_history(trained.run_id, "val/average_precision")
    assert [(point.step, point.value) for point in history] == [(800, 0.5), (1600, 0.8)]


def test_the_logged_model_holds_no_pickle_file_and_no_path_of_this_machine(trained: Trained) -> None:
    folder = trained.model_folder
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert "data/model.pt2" in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pth", ".pt"))]
    for file in (folder / name for name in names):
        for secret in (sys.prefix, str(PARAMS_FILE.parent), str(folder), HOST, USER):
            assert secret.encode() not in file.read_bytes(), file


def test_the_logged_model_pins_what_serving_needs(trained: Trained) -> None:
    requirements = (trained.model_folder / "requirements.txt").read_text().split()
    assert f"torch=={torch.__version__.partition('+')[0]}" in requirements
    assert all("==" in line and "+" not in line and "/" not in line for line in requirements)


def test_logging_leaves_the_model_in_training(trained: Trained) -> None:
    assert trained.model.training


LOAD_AND_PREDICT = """
import sys, json
import numpy as np, torch, mlflow
weights_only = []
load = torch.load
torch.load = lambda *args, **options: weights_only.append(options.get("weights_only")) or load(*args, **options)
model = mlflow.pyfunc.load_model(sys.argv[1])
crops = np.load(sys.argv[2])
print(json.dumps([model.predict(crops[:1]).tolist(), model.predict(crops).tolist(), all(weights_only)]))
"""


@pytest.mark.slow
def test_another_process_predicts_the_same_for_any_batch_size_and_unpickles_nothing(
    trained: Trained, tmp_path: Path
) -> None:
    crops = np.random.default_rng(0).normal(0, 500, (5, *CROP.shape[1:])).astype(np.float32)
    np.save(tmp_path / "crops.npy", crops)
    command = [sys.executable, "-c", LOAD_AND_PREDICT, str(trained.model_folder), "crops.npy"]
    environment = os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True)
    one, five, is_restricted = json.loads(done.stdout)
    with torch.no_grad():
        expected = copy.deepcopy(trained.model).eval()(torch.from_numpy(crops))[1].numpy()
    np.testing.assert_allclose(five, expected, atol=1e-6)
    np.testing.assert_allclose(one, expected[:1], atol=1e-6)
    assert is_restricted


# Evaluation


def test_an_evaluation_is_a_child_of_its_training_and_speaks_of_its_model(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.uri)
    frame = pd.DataFrame({"series_uid": ["1.2"], "is_nodule": [True]})
    with start("evaluate", parent=trained.link) as tracker:
        tracker.log_dataset(
            frame, name="predictions test", context="test", digest="e" * 32, source=Path("data/predictions.parquet")
        )
        tracker.log_metrics({"test/cpm": 0.75}, step=1600)
    run = run_of(trained.store, tracker)
    assert run.data.tags["mlflow.parentRunId"] == trained.run_id
    assert run.data.metrics == {"test/cpm": 0.75}
    assert run.inputs is not None
    assert [used.model_id for used in run.inputs.model_inputs] == [trained.model_id]
    cpm = next(m for m in trained.store.get_logged_model(trained.model_id).metrics or [] if m.key == "test/cpm")
    assert (cpm.value, cpm.run_id, cpm.dataset_name) == (0.75, tracker.run_id, "predictions test")


def test_an_evaluation_of_a_run_this_store_never_saw_stands_alone(store: "MlflowClient") -> None:
    with start("evaluate", parent=RunLink("0" * 32, "m-1", "train elsewhere")) as tracker:
        tracker.log_metrics({"test/cpm": 0.75}, step=0)
    run = run_of(store, tracker)
    assert "mlflow.parentRunId" not in run.data.tags
    assert run.data.tags["lunaops.train_run_id"] == "0" * 32
    assert run.data.metrics == {"test/cpm": 0.75}
    assert tracker.link.model_id is None


def test_an_evaluation_of_an_untracked_training_stands_alone(store: "MlflowClient") -> None:
    with start("evaluate", parent=RunLink(None, None, "train abc")) as tracker:
        pass
    tags = run_of(store, tracker).data.tags
    assert not {"mlflow.parentRunId", "lunaops.train_run_id"} & set(tags)


@pytest.mark.parametrize("link", [RunLink("r1", "m-1", "train abc"), RunLink(None, None, "train abc")])
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


# MLflow off, absent, dying, hanging


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_off_takes_everything_and_writes_nothing(without_mlflow: Path, caplog: pytest.LogCaptureFixture) -> None:
    with start() as tracker:
        log_everything(tracker, without_mlflow)
    assert tracker.link == RunLink(None, None, "train")
    assert [path.name for path in without_mlflow.iterdir()] == ["plots"]
    assert caplog.messages == []


def test_where_nothing_listens_one_line_warns_and_the_stage_goes_on(
    without_mlflow: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{free_port()}")
    began = time.monotonic()
    with start(tensorboard=without_mlflow / "runs") as tracker:
        log_everything(tracker, without_mlflow)
    assert time.monotonic() - began < 30
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "going on without it" in warning.getMessage()
    assert "\n" not in warning.getMessage()
    assert "secret" not in warning.getMessage()
    assert tracker.link == RunLink(None, None, "train")
    assert set(boards_of(without_mlflow / "runs")) == {"trn_cls", "val_cls"}


@pytest.mark.slow
def test_a_server_that_accepts_and_never_answers_costs_two_timeouts_once(
    without_mlflow: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{hanging.getsockname()[1]}")
        began = time.monotonic()
        with start() as tracker:
            log_everything(tracker, without_mlflow)
        assert time.monotonic() - began < 15
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


def wait_until_it_answers(url: str) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(url, timeout=1)
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(url)


@pytest.fixture
def server(store: "MlflowClient", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A real MLflow server, as a process group of its own, that start_run will find."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    command += [
        "--backend-store-uri",
        os.environ["MLFLOW_TRACKING_URI"],
        "--artifacts-destination",
        str(tmp_path / "a"),
    ]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until_it_answers(f"http://127.0.0.1:{port}/health")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        yield process
    finally:
        kill(process)


def kill(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_server_that_dies_half_way_costs_its_half_only(
    store: "MlflowClient", server: "subprocess.Popen[bytes]", tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with start(params={"train.seed": 1}, tensorboard=tmp_path / "runs") as tracker:
        log_everything(tracker, tmp_path)
        model_id = tracker.link.model_id
        kill(server)
        began = time.monotonic()
        tracker.log_metrics({"val/loss/all": 0.1}, step=1600)
        log_everything(tracker, tmp_path)
        assert time.monotonic() - began < 30
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "going on without it" in warning.getMessage()
    assert tracker.link.model_id == model_id is not None
    run = run_of(store, tracker)
    assert run.data.params == {"train.seed": "1"}
    assert run.data.metrics["val/loss/all"] == 0.7
    assert run.info.status == "RUNNING"
    steps = [point.step for point in boards_of(tmp_path / "runs")["val_cls"].Scalars("loss/all")]
    assert steps == [800, 1600, 800]
