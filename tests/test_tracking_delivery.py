"""A real MLflow server that is not there, dies, hangs, is slow, refuses or loses its answers, under a run."""

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
import torch
from mlflow_server import MlflowServer, Proxy, wait_until
from torch import nn
from tracked import CROP, boards_of, start, trained

from lunaops import tracking_delivery
from lunaops.tracking import Tracker
from lunaops.tracking_journal import find_journals
from lunaops.tracking_sync import sync_tracking

if TYPE_CHECKING:
    pass

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mlflow server")]
PARAMS = {"train.seed": 1, "train.epochs": 4}


class Tiny(nn.Module):
    """Exports in a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.linear(x.mean((1, 2, 3)))
        return logits, logits.softmax(1)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh working directory; what fails is tried again soon."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    monkeypatch.setattr(tracking_delivery, "_PAUSES", (0.1, 0.5))
    monkeypatch.setattr(tracking_delivery, "_LAST_PAUSE", 0.1)
    monkeypatch.setattr(tracking_delivery, "_PATIENCE_WITH_THE_DEAD", 60.0)  # two busy cores
    return tmp_path


@pytest.fixture
def proxy(server: MlflowServer, project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    if not server.is_running:
        server.start()
    proxy = Proxy(server.port)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
    yield proxy
    proxy.close()


def log_epoch(tracker: Tracker, epoch: int, *, keep: int = 2) -> None:
    tracker.log_metrics({"train/loss/all": 1 / epoch, "val/loss/all": 2 / epoch}, step=100 * epoch)
    models = Path("models/last")
    models.mkdir(parents=True, exist_ok=True)
    (models / "weights.safetensors").write_bytes(b"weights of %d" % epoch)
    (models / "model.json").write_text(json.dumps({"epoch": epoch}))
    tracker.log_checkpoint(models, epoch=epoch, best_epoch=1, keep=keep)


def log_rest(tracker: Tracker) -> None:
    Path("reports").mkdir()
    Path("reports/epochs.csv").write_text("epoch\n1\n")
    tracker.log_artifacts(Path("reports"), "train")
    tracker.log_model(Tiny(), CROP, metrics={"val/loss/all": 2.0}, step=100)


def log_data(tracker: Tracker) -> None:
    frame = pd.DataFrame({"series_uid": ["1.2", "1.2"], "is_nodule": [True, False]})
    tracker.log_dataset(frame, name="candidates val", context="validation", digest="0" * 32, source=Path("a.parquet"))


def tracked_without_a_pause() -> Tracker:
    """A run of four epochs, from its start to its end."""
    with start(params=PARAMS) as tracker:
        log_data(tracker)
        for epoch in range(1, 5):
            log_epoch(tracker, epoch)
        log_rest(tracker)
    return tracker


def assert_complete(server: MlflowServer, tracker: Tracker, *, epochs: int, status: str = "FINISHED") -> None:
    """Everything is in the store, and there once."""
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    client = MlflowClient(server.store_uri)
    experiment = client.get_experiment_by_name("lunaops")
    assert experiment is not None
    tagged = f"tags.`lunaops.journal_id` = '{tracker.link.journal_id}'"
    (run,) = client.search_runs([experiment.experiment_id], tagged, ViewType.ALL)  # nor a deleted one
    run = client.get_run(run.info.run_id)
    assert run.info.status == status
    assert run.data.params == {"train.seed": "1", "train.epochs": "4"}
    for key, numerator in (("train/loss/all", 1), ("val/loss/all", 2)):
        history = client.get_metric_history(run.info.run_id, key)
        expected = [(100 * epoch, numerator / epoch) for epoch in range(1, epochs + 1)]
        assert sorted((point.step, point.value) for point in history) == expected
    assert run.inputs is not None
    assert [used.dataset.name for used in run.inputs.dataset_inputs] == ["candidates val"]
    kept = sorted({1, epochs - 1, epochs})
    files = server.folder / "artifacts" / experiment.experiment_id / run.info.run_id / "artifacts"
    assert {file.relative_to(files).as_posix(): file.read_bytes() for file in files.rglob("*") if file.is_file()} == {
        "train/epochs.csv": b"epoch\n1\n",
        **{f"checkpoints/epoch-{epoch:03d}/weights.safetensors": b"weights of %d" % epoch for epoch in kept},
        **{f"checkpoints/epoch-{epoch:03d}/model.json": b'{"epoch": %d}' % epoch for epoch in kept},
    }
    (model,) = client.search_logged_models([experiment.experiment_id], tagged)
    model = client.get_logged_model(model.model_id)
    assert (model.status, model.source_run_id) == ("READY", run.info.run_id)
    assert [(metric.key, metric.value, metric.step) for metric in model.metrics or []] == [("val/loss/all", 2.0, 100)]
    assert run.outputs is not None
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    mlmodel = next((server.folder / "artifacts").glob(f"*/models/{model.model_id}/artifacts/MLmodel")).read_text()
    assert model.model_id in mlmodel and run.info.run_id in mlmodel
    assert find_journals(Path("tracking")) == []


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("lunaops") and record.levelno >= logging.WARNING
    ]


def test_a_server_that_comes_late_is_killed_and_comes_back_gets_everything_once(
    server: MlflowServer, project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server.kill()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    caplog.set_level(logging.INFO)
    with start(params=PARAMS, tensorboard=project / "runs") as tracker:
        log_data(tracker)
        log_epoch(tracker, 1)
        wait_until(lambda: warnings_in(caplog))
        server.start()
        wait_until(lambda: "is back after" in caplog.text)
        log_epoch(tracker, 2)
        server.kill()
        log_epoch(tracker, 3)
        wait_until(lambda: len(warnings_in(caplog)) == 2)
        log_epoch(tracker, 4)
        server.start()
        log_rest(tracker)
    assert_complete(server, tracker, epochs=4)
    assert len(warnings_in(caplog)) == 2
    assert sum("is back after" in message for message in caplog.messages) == 2
    assert [point.step for point in boards_of(project / "runs")["val_cls"].Scalars("loss/all")] == [100, 200, 300, 400]


def test_a_run_goes_on_while_no_request_is_answered(server: MlflowServer, proxy: Proxy) -> None:
    proxy.is_open.clear()
    with start(params=PARAMS) as tracker:
        log_data(tracker)
        for epoch in range(1, 5):
            log_epoch(tracker, epoch)
        log_rest(tracker)
        wait_until(lambda: proxy.requests)
        assert proxy.num_answered == 0
        proxy.is_open.set()
    assert_complete(server, tracker, epochs=4)


def test_a_slow_server_gets_everything(server: MlflowServer, proxy: Proxy) -> None:
    proxy.delay = 0.1
    tracker = tracked_without_a_pause()
    assert_complete(server, tracker, epochs=4)


def test_a_request_to_stop_leaves_the_rest_to_the_next_delivery(
    server: MlflowServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking_delivery, "_PATIENCE_ONCE_STOPPED", 0.1)
    proxy.delay = 0.1
    stop = threading.Event()
    with start(params=PARAMS, stop=stop) as tracker:
        log_data(tracker)
        for epoch in range(1, 5):
            log_epoch(tracker, epoch)
        log_rest(tracker)
        proxy.delay = 2
        threading.Timer(1, stop.set).start()  # while the end is waiting
    assert "`python -m lunaops sync-tracking` delivers the rest" in caplog.text
    proxy.delay = 0
    wait_until(lambda: "tracking" not in [thread.name for thread in threading.enumerate()])
    sync_tracking(Path())
    assert_complete(server, tracker, epochs=4)


@pytest.mark.parametrize("status", [500, 403])
def test_a_server_that_refuses_for_a_while_gets_everything(
    status: int, server: MlflowServer, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    with start(params=PARAMS) as tracker:
        log_data(tracker)
        log_epoch(tracker, 1)
        wait_until(lambda: tracker.run_id)
        proxy.refuse = status
        log_epoch(tracker, 2)
        log_epoch(tracker, 3)
        log_epoch(tracker, 4)
        wait_until(lambda: warnings_in(caplog))
        proxy.refuse = None
        log_rest(tracker)
    assert_complete(server, tracker, epochs=4)
    assert len(warnings_in(caplog)) == 1


def test_an_answer_that_is_lost_makes_nothing_twice(server: MlflowServer, proxy: Proxy) -> None:
    lost: set[tuple[str, str]] = set()

    def is_first(method: str, path: str) -> bool:
        """The first answer to each thing that is written, to create_run and to create_logged_model among them."""
        is_new = method != "GET" and "search" not in path and (method, path) not in lost
        lost.add((method, path))
        return is_new

    proxy.lose_answer = is_first
    tracker = tracked_without_a_pause()
    assert_complete(server, tracker, epochs=4)
    assert {"POST /api/2.0/mlflow/runs/create", "POST /api/2.0/mlflow/logged-models"} <= {" ".join(one) for one in lost}


def test_a_file_that_a_proxy_took_for_itself_is_sent_again(
    server: MlflowServer, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    taken: set[str] = set()

    def is_first(method: str, path: str) -> bool:
        is_new = method == "PUT" and path not in taken
        taken.add(path)
        return is_new

    proxy.takes_over = is_first
    tracker = tracked_without_a_pause()
    assert_complete(server, tracker, epochs=4)
    assert len({path for path in taken if path.endswith(("/model.pt2", "/epochs.csv", "/weights.safetensors"))}) >= 5
    assert "was accepted but is not there" in caplog.text


def test_files_that_nobody_may_list_are_taken_for_delivered(server: MlflowServer, proxy: Proxy) -> None:
    proxy.refuse, proxy.refused = 403, lambda path: "/artifacts?path=" in path
    tracker = tracked_without_a_pause()
    assert_complete(server, tracker, epochs=4)
    assert any("/artifacts?path=" in path for _, path in proxy.requests)


def is_of_the_registry(path: str) -> bool:
    return "registered-models" in path or "model-versions" in path


def test_a_version_is_registered_once_by_a_server_that_comes_late_and_loses_its_answers(
    server: MlflowServer, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(server.url)
    link, model_id = trained(client, "late")
    lost: set[tuple[str, str]] = set()

    def is_first(method: str, path: str) -> bool:
        is_new = method != "GET" and is_of_the_registry(path) and (method, path) not in lost
        lost.add((method, path))
        return is_new

    proxy.lose_answer = is_first
    proxy.refuse = 500
    with start("evaluate", parent=link) as tracker:
        tracker.register_model("nodules", evidence={"lunaops.cpm": "0.75"}, description="test: CPM 0.750")
        wait_until(lambda: warnings_in(caplog))
        proxy.refuse = None
    (version,) = client.search_model_versions("name = 'nodules'")
    assert client.get_registered_model("nodules").aliases == {"challenger": version.version}
    assert version.tags["lunaops.evaluation_run_id"] == tracker.run_id
    assert model_id in version.source and version.description == "test: CPM 0.750"
    assert ("POST", "/api/2.0/mlflow/model-versions/create") in lost
    assert find_journals(Path("tracking")) == []


def test_a_user_who_may_not_register_gets_the_run_and_one_line(
    server: MlflowServer, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(server.url)
    link, _ = trained(client, "forbidden")
    proxy.refuse, proxy.refused = 403, is_of_the_registry
    with start("evaluate", parent=link) as tracker:
        tracker.register_model("forbidden", evidence={}, description="")
        tracker.log_metrics({"test/cpm": 0.75}, step=0)
    assert tracker.run_id is not None
    run = client.get_run(tracker.run_id)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"test/cpm": 0.75})
    (said,) = warnings_in(caplog)
    assert said.startswith("no version of forbidden is registered: ")
    assert find_journals(Path("tracking")) == []
