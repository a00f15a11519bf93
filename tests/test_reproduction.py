import sys
from pathlib import Path
from typing import Any

import pytest
from repository import call, commit, copy_of

from lunaops.errors import InputError
from lunaops.reproduction import as_text, compare_runs, reproduce
from lunaops.tracking_query import RunStore, TrackedRun

STORE = "sqlite:///mlflow.db"


def run_with(metrics: dict[str, float], **facts: Any) -> TrackedRun:
    whole: dict[str, Any] = {
        "run_id": "r1",
        "name": "train c0ffee0",
        "status": "FINISHED",
        "experiment_id": "1",
        "experiment": "lunaops",
        "start_millis": 0,
        "params": {},
        "tags": {"lunaops.kind": "train", "mlflow.source.git.commit": "c0ffee"},
        "metrics": metrics,
        "datasets": {},
        "model_ids": (),
    }
    return TrackedRun(**(whole | facts))


def test_equal_metrics_are_equal_whatever_the_speed_was() -> None:
    first = run_with({"val/loss": 0.5, "train/samples_per_second": 30.0, "train/data_wait_share": 0.1})
    second = run_with({"val/loss": 0.5, "train/samples_per_second": 40.0, "train/data_wait_share": 0.2})
    found = compare_runs(first, second)
    assert found.is_equal(0.0)
    assert "equal in 1 metrics" in as_text([found], 0.0)


def test_the_largest_difference_is_named() -> None:
    found = compare_runs(run_with({"val/loss": 0.5, "test/cpm": 0.75}), run_with({"val/loss": 0.5001, "test/cpm": 0.5}))
    assert not found.is_equal(0.2)
    assert found.is_equal(0.3)
    said = as_text([found], 0.0).splitlines()
    assert "not equal: largest difference 0.25, in test/cpm: [0.75, 0.5]" in said[0]
    assert said[1].startswith("evaluate: no evaluation of the same commit and params")


def test_a_metric_that_one_run_lacks_is_a_difference() -> None:
    found = compare_runs(run_with({"val/loss": 0.5}), run_with({"val/loss": 0.5, "val/new": 1.0}))
    assert not found.is_equal(1.0)
    assert "only one has val/new" in as_text([found], 1.0)
    assert not compare_runs(run_with({}), run_with({})).is_equal(1.0)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"tags": {"lunaops.kind": "train"}}, "ran outside a git repository"),
        ({"tags": {}}, "is not one of stage train or evaluate"),
        ({"params": {"train.seed": "1…"}}, "parameter train.seed was cut"),
    ],
)
def test_what_no_commit_tells_is_refused(tmp_path: Path, facts: dict[str, Any], message: str) -> None:
    store: Any = None  # it is refused before the store is asked
    with pytest.raises(InputError, match=message):
        reproduce(run_with({}, **facts), store, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_dirty_run_is_refused_by_name(tmp_path: Path) -> None:
    store: Any = None
    dirty = run_with({}, tags=run_with({}).tags | {"git.dirty": "true"})
    with pytest.raises(
        InputError, match=r"run r1 \(train c0ffee0\) ran with uncommitted changes of code: commit c0ffee"
    ):
        reproduce(dirty, store, tmp_path / "again")


# the pipeline


@pytest.fixture(scope="module")
def project(built: Path) -> Path:
    """The tiny project with its first run, and an experiment with params that no commit has."""
    project = copy_of(built, "tracked")
    commit(project)
    lower = ["-S", "evaluate.threshold=0.25", "-S", "evaluate.register=nodules"]
    call(project, "dvc", "exp", "run", "--name", "lower", *lower, mlflow=STORE)
    return project


@pytest.fixture
def store(project: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", STORE)
    return RunStore(project)


def reproduced(project: Path, run: str, code: int = 0) -> list[str]:
    output = call(project, sys.executable, "-m", "lunaops", "reproduce", run, mlflow=STORE, code=code)
    return [line for line in output.splitlines() if line.startswith(("train: ", "evaluate: "))]


@pytest.mark.long
@pytest.mark.xdist_group("repro")
def test_an_experiments_evaluation_comes_out_equal_with_its_params(project: Path, store: RunStore) -> None:
    head = call(project, "git", "rev-parse", "HEAD").strip()
    evaluation = store.newest("evaluate", head)
    assert evaluation is not None
    assert (evaluation.is_dirty, evaluation.params["evaluate.threshold"]) == (False, "0.25")
    said = reproduced(project, evaluation.run_id[:12])
    assert "evaluate: " in said[0], said
    assert ": equal in " in said[0], said
    again = store.newest("evaluate", head)
    assert again is not None
    assert again.run_id != evaluation.run_id
    assert again.params == evaluation.params | {"evaluate.register": "null"}
    (version,) = store._client.search_model_versions("name = 'nodules'")
    assert version.tags["lunaops.evaluation_run_id"] == evaluation.run_id
    assert again.tags["lunaops.reproduces"] == evaluation.run_id
    worktree = project.parent / f"{project.name}-{evaluation.run_id[:8]}"
    assert Path(call(worktree, "dvc", "cache", "dir").strip()).samefile(project / ".dvc" / "cache")


@pytest.mark.long
@pytest.mark.xdist_group("repro")
def test_a_training_comes_out_equal_and_what_differs_is_named(project: Path, store: RunStore) -> None:
    first = call(project, "git", "rev-parse", "HEAD~1").strip()
    train = store.newest("train", first)
    assert train is not None
    (evaluation,) = (child for child in store.children(train.run_id) if child.commit == first)
    store._client.log_metric(evaluation.run_id, "test/cpm", evaluation.metrics["test/cpm"] + 2, step=1)
    said = reproduced(project, train.run_id, code=1)
    assert said[0].startswith("train: "), said
    assert ": equal in " in said[0], said
    assert ": not equal: largest difference 2, in test/cpm: " in said[1], said
