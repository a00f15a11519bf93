"""A run that was interrupted goes on where it was: the same MLflow run, the same folders, no point twice."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from tracked import boards_of, run_of, start

from lunaops.tracking import Tracker
from lunaops.tracking_journal import find_journals
from lunaops.tracking_sync import sync_tracking

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOSSES = {1: 0.9, 2: 0.7, 3: 0.6, 4: 0.5}


def log_epoch(tracker: Tracker, epoch: int) -> None:
    models = Path("last")
    models.mkdir(exist_ok=True)
    (models / "model.json").write_text(json.dumps({"epoch": epoch}))
    tracker.log_metrics({"val/loss/all": LOSSES[epoch]}, step=100 * epoch)
    tracker.log_checkpoint(models, epoch=epoch, best_epoch=1, keep=2)


def interrupted(**options: Any) -> tuple[Tracker, dict[str, Any]]:
    """A run that logs three epochs, whose state was saved after the second; as JSON brings its position back."""
    frame = pd.DataFrame({"series_uid": ["1.2"], "is_nodule": [True]})
    with pytest.raises(KeyboardInterrupt), start(**options) as tracker:
        tracker.log_dataset(frame, name="val", context="validation", digest="0" * 32, source=Path("a.parquet"))
        log_epoch(tracker, 1)
        log_epoch(tracker, 2)
        position = json.loads(json.dumps(tracker.position))
        log_epoch(tracker, 3)
        raise KeyboardInterrupt
    return tracker, position


def test_it_is_the_same_run_with_every_point_once(store: "MlflowClient", tmp_path: Path) -> None:
    options = {"params": {"train.seed": 1}, "tensorboard": tmp_path / "runs"}
    first, position = interrupted(**options)
    assert run_of(store, first).info.status == "KILLED"
    with start(**options, resume=position) as second:
        log_epoch(second, 3)
        log_epoch(second, 4)
        assert second.position == position | {"step": 400}
    assert second.link == first.link
    run = run_of(store, second)
    assert run.info.run_id == first.run_id
    assert run.info.status == "FINISHED"
    assert len(store.search_runs([run.info.experiment_id])) == 1
    history = store.get_metric_history(run.info.run_id, "val/loss/all")
    assert sorted((point.step, point.value) for point in history) == [(100 * e, LOSSES[e]) for e in LOSSES]
    checkpoints = [file.path for file in store.list_artifacts(run.info.run_id, "checkpoints")]
    assert checkpoints == [f"checkpoints/epoch-{epoch:03d}" for epoch in (1, 3, 4)]
    (board,) = boards_of(tmp_path / "runs").values()
    assert [point.step for point in board.Scalars("loss/all")] == [100, 200, 300, 400]


def test_a_finished_run_is_gone_on_with_as_long_as_its_resume_file_is_there(store: "MlflowClient") -> None:
    file = Path("tmp/resume")
    file.parent.mkdir()
    file.touch()
    with start(resume_file=file) as first:
        log_epoch(first, 1)
        log_epoch(first, 2)
        position = first.position
    sync_tracking(Path())
    with start(resume=position, resume_file=file) as second:
        log_epoch(second, 2)
    assert second.run_id == first.run_id
    run = run_of(store, second)
    assert run.info.status == "FINISHED"
    assert len(store.search_runs([run.info.experiment_id])) == 1
    history = store.get_metric_history(run.info.run_id, "val/loss/all")
    assert sorted(point.step for point in history) == [100, 200]
    file.unlink()
    sync_tracking(Path())
    assert find_journals(Path("tracking")) == []


def test_a_run_that_is_gone_on_with_from_another_file_is_resumable_as_long_as_that_is_there(
    store: "MlflowClient",
) -> None:
    file = Path("another")
    file.touch()
    first, position = interrupted(resume_file=Path("state"))
    with start(resume=position, resume_file=file):
        pass
    sync_tracking(Path())
    assert [folder.name for folder in find_journals(Path("tracking"))] == [first.link.journal_id]
    file.unlink()
    sync_tracking(Path())
    assert find_journals(Path("tracking")) == []


def test_a_run_removes_the_journals_that_are_done_and_no_others(store: "MlflowClient") -> None:
    kept, removed = Path("kept"), Path("removed")
    kept.touch()
    removed.touch()
    with start(resume_file=kept) as first, start(resume_file=removed):
        pass
    removed.unlink()
    with start():
        pass
    assert [folder.name for folder in find_journals(Path("tracking"))] == [first.link.journal_id]


def test_a_journal_that_is_gone_makes_a_new_run(store: "MlflowClient", caplog: pytest.LogCaptureFixture) -> None:
    first, position = interrupted()
    with start(resume=position | {"journal": "20250101T000000-gone"}) as second:
        log_epoch(second, 3)
    assert second.run_id != first.run_id
    (warning,) = [message for message in caplog.messages if "gets a new run" in message]
    assert "20250101T000000-gone" in warning


def test_a_run_that_was_deleted_in_mlflow_comes_back_with_its_past(
    store: "MlflowClient", caplog: pytest.LogCaptureFixture
) -> None:
    first, position = interrupted(params={"train.seed": 1})
    assert first.run_id is not None
    store.delete_run(first.run_id)
    with start(params={"train.seed": 1}, resume=position) as second:
        log_epoch(second, 3)
        log_epoch(second, 4)
    run = run_of(store, second)
    assert run.info.run_id != first.run_id
    assert run.data.params == {"train.seed": "1"}
    history = store.get_metric_history(run.info.run_id, "val/loss/all")
    assert sorted(point.step for point in history) == [100, 200, 300, 400]
    assert "is no longer in MLflow" in caplog.text


def test_with_mlflow_off_the_boards_go_on(without_mlflow: Path) -> None:
    _, position = interrupted(tensorboard=Path("runs"))
    assert position["journal"] is None
    with start(tensorboard=Path("runs"), resume=position) as tracker:
        log_epoch(tracker, 3)
    (board,) = boards_of(without_mlflow / "runs").values()
    assert [point.step for point in board.Scalars("loss/all")] == [100, 200, 300]


def test_system_metrics_are_logged_and_count_on(store: "MlflowClient", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    _, position = interrupted()
    with start(resume=position) as tracker:
        pass
    assert tracker.run_id is not None
    history = store.get_metric_history(tracker.run_id, "system/system_memory_usage_percentage")
    assert sorted(point.step for point in history) == [0, 1]
    assert all(0 < point.value <= 100 for point in history)
