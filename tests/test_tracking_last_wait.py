"""The train stage as a process that is killed or asked to stop while it waits for a slow MLflow, at its very end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from mlflow_server import MlflowServer, Proxy, wait_until
from tiny import make_tiny

from lunaops.tracking_journal import find_journals
from lunaops.tracking_sync import sync_tracking

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("mlflow server")]


@pytest.fixture
def proxy(server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Before the server, which all processes are told of; the working directory and the experiment are fresh ones."""
    if not server.is_running:
        server.start()
    proxy = Proxy(server.port)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", tmp_path.name)
    yield proxy
    proxy.close()


def train(paths: dict[str, Path]) -> subprocess.Popen[str]:
    options = [text for name, path in paths.items() for text in (f"--{name.replace('_', '-')}", str(path))]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LUNAOPS_CACHE_DIR": "crops", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "stages.train", *options]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def trained_until_its_last_wait(proxy: Proxy, paths: dict[str, Path]) -> subprocess.Popen[str]:
    """A training that is complete but for MLflow, which answers a few requests a second."""
    process = train(paths)
    wait_until(lambda: proxy.num_answered)
    proxy.delay = 0.5
    wait_until(lambda: process.poll() is not None or _has_end())
    assert process.poll() is None, process.communicate()
    return process


def _has_end() -> bool:
    (folder,) = find_journals(Path("tracking"))
    return (folder / "journal.jsonl").read_text().splitlines()[-1].startswith('{"do":"end"')


def assert_one_run(server: MlflowServer, reports: Path, experiment_name: str) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    client = MlflowClient(server.store_uri)
    experiment = client.get_experiment_by_name(experiment_name)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
    assert run.info.status == "FINISHED"
    assert run.data.tags["lunaops.journal_id"] == json.loads((reports / "run.json").read_text())["journal_id"]
    history = client.get_metric_history(run.info.run_id, "val/loss/all")
    assert sorted(point.step for point in history) == [20, 40, 60]
    (model,) = client.search_logged_models([experiment.experiment_id])
    assert (model.status, model.source_run_id) == ("READY", run.info.run_id)


def test_killed_delivered_by_the_command_and_run_again_it_is_one_run_with_one_model(
    server: MlflowServer, proxy: Proxy, tmp_path: Path
) -> None:
    paths = make_tiny(tmp_path)
    process = trained_until_its_last_wait(proxy, paths)
    process.kill()
    process.communicate()
    assert paths["resume"].exists()
    proxy.delay = 0
    sync_tracking(Path())
    proxy.refuse = 500  # nobody can be asked for the run
    again = train(paths)
    _, said = again.communicate()
    assert again.returncode == 0, said
    proxy.refuse = None
    sync_tracking(Path())
    assert_one_run(server, paths["reports"], tmp_path.name)
    assert find_journals(Path("tracking")) == []


def test_asked_to_stop_it_ends_well_and_leaves_the_rest_to_the_command(
    server: MlflowServer, proxy: Proxy, tmp_path: Path
) -> None:
    paths = make_tiny(tmp_path)
    process = trained_until_its_last_wait(proxy, paths)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert "`python -m lunaops sync-tracking` delivers the rest" in said
    assert not paths["resume"].exists()
    proxy.delay = 0
    sync_tracking(Path())
    assert_one_run(server, paths["reports"], tmp_path.name)
    assert find_journals(Path("tracking")) == []
