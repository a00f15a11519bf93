import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tracked import run_of, start

from lunaops import provenance
from lunaops.params import read_params
from lunaops.tracking import RunLink

if TYPE_CHECKING:
    from mlflow import MlflowClient


PARAMS_FILE = Path(__file__).parent.parent / "params.yaml"


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
    parent = RunLink("r", "learning_rate=0.5 abcdef0")
    changed = committed_params | {"train.learning_rate": 0.5, "evaluate.threshold": 0.1}
    name = name_of(kind="evaluate", params=changed, parent=parent)
    assert name == "evaluate threshold=0.1 learning_rate=0.5 abcdef0"


def test_a_dvc_experiment_lends_its_name(committed_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "loyal-rats")
    assert name_of(params=committed_params | {"train.seed": 5}) == "seed=5 loyal-rats"


@pytest.mark.slow
def test_the_commit_and_its_dirt_are_tagged(store: "MlflowClient", committed_params: dict[str, Any]) -> None:
    Path("code.py").write_text("1")
    subprocess.run(["git", "add", "code.py"], check=True)
    subprocess.run(["git", "-c", "user.name=A", "-c", "user.email=a@b", "commit", "-qm", "code"], check=True)
    with start(params=committed_params) as clean:
        pass
    Path("code.py").write_text("2")
    with start(params=committed_params) as dirty:
        pass
    tags = run_of(store, clean).data.tags
    assert tags["mlflow.source.git.commit"] == provenance.git_commit()
    assert tags["git.dirty"] == "false"
    assert run_of(store, dirty).data.tags["git.dirty"] == "true"
