import pandas as pd
import pytest

from lunaops.cohort import count_splits, describe_splits, diameters_of_splits

SCANS = pd.DataFrame({"series_uid": ["1", "2", "3", "4"], "split": ["train", "train", "val", "train"]})
NODULES = pd.DataFrame(
    {
        "series_uid": ["1", "1", "1", "3"],
        "diameter_mm": [9.0, 5.0, 7.0, 6.0],
        "is_malignant": pd.array([True, False, pd.NA, True], dtype="boolean"),
    }
)
CANDIDATES = pd.DataFrame({"split": ["train", "train", "val"], "is_nodule": [True, False, False]})


def test_every_scan_and_nodule_is_counted_in_its_split() -> None:
    counts = count_splits(SCANS, NODULES, CANDIDATES)
    assert counts.index.tolist() == ["train", "val", "test"]
    assert counts.loc["train"].to_dict() == {
        "scans": 3,
        "scans_without_nodules": 2,
        "nodules": 3,
        "malignant": 1,
        "benign": 1,
        "candidates": 2,
        "positives": 1,
        "negatives": 1,
    }
    assert counts.loc["val"].tolist() == [1, 0, 1, 1, 0, 1, 0, 1]
    assert counts.loc["test"].tolist() == [0] * 8


def test_columns_of_categories_are_counted_alike() -> None:
    as_categories = [table.astype({"split": "category"}) for table in (SCANS, CANDIDATES)]
    pd.testing.assert_frame_equal(
        count_splits(as_categories[0], NODULES, as_categories[1]), count_splits(SCANS, NODULES, CANDIDATES)
    )


def test_diameters_rise_and_a_split_without_nodules_has_no_percentiles() -> None:
    assert diameters_of_splits(SCANS, NODULES)["train"].tolist() == [5.0, 7.0, 9.0]
    described = describe_splits(SCANS, NODULES, CANDIDATES)
    percentiles = described["train"]["diameter_mm_percentiles"]
    assert percentiles == pytest.approx({"0": 5, "10": 5.4, "25": 6, "50": 7, "75": 8, "90": 8.6, "100": 9})
    assert described["test"]["diameter_mm_percentiles"] is None
