"""What the tests of tracking share: a run started on nothing, all that it can log, and what it left behind."""

import getpass
import platform
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from lunaops.model import LunaModel
from lunaops.tracking import RunLink, Tracker, start_run
from lunaops.tracking_stored_run import JOURNAL_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

CROP = np.full((1, 1, 16, 16, 16), -1000.0, dtype=np.float32)
HOST, USER = "a-host-nobody-may-see", "a-user-nobody-may-see"


def name_machine(patch: pytest.MonkeyPatch) -> None:
    """Give this machine and its user names that no binary file holds by chance, as it may hold a short real one."""
    patch.setattr(socket, "gethostname", lambda: HOST)
    patch.setattr(platform, "node", lambda: HOST)
    patch.setattr(getpass, "getuser", lambda: USER)


def start(kind: Any = "train", **options: Any) -> Any:
    return start_run(kind=kind, **({"params": {}, "inputs": {}} | options))


def run_of(store: "MlflowClient", tracker: Tracker) -> "Run":
    assert tracker.run_id is not None
    return store.get_run(tracker.run_id)


def trained(store: "MlflowClient", name: str) -> tuple[RunLink, str]:
    """A training run with a logged model that has no files, as its evaluation finds it; and the model's id."""
    from mlflow.entities import LoggedModelOutput

    found = store.get_experiment_by_name("lunaops")
    experiment = found.experiment_id if found else store.create_experiment("lunaops")
    run_id = store.create_run(experiment, tags={JOURNAL_TAG: name}, run_name=name).info.run_id
    model_id = store.create_logged_model(experiment, "model", run_id).model_id
    store.finalize_logged_model(model_id, "READY")
    store.log_outputs(run_id, [LoggedModelOutput(model_id, 100)])
    return RunLink(name, name), model_id


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


def boards_of(root: Path) -> dict[str, Any]:
    """What TensorBoard reads, by the last part of the folder's name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    boards = {}
    for folder in root.iterdir():
        boards[folder.name.rpartition("-")[2]] = EventAccumulator(str(folder)).Reload()
    return boards
