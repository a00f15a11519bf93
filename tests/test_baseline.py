import pandas as pd
import pytest

from lunaops.baseline import read_baseline
from lunaops.errors import InputError
from lunaops.tracking import start_run

TABLE = pd.DataFrame({"candidate_id": [3, 4], "split": "test", "series_uid": "a", "score": [0.25, 0.5]}).assign(
    x=1.0, y=2.0, z=3.0
)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An MLflow store of its own, and the file of predictions that runs log."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    TABLE.to_parquet(tmp_path / "predictions.parquet")
    return tmp_path / "predictions.parquet"


def test_nothing_is_compared_with_nothing():
    assert read_baseline(None) is None


def test_a_file_is_read(tmp_path):
    TABLE.to_parquet(tmp_path / "other.parquet")
    pd.testing.assert_frame_equal(read_baseline(str(tmp_path / "other.parquet")), TABLE)


def test_a_file_that_is_no_table_of_predictions_is_one_line(tmp_path):
    path = tmp_path / "other.parquet"
    begin = f"^evaluate.compare_with {path}: "
    path.write_text("no parquet")
    with pytest.raises(InputError, match=begin + r"no table of predictions: .*magic bytes[^\n]*$"):
        read_baseline(str(path))
    TABLE.drop(columns=["score", "x"]).to_parquet(path)
    with pytest.raises(InputError, match=begin + "not predictions: lacks x, score; give a predictions.parquet"):
        read_baseline(str(path))


def test_a_candidate_may_be_of_two_splits_but_not_twice_of_one(tmp_path):
    path = tmp_path / "pooled.parquet"
    pd.concat([TABLE, TABLE.assign(split="val")]).to_parquet(path)
    assert len(read_baseline(str(path))) == 4
    pd.concat([TABLE, TABLE[1:]]).to_parquet(path)
    with pytest.raises(InputError, match=r"^evaluate.compare_with .*: 1 rows .* the first candidate 4 of split test; "):
        read_baseline(str(path))


def test_what_is_neither_file_nor_run_is_refused():
    with pytest.raises(InputError, match=r"compare_with elsewhere.parquet: no such file, and no id of an MLflow run"):
        read_baseline("elsewhere.parquet")


@pytest.mark.slow
def test_a_runs_predictions_come_from_it_or_from_the_evaluation_below_it(store):
    with start_run(kind="train", params={}, inputs={}) as training:
        pass
    with start_run(kind="evaluate", params={}, inputs={}, parent=training.link) as evaluation:
        evaluation.log_artifact(store)
    with start_run(kind="evaluate", params={}, inputs={}, parent=training.link) as empty:
        pass
    for run in (evaluation, training):
        pd.testing.assert_frame_equal(read_baseline(run.run_id), TABLE)
    with pytest.raises(InputError, match=rf"run {empty.run_id}: neither it nor a run below it has predictions.parquet"):
        read_baseline(empty.run_id)
    with pytest.raises(InputError, match=rf"^MLflow run {'0' * 32} of sqlite.*not found$"):
        read_baseline("0" * 32)


def test_with_mlflow_off_a_run_is_not_found_and_the_setting_named(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI is off"):
        read_baseline("0" * 32)
