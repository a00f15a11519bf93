import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tracked import boards_of, start

if TYPE_CHECKING:
    pass


def test_splits_overlay_because_their_tags_are_equal(without_mlflow: Path) -> None:
    with start(tensorboard=without_mlflow / "runs") as tracker:
        tracker.log_metrics({"train/loss/all": 0.5, "val/loss/all": 0.75, "seconds": 3.0}, step=800)
    boards = boards_of(without_mlflow / "runs")
    assert {name: board.Tags()["scalars"] for name, board in boards.items()} == {
        "trn_cls": ["loss/all", "seconds"],
        "val_cls": ["loss/all"],
    }
    (point,) = boards["val_cls"].Scalars("loss/all")
    assert (point.step, point.value) == (800, 0.75)


def test_a_folder_appears_with_its_first_value_only(without_mlflow: Path) -> None:
    with start(tensorboard=without_mlflow / "runs") as tracker:
        assert not (without_mlflow / "runs").exists()
        tracker.log_metrics({"train/roc_auc": math.nan}, step=800)
        assert not (without_mlflow / "runs").exists()
        tracker.log_metrics({"val/roc_auc": 0.5}, step=800)
    assert list(boards_of(without_mlflow / "runs")) == ["val_cls"]


def test_scores_give_a_curve_and_a_histogram_for_each_class(without_mlflow: Path) -> None:
    is_nodule = np.array([True, False, False])
    with start(tensorboard=without_mlflow / "runs") as tracker:
        tracker.log_scores(is_nodule, np.array([0.9, 0.2, 0.1]), step=800, split="train")
    board = boards_of(without_mlflow / "runs")["trn_cls"]
    assert board.Tags()["tensors"] == ["pr"]
    assert sum(board.Histograms("is_neg")[0].histogram_value.bucket) == 2
    assert sum(board.Histograms("is_pos")[0].histogram_value.bucket) == 1


def test_one_class_alone_has_no_curve(without_mlflow: Path) -> None:
    with start(tensorboard=without_mlflow / "runs") as tracker:
        tracker.log_scores(np.array([False, False]), np.array([0.2, 0.1]), step=800, split="val")
    tags = boards_of(without_mlflow / "runs")["val_cls"].Tags()
    assert (tags["tensors"], tags["histograms"]) == ([], ["is_neg"])


def test_no_samples_leave_no_folder(without_mlflow: Path) -> None:
    with start(tensorboard=without_mlflow / "runs") as tracker:
        tracker.log_scores(np.zeros(0, dtype=bool), np.zeros(0), step=800, split="val")
    assert not (without_mlflow / "runs").exists()
