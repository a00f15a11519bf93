import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
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


def test_a_damaged_file_is_one_line(tmp_path):
    path = tmp_path / "other.parquet"
    TABLE.to_parquet(path)
    whole = path.read_bytes()
    place = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")  # where the footer begins, which is Thrift
    path.write_bytes(whole[:place] + bytes(byte ^ 0xFF for byte in whole[place : place + 8]) + whole[place + 8 :])
    with pytest.raises(InputError, match=rf"^evaluate.compare_with {path}: no table of predictions: [^\n]*thrift"):
        read_baseline(str(path))
    table = pa.Table.from_pandas(TABLE)
    said = table.schema.metadata[b"pandas"].replace(b"numpy_type", b"numpy_typo")  # by pandas, of the columns
    pq.write_table(table.replace_schema_metadata({b"pandas": said}), path)
    with pytest.raises(InputError, match=rf"^evaluate.compare_with {path}: no table of predictions: [^\n]*$"):
        read_baseline(str(path))


@pytest.mark.parametrize(
    ("column", "values", "wrong"),
    [
        ("score", ["0.5", "high"], "is of kind string, wanted is floating or integer"),
        ("is_nodule", [True, None], "has no value in 1 rows"),
        ("is_malignant", [0.0, 1.0], "is of kind floating, wanted is boolean"),
        ("split", ["test", None], "has no value in 1 rows"),
        ("split", [1, 2], "is of kind integer, wanted is string"),
        ("candidate_id", [[3], [4]], "is of kind mixed, wanted is integer"),
    ],
)
def test_columns_of_other_values_are_named_in_a_line(tmp_path, column, values, wrong):
    path = tmp_path / "other.parquet"
    TABLE.assign(**{column: values}).to_parquet(path)
    with pytest.raises(InputError, match=f"other.parquet: not predictions: column {column} {wrong}; give a pred"):
        read_baseline(str(path))


def test_scores_of_a_diverged_model_are_read(tmp_path):
    path = tmp_path / "other.parquet"
    TABLE.assign(score=[float("nan"), 0.5], is_nodule=[True, False]).to_parquet(path)
    assert read_baseline(str(path))["score"].isna().tolist() == [True, False]


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
