import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lunaops.__main__ import app
from lunaops.errors import InputError
from lunaops.lineage import as_json, as_text, lineage_of
from lunaops.tracking_query import RunStore
from lunaops.tracking_store import Store

pytestmark = pytest.mark.slow

COMMIT = "c0ffee" + 34 * "0"
TAGS = {
    "mlflow.source.git.commit": COMMIT,
    "git.dirty": "false",
    "version.torch": "2.13.0",
    "dvc.candidates": "abc123",
    "device": "cpu: x86_64",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a training, two evaluations of it, one of a training that another store has, and strangers."""
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param

    folder = tmp_path_factory.mktemp("store")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.create_experiment("lunaops", str(folder / "mlruns"))

    def start(name: str, kind: str, at: int, **tags: str) -> str:
        all_tags = TAGS | {"lunaops.kind": kind} | {key.replace("__", "."): value for key, value in tags.items()}
        return client.create_run(experiment, start_time=at, tags=all_tags, run_name=name).info.run_id

    train = start("seed=5 c0ffee0", "train", 1000)
    client.log_batch(train, params=[Param("train.seed", "5")], metrics=[Metric("val/loss", 0.5, 1, 64)])
    counts = Dataset("candidates train", "abc123", "local", "{}", profile='{"num_rows": 33, "num_nodule_rows": 13}')
    client.log_inputs(train, [DatasetInput(counts, [InputTag("mlflow.data.context", "training")])])
    model_id = client.create_logged_model(experiment, "model", train).model_id
    client.log_outputs(train, [LoggedModelOutput(model_id, 64)])
    client.create_registered_model("nodules")
    with pytest.MonkeyPatch.context() as patch:  # MLflow looks the model up in the store of the environment
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        client.create_model_version("nodules", f"models:/{model_id}", run_id=train, model_id=model_id)
    client.set_registered_model_alias("nodules", "challenger", "1")
    start("evaluate seed=5 c0ffee0", "evaluate", 2000, mlflow__parentRunId=train)
    start("evaluate threshold=0.3 c0ffee0", "evaluate", 3000, mlflow__parentRunId=train)
    start("evaluate c0ffee0", "evaluate", 4000, lunaops__train_run_id="f" * 32)
    for name in ("it's mine", "again", "again"):
        client.create_run(experiment, run_name=name)
    return folder


@pytest.fixture
def store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunStore]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return RunStore(folder)


def test_a_run_is_found_by_its_name_its_id_and_how_the_id_begins(store: RunStore) -> None:
    run = store.find("seed=5 c0ffee0")
    assert (run.kind, run.commit, run.is_dirty, run.experiment) == ("train", COMMIT, False, "lunaops")
    assert (run.params, run.metrics) == ({"train.seed": "5"}, {"val/loss": 0.5})
    assert store.find(run.run_id) == store.find(run.run_id[:12]) == run
    assert store.find("it's mine").kind == ""


def test_what_is_not_one_run_is_said(store: RunStore) -> None:
    with pytest.raises(InputError, match=r"run 'nobody': no such run in MLflow at sqlite:///"):
        store.find("nobody")
    with pytest.raises(InputError, match="2 runs are called so: .*; give an id"):
        store.find("again")


def test_children_come_newest_first_and_the_newest_of_a_commit_is_known(store: RunStore) -> None:
    run = store.find("seed=5 c0ffee0")
    children = [child.name for child in store.children(run.run_id)]
    assert children == ["evaluate threshold=0.3 c0ffee0", "evaluate seed=5 c0ffee0"]
    newest = store.newest("evaluate", COMMIT)
    assert newest is not None
    assert newest.name == "evaluate c0ffee0"
    assert store.newest("train", COMMIT, since_millis=1001) is None
    assert store.newest("train", "d" * 40) is None


def test_the_lineage_has_data_models_aliases_and_relatives(store: RunStore) -> None:
    found = lineage_of(store.find("seed=5 c0ffee0"), store)
    text = as_text(found)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert f"commit {COMMIT}, clean" in lines
    assert "parent none" in lines
    assert f"child {found.children[0].run_id} evaluate threshold=0.3 c0ffee0" in lines
    assert "registered nodules version 1 @challenger" in lines
    assert "data candidates train (training): 33 rows, 13 nodule rows" in lines
    assert "hash (DVC) candidates abc123" in lines
    assert "version torch 2.13.0" in lines
    assert "param train.seed 5" in lines
    assert as_json(found)["registered"] == [
        {"name": "nodules", "version": "1", "model_id": found.run.model_ids[0], "aliases": ["challenger"]}
    ]


def test_the_parent_is_named_also_where_another_store_has_it(store: RunStore) -> None:
    child = lineage_of(store.find("evaluate seed=5 c0ffee0"), store)
    assert child.parent is not None
    assert child.parent.name == "seed=5 c0ffee0"
    alone = as_text(lineage_of(store.find("evaluate c0ffee0"), store))
    assert f"parent      {'f' * 32}  not in this store" in alone


def test_a_store_that_is_not_there_is_named_and_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match=r"mlflow\.db: no such MLflow store; run from the project's root"):
        RunStore(tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI is 'off'"):
        RunStore(tmp_path)


def test_a_server_that_does_not_answer_is_one_line_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match=r"MLflow at http://127\.0\.0\.1:9: ") as caught:
        RunStore()
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_page_of_a_run_on_a_server_has_no_password(store: RunStore) -> None:
    run = store.find("seed=5 c0ffee0")
    store._store = Store("http://me:secret@tracking.example.org", "http://tracking.example.org", None)
    assert store.url_of(run) == f"http://tracking.example.org/#/experiments/{run.experiment_id}/runs/{run.run_id}"


def test_the_command_prints_lines_or_json(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(folder)
    run = ["lineage", "seed=5 c0ffee0"]
    assert CliRunner().invoke(app, run, catch_exceptions=False).output.startswith("run         ")
    assert json.loads(CliRunner().invoke(app, [*run, "--json"], catch_exceptions=False).output)["commit"] == COMMIT
