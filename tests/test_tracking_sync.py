"""What a run leaves undelivered, and the command that delivers it: once, whoever was killed in between."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ROOT
from mlflow_server import free_port
from tracked import start

from lunaops import tracking_mlflow
from lunaops.errors import InputError
from lunaops.tracking import RunLink
from lunaops.tracking_journal import Delivered, delivery_lock, find_journals, read_delivered, write_delivered
from lunaops.tracking_sync import sync_tracking

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


@pytest.fixture
def dead(store: "MlflowClient", monkeypatch: pytest.MonkeyPatch) -> str:
    """A store that is not there until come_back() makes its journals those of one that is; returns its URI."""
    monkeypatch.setattr(tracking_mlflow, "_PATIENCE", dict.fromkeys(tracking_mlflow._PATIENCE, 0.1))
    uri = f"http://me:secret@127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


def come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dead server was no server: its journals become those of the working store."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path.cwd()}/mlflow.db")
    for folder in find_journals(Path("tracking")):
        file = folder / "journal.jsonl"
        first, *rest = file.read_text().splitlines(keepends=True)
        entry = json.loads(first) | {"store": "sqlite:///mlflow.db"}
        file.write_text("".join([json.dumps(entry) + "\n", *rest]))


def run_of_journal(store: "MlflowClient", journal_id: str | None) -> "Run":
    experiments = [experiment.experiment_id for experiment in store.search_experiments()]
    (run,) = store.search_runs(experiments, f"tags.`lunaops.journal_id` = '{journal_id}'")
    return run


def points_of(store: "MlflowClient", run: "Run", key: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in store.get_metric_history(run.info.run_id, key))


def test_what_a_dead_server_missed_is_delivered_by_the_command(
    store: "MlflowClient", dead: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Path("epochs.csv").write_text("epoch")
    with start(params={"train.seed": 1}) as tracker:
        tracker.log_metrics({"val/loss/all": 0.5}, step=800)
        tracker.log_artifact(Path("epochs.csv"))
    assert tracker.run_id is None
    assert "sync-tracking" in caplog.text
    (folder,) = find_journals(Path("tracking"))
    assert "secret" not in (folder / "journal.jsonl").read_text() + caplog.text
    come_back(monkeypatch)
    sync_tracking(Path())
    run = run_of_journal(store, tracker.link.journal_id)
    assert (run.info.status, run.data.params) == ("FINISHED", {"train.seed": "1"})
    assert points_of(store, run, "val/loss/all") == [(800, 0.5)]
    assert [file.path for file in store.list_artifacts(run.info.run_id)] == ["epochs.csv"]
    assert find_journals(Path("tracking")) == []


def test_the_next_run_delivers_it_too_and_an_evaluation_finds_its_training(
    store: "MlflowClient", dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start() as training:
        training.log_metrics({"val/loss/all": 0.5}, step=800)
    come_back(monkeypatch)
    monkeypatch.setattr(tracking_mlflow, "_PATIENCE", dict.fromkeys(tracking_mlflow._PATIENCE, 60.0))
    with start("evaluate", parent=training.link) as evaluation:
        evaluation.log_metrics({"test/cpm": 0.75}, step=0)
    parent = run_of_journal(store, training.link.journal_id)
    child = run_of_journal(store, evaluation.link.journal_id)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert find_journals(Path("tracking")) == []


def test_what_was_delivered_but_not_acknowledged_is_there_once(
    store: "MlflowClient", dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("epochs.csv").write_text("epoch")
    with pytest.raises(KeyboardInterrupt), start(params={"train.seed": 1}) as tracker:
        tracker.log_metrics({"val/loss/all": 0.5, "train/loss/all": 0.25}, step=800)
        tracker.log_artifact(Path("epochs.csv"))
        raise KeyboardInterrupt
    come_back(monkeypatch)
    (folder,) = find_journals(Path("tracking"))
    shutil.copytree(folder, "before")
    sync_tracking(Path())
    for forgotten in (Delivered(), read_delivered(folder)):  # the ids too, or how far alone
        forgotten.offset = 0
        shutil.copytree("before", folder, dirs_exist_ok=True)
        write_delivered(folder, forgotten)
        sync_tracking(Path())
    run = run_of_journal(store, tracker.link.journal_id)
    assert run.info.status == "KILLED"
    assert points_of(store, run, "val/loss/all") == [(800, 0.5)]


def test_a_store_that_is_not_there_is_said_in_one_line_and_nothing_is_lost(store: "MlflowClient", dead: str) -> None:
    with start():
        pass
    for _ in range(2):
        with pytest.raises(InputError, match="kept, deliver it later") as raised:
            sync_tracking(Path())
        assert "\n" not in str(raised.value) and "secret" not in str(raised.value)
    assert len(find_journals(Path("tracking"))) == 1


def test_another_stores_journals_are_left_and_named(
    store: "MlflowClient", dead: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with start() as tracker:
        pass
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path.cwd()}/mlflow.db")
    sync_tracking(Path())
    assert f"{tracker.link.journal_id} belongs to http://127.0.0.1" in caplog.text
    assert len(find_journals(Path("tracking"))) == 1
    with pytest.raises(InputError, match="name the store"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
        sync_tracking(Path())


def test_a_journal_that_another_process_delivers_is_left_to_it(
    store: "MlflowClient", dead: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with start():
        pass
    come_back(monkeypatch)
    (folder,) = find_journals(Path("tracking"))
    with delivery_lock(folder):
        sync_tracking(Path())
    assert "is being delivered by its own run or by another command" in caplog.text
    assert len(find_journals(Path("tracking"))) == 1


def test_a_run_that_was_deleted_meanwhile_is_not_made_again(
    store: "MlflowClient", dead: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RuntimeError), start() as tracker:
        tracker.log_metrics({"val/loss/all": 0.5}, step=800)
        raise RuntimeError
    come_back(monkeypatch)
    sync_tracking(Path())
    (folder,) = find_journals(Path("tracking"))
    run = run_of_journal(store, tracker.link.journal_id)
    store.delete_run(run.info.run_id)
    delivered = read_delivered(folder)
    delivered.offset = 0
    write_delivered(folder, delivered)
    sync_tracking(Path())
    assert "was deleted in MLflow" in caplog.text
    assert store.search_runs([run.info.experiment_id]) == []


KILLED = """
import os, signal
from pathlib import Path
from lunaops import tracking_delivery
from lunaops.tracking import start_run
with start_run(kind="train", params={"train.seed": 1}, inputs={}) as tracker:
    for epoch in (1, 2, 3):
        tracker.log_metrics({"val/loss/all": 1 / epoch}, step=100 * epoch)
    with next(Path("tracking").glob("*/journal.jsonl")).open("ab") as file:
        file.write(b'{"do":"metrics","ste')
    os.kill(os.getpid(), signal.SIGKILL)
"""


def call(*command: str, uri: str) -> subprocess.CompletedProcess[str]:
    environment: dict[str, Any] = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)


def test_a_training_that_is_killed_is_delivered_once_by_two_commands_at_once(
    store: "MlflowClient", dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = call("-c", KILLED, uri=dead)
    assert done.returncode == -9, done.stderr
    refused = call("-m", "lunaops", "sync-tracking", uri=dead)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
    come_back(monkeypatch)
    command = [sys.executable, "-m", "lunaops", "sync-tracking"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    (folder,) = find_journals(Path("tracking"))
    run = run_of_journal(store, folder.name)
    assert run.info.status == "KILLED"
    assert points_of(store, run, "val/loss/all") == [(100, 1.0), (200, 0.5), (300, 1 / 3)]
    assert "Traceback" not in said[0] + said[1]


def test_a_link_without_a_journal_is_that_of_an_untracked_run(without_mlflow: Path) -> None:
    with start() as tracker:
        pass
    assert tracker.link == RunLink(None, "train")
    assert not Path("tracking").exists()
