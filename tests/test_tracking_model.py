import copy
import json
import math
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from tracked import CROP, HOST, USER, name_machine, run_of, start

from lunaops.device import place_model
from lunaops.model import LunaModel
from lunaops.tracking import RunLink

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from mlflow import MlflowClient


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
        outputs = self.store.get_run(self.run_id).outputs
        assert outputs is not None
        (output,) = outputs.model_outputs
        return str(output.model_id)

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
        patch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
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
    assert [model.model_id for model in trained.store.search_logged_models(["1"])] == [trained.model_id]


def test_linking_metrics_to_the_model_shows_no_point_twice(trained: Trained) -> None:
    history = trained.store.get_metric_history(trained.run_id, "val/average_precision")
    assert [(point.step, point.value) for point in history] == [(800, 0.5), (1600, 0.8)]


def test_the_logged_model_holds_no_pickle_file_and_no_path_of_this_machine(trained: Trained) -> None:
    folder = trained.model_folder
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert "data/model.pt2" in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pth", ".pt"))]
    for file in (folder / name for name in names):
        for secret in (sys.prefix, str(ROOT), str(folder), HOST, USER):
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
