import pandas as pd
import pytest
from test_evaluation import tables

from lunaops.evaluated_data import differences, digest_of, evaluated_data
from lunaops.scored_split import Reference


def data_of(split="test", **changed):
    frames = tables() | changed
    predictions = frames.pop("predictions")
    return evaluated_data(split, predictions, Reference(**frames))


def test_it_is_the_scans_findings_and_candidates_of_the_split():
    assert {name: len(table) for name, table in data_of().items()} == {
        "scans": 4,
        "nodules": 3,
        "excluded findings": 1,
        "candidates": 6,
    }


def test_order_scores_other_splits_and_how_series_are_stored_do_not_count():
    frames = tables()
    rows = frames["predictions"]
    same = data_of(
        predictions=rows[rows["split"] == "test"][::-1].assign(score=0.5).astype({"series_uid": "category"}),
        nodules=frames["nodules"][frames["nodules"]["series_uid"] != "x"][::-1],
    )
    assert differences(data_of(), same) == []
    assert digest_of(data_of()) == digest_of(same)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda f: {"nodules": f["nodules"][1:]}, "nodules 3 against 2, 1 of one only"),
        (lambda f: {"nodules": f["nodules"].assign(x=f["nodules"]["x"] + 1)}, "nodules 3 against 3, 6 of one only"),
        (lambda f: {"excluded": f["excluded"][:0]}, "excluded findings 1 against 0, 1 of one only"),
        (lambda f: {"scans": f["scans"][f["scans"]["series_uid"] != "d"]}, "scans 4 against 3, 1 of one only"),
        (lambda f: {"predictions": f["predictions"][1:]}, "candidates 6 against 5, 1 of one only"),
    ],
)
def test_what_differs_is_named_and_gives_another_hash(changed, said):
    other = data_of(**changed(tables()))
    assert differences(data_of(), other) == [said]
    assert digest_of(data_of()) != digest_of(other)


def test_a_finding_that_is_listed_twice_is_a_difference_of_none_alone():
    excluded = tables()["excluded"]
    other = data_of(excluded=pd.concat([excluded, excluded]))
    assert differences(data_of(), other) == ["excluded findings 1 against 2, 0 of one only"]
