"""What an evaluation registers in MLflow, once, also where it is delivered late, twice or in another order."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow_server import free_port, wait_until
from test_tracking_sync import come_back
from tracked import run_of, start, trained

from lunaops import tracking_mlflow
from lunaops.lineage import as_text, lineage_of
from lunaops.tracking import RunLink, Tracker
from lunaops.tracking_journal import Delivered, find_journals, write_delivered
from lunaops.tracking_query import RunStore
from lunaops.tracking_sync import sync_tracking

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from mlflow import MlflowClient

EVIDENCE = {"lunaops.split": "test", "lunaops.cpm": "0.750000"}


def evaluate(link: RunLink, **evidence: str) -> Tracker:
    with start("evaluate", parent=link) as tracker:
        tracker.register_model("nodules", evidence=EVIDENCE | evidence, description="test: CPM 0.750")
    return tracker


def numbers_by_alias(store: "MlflowClient") -> dict[str, int]:
    return {alias: int(version) for alias, version in store.get_registered_model("nodules").aliases.items()}


def versions(store: "MlflowClient") -> list[int]:
    return sorted(int(each.version) for each in store.search_model_versions("name = 'nodules'"))


def test_a_version_carries_its_evaluation_as_evidence_and_is_the_challenger(store: "MlflowClient") -> None:
    link, model_id = trained(store, "first")
    tracker = evaluate(link)
    version = store.get_model_version_by_alias("nodules", "challenger")
    assert version.source == store.get_logged_model(model_id).artifact_location
    assert version.run_id == store.get_logged_model(model_id).source_run_id
    assert version.description == "test: CPM 0.750"
    commit = run_of(store, tracker).data.tags.get("mlflow.source.git.commit")
    assert version.tags.items() >= (EVIDENCE | {"lunaops.evaluation_run_id": tracker.run_id}).items()
    assert version.tags.get("mlflow.source.git.commit") == commit
    listed = json.loads(store.get_logged_model(model_id).tags["mlflow.modelVersions"])
    assert [(each["name"], int(each["version"])) for each in listed] == [("nodules", 1)]


def test_the_lineage_of_training_and_evaluation_shows_the_version(store: "MlflowClient") -> None:
    link, model_id = trained(store, "first")
    tracker = evaluate(link)
    runs = RunStore()
    for run_id in (tracker.run_id, store.get_logged_model(model_id).source_run_id):
        assert run_id is not None
        assert "registered  nodules version 1 @challenger" in as_text(lineage_of(runs.get(run_id), runs))


def test_registered_again_it_is_the_same_version_with_the_evidence_of_the_newer_evaluation(
    store: "MlflowClient",
) -> None:
    link, _ = trained(store, "first")
    evaluate(link, **{"lunaops.cpm_lo": "0.5"})
    again = evaluate(link, **{"lunaops.cpm": "0.800000"})
    tags = store.get_model_version("nodules", "1").tags
    assert versions(store) == [1]
    assert (tags["lunaops.cpm"], tags["lunaops.evaluation_run_id"]) == ("0.800000", again.run_id)
    assert "lunaops.cpm_lo" not in tags


def test_the_champion_evaluated_again_leaves_the_challenger_its_alias(store: "MlflowClient") -> None:
    (first, _), (second, _) = trained(store, "first"), trained(store, "second")
    evaluate(first)
    store.set_registered_model_alias("nodules", "champion", "1")
    evaluate(second)
    evaluate(first, **{"lunaops.cpm": "0.800000"})
    assert numbers_by_alias(store) == {"champion": 1, "challenger": 2}
    assert store.get_model_version("nodules", "1").tags["lunaops.cpm"] == "0.800000"


def test_a_training_that_mlflow_does_not_know_is_one_line(
    store: "MlflowClient", caplog: pytest.LogCaptureFixture
) -> None:
    tracker = evaluate(RunLink("elsewhere", "train elsewhere"))
    assert run_of(store, tracker).info.status == "FINISHED"
    assert store.search_registered_models() == []
    assert [text for text in caplog.messages if "registered" in text] == [
        "MLflow has no model of the training run, so no version of nodules is registered"
    ]


def test_a_model_that_was_deleted_is_not_registered_and_does_not_hold_up_the_rest(
    store: "MlflowClient", caplog: pytest.LogCaptureFixture
) -> None:
    link, model_id = trained(store, "first")
    with start("evaluate", parent=link) as tracker:
        wait_until(lambda: tracker.run_id)
        store.delete_logged_model(model_id)
        tracker.register_model("nodules", evidence=EVIDENCE, description="")
        tracker.log_metrics({"test/cpm": 0.75}, step=0)
    assert run_of(store, tracker).data.metrics == {"test/cpm": 0.75}
    assert "no version of nodules is registered" in caplog.text
    assert store.search_registered_models() == []


def test_off_it_is_one_line(without_mlflow: Path, caplog: pytest.LogCaptureFixture) -> None:
    evaluate(RunLink(None, "train"))
    assert [text.partition(",")[2] for text in caplog.messages] == [" so no version of nodules is registered"]


@pytest.fixture
def dead(store: "MlflowClient", monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(tracking_mlflow, "_PATIENCE", dict.fromkeys(tracking_mlflow._PATIENCE, 0.1))
    uri = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


def test_what_a_dead_server_missed_is_registered_by_the_command_once(
    store: "MlflowClient", dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, _ = trained(store, "first")
    evaluate(link)
    (journal,) = find_journals(Path("tracking"))
    come_back(monkeypatch)
    text = (journal / "journal.jsonl").read_text()
    for _ in range(2):
        sync_tracking(Path())
        assert (versions(store), numbers_by_alias(store)) == ([1], {"challenger": 1})
        assert find_journals(Path("tracking")) == []
        journal.mkdir()  # delivered, but this machine never learnt of it
        (journal / "journal.jsonl").write_text(text)
        write_delivered(journal, Delivered())


def test_what_is_delivered_late_takes_nothing_from_a_later_evaluation(
    store: "MlflowClient", dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, _), (second, _) = trained(store, "first"), trained(store, "second")
    evaluate(first)
    evaluate(second, **{"lunaops.cpm": "0.1"})
    for folder in find_journals(Path("tracking")):
        folder.rename(Path(folder.name))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path.cwd()}/mlflow.db")
    monkeypatch.setattr(tracking_mlflow, "_PATIENCE", dict.fromkeys(tracking_mlflow._PATIENCE, 60.0))
    evaluate(second, **{"lunaops.cpm": "0.9"})
    for folder in find_journals(Path()):
        folder.rename(Path("tracking") / folder.name)
    come_back(monkeypatch)
    sync_tracking(Path())
    assert numbers_by_alias(store) == {"challenger": 1}  # the second model, which came first
    assert store.get_model_version("nodules", "1").tags["lunaops.cpm"] == "0.9"
    assert versions(store) == [1, 2]


def test_in_a_copy_that_dvc_deletes_the_store_of_the_project_is_the_registry(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    project = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    copy_of_project = tmp_path / ".dvc" / "tmp" / "exps" / "tmpabc"
    copy_of_project.mkdir(parents=True)
    monkeypatch.chdir(copy_of_project)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    link, _ = trained(project, "first")
    evaluate(link)
    assert numbers_by_alias(project) == {"challenger": 1}
    assert list(copy_of_project.iterdir()) == []
