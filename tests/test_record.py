import csv
import json
import logging
import math
from pathlib import Path

import pytest

from lunaops.crops import Geometry
from lunaops.metrics import classification_metrics
from lunaops.model import LunaModel, read_model
from lunaops.record import TrainingRecord
from lunaops.scoring import NOTHING
from lunaops.task import NODULE
from lunaops.training import EpochResult

SIZE = (16, 16, 16)
OF = {"geometry": Geometry(SIZE, (-1000, 1000), -1000), "task": NODULE}
METRICS = classification_metrics([True, False], [0.9, 0.1], [0.1, 0.1], threshold=0.5)


def result(epoch: int, *, val: dict[str, float]) -> EpochResult:
    metrics = {f"{split}/{name}": value for split in ("train", "val") for name, value in METRICS.items()}
    return EpochResult(
        epoch, 10 * epoch, NOTHING, NOTHING, metrics | {f"val/{name}": value for name, value in val.items()}, {}
    )


def recorded(folder: Path, results: list[EpochResult], best_by: str = "roc_auc") -> TrainingRecord:
    record = TrainingRecord(folder / "models", folder / "reports", best_by=best_by, **OF)
    for one in results:
        record.add(one, LunaModel(SIZE))
    return record


def epoch_of(folder: Path) -> int:
    return json.loads((folder / "model.json").read_text())["epoch"]


@pytest.mark.parametrize(
    ("best_by", "values", "best"),
    [
        ("roc_auc", [0.5, 0.9, 0.7], 2),
        ("roc_auc", [0.9, 0.9, 0.7], 1),
        ("loss/all", [0.5, 0.2, 0.7], 2),
        ("roc_auc", [math.nan, 0.1, 0.05], 2),
        ("roc_auc", [0.3, math.nan, 0.2], 1),
        ("pr/f1_score", [math.nan, math.nan], 2),
    ],
)
def test_the_best_model_is_that_of_the_best_validation_score(
    tmp_path: Path, best_by: str, values: list[float], best: int
) -> None:
    results = [result(epoch, val={best_by: value}) for epoch, value in enumerate(values, start=1)]
    record = recorded(tmp_path, results, best_by)
    assert record.best_epoch.epoch == best == epoch_of(tmp_path / "models" / "best")
    assert epoch_of(tmp_path / "models" / "last") == len(values)
    assert json.loads((tmp_path / "reports" / "metrics.json").read_text())["epoch"] == best


def test_a_written_model_can_be_read_and_says_what_crops_it_takes(tmp_path: Path) -> None:
    recorded(tmp_path, [result(1, val={})])
    assert read_model(tmp_path / "models" / "best").crop_size_irc == SIZE
    facts = json.loads((tmp_path / "models" / "best" / "model.json").read_text())
    assert facts["crop"] == {"size_irc": [16, 16, 16], "hu_range": [-1000, 1000], "pad_hu": -1000}
    assert facts["samples"] == 10


def test_every_epoch_is_a_row_and_an_undefined_number_an_empty_cell(tmp_path: Path) -> None:
    recorded(tmp_path, [result(1, val={"roc_auc": math.nan}), result(2, val={"roc_auc": 0.5})])
    with (tmp_path / "reports" / "epochs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["samples"], row["val/roc_auc"]) for row in rows] == [("1", "10", ""), ("2", "20", "0.5")]


def test_an_undefined_number_is_null_in_json_and_absent_from_the_model(tmp_path: Path) -> None:
    recorded(tmp_path, [result(1, val={"pr/precision": math.nan})])
    metrics = json.loads((tmp_path / "reports" / "metrics.json").read_text())
    assert metrics["val"]["pr/precision"] is None
    assert "val/pr/precision" not in json.loads((tmp_path / "models" / "last" / "model.json").read_text())["metrics"]


def test_an_undefined_number_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recorded(tmp_path, [result(epoch, val={"pr/precision": math.nan}) for epoch in (1, 2, 3)])
    assert caplog.text.count("undefined, so empty in files and absent in MLflow: val/pr/precision") == 1


def test_the_log_line_has_percent_and_counts_of_each_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        recorded(tmp_path, [result(1, val={})])
    assert "epoch 1 train loss 0.1000, correct 100.0 %: 100.0 % of neg (1/1), 100.0 % of pos (1/1)" in caplog.text


def test_a_new_run_does_not_append_to_an_old_one(tmp_path: Path) -> None:
    for _ in range(2):
        recorded(tmp_path, [result(1, val={})])
    assert len((tmp_path / "reports" / "epochs.csv").read_text().splitlines()) == 2


def test_a_record_given_back_elsewhere_writes_the_same_files_and_goes_on(tmp_path: Path) -> None:
    whole, first = tmp_path / "whole", tmp_path / "first"
    results = [result(epoch, val={"roc_auc": value}) for epoch, value in enumerate([0.6, math.nan, 0.9, 0.7], start=1)]
    model = LunaModel(SIZE)
    records = {
        folder: TrainingRecord(folder / "models", folder / "reports", best_by="roc_auc", **OF)
        for folder in (whole, first, tmp_path / "second")
    }
    for one in results:
        records[whole].add(one, model)
    for one in results[:3]:
        records[first].add(one, model)
    second = records[tmp_path / "second"]
    second.restore(records[first].tensors(), json.loads(json.dumps(records[first].facts())))
    assert second.best_epoch.epoch == 3
    second.add(results[3], model)
    files = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]
    assert len(files) == 6
    for file in files:
        assert (tmp_path / "second" / file).read_bytes() == (whole / file).read_bytes(), file
