import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lunaops.candidates import match_nodules, merge_annotations, order_as_book
from lunaops.errors import InputError
from lunaops.geometry import Grid
from lunaops.labels import Labels, read_malignancy_csv, read_nodules_csv
from lunaops.params import MergeParams, SplitParams
from lunaops.tables import Scan, write_table

MERGE = MergeParams(box_fraction=0.25)
SPLIT = SplitParams(
    strategy="subset",
    val=("subset1",),
    test=("subset2",),
    fold=0,
    folds=(0,),
    seed=1,
    val_share=0.1,
    test_share=0.1,
    val_stride=10,
)
XYZ = ["x", "y", "z"]


def scan(series_uid: str, subset: str) -> Scan:
    """100 mm along each axis, from the origin on."""
    grid = Grid((101, 101, 101), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(map(tuple, np.eye(3).tolist())))
    return Scan(series_uid, subset, f"{subset}/{series_uid}.mhd", grid)


def candidates_of(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["series_uid", *XYZ, "is_nodule"])


def nodules_of(*rows: tuple) -> pd.DataFrame:
    columns = ["series_uid", *XYZ, "diameter_mm"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys([*XYZ, "diameter_mm"], float))


def labels_of(candidates: pd.DataFrame, nodules: pd.DataFrame, malignancy: pd.DataFrame | None = None) -> Labels:
    return Labels(candidates, nodules, nodules_of(), malignancy, None)


def match(candidate: tuple[float, float, float], *nodules: tuple) -> tuple[float, int]:
    table = nodules_of(*[("1", *nodule) for nodule in nodules])
    row = match_nodules(
        candidates_of(("1", *candidate, True)), table.assign(nodule_id=table.index), MERGE.box_fraction
    ).iloc[0]
    return row["diameter_mm"], row["nodule_id"]


def test_a_candidate_a_quarter_of_the_diameter_off_along_every_axis_has_that_diameter() -> None:
    assert match((12, 12, 12), (10, 10, 10, 8)) == (8.0, 0)


def test_a_little_further_along_one_axis_it_has_none_but_still_hits() -> None:
    assert match((12.01, 10, 10), (10, 10, 10, 8)) == (0.0, 0)


def test_a_candidate_on_the_radius_does_not_hit() -> None:
    assert match((14, 10, 10), (10, 10, 10, 8)) == (0.0, -1)
    assert match((13.99, 10, 10), (10, 10, 10, 8)) == (0.0, 0)


def test_of_two_boxes_the_first_in_the_file_counts_and_of_two_hits_the_nearest() -> None:
    assert match((11, 10, 10), (10, 10, 10, 8), (11, 10, 10, 20)) == (8.0, 1)


def test_an_annotation_of_another_series_does_not_count() -> None:
    other = nodules_of(("2", 10, 10, 10, 8)).assign(nodule_id=0)
    row = match_nodules(candidates_of(("1", 10, 10, 10, True)), other, 0.25).iloc[0]
    assert (row["diameter_mm"], row["nodule_id"]) == (0.0, -1)


def by_loops(candidates: pd.DataFrame, nodules: pd.DataFrame) -> list[tuple[float, int]]:
    """The two rules, word for word."""
    answers = []
    for c in candidates.itertuples():
        diameter, nodule_id, nearest = 0.0, -1, np.inf
        for n in nodules.itertuples():
            if n.series_uid != c.series_uid:
                continue
            offsets = [abs(c.x - n.x), abs(c.y - n.y), abs(c.z - n.z)]
            if diameter == 0.0 and max(offsets) <= n.diameter_mm / 4:
                diameter = n.diameter_mm
            squared = sum(d * d for d in offsets)
            if squared < (n.diameter_mm / 2) ** 2 and squared < nearest:
                nodule_id, nearest = n.nodule_id, squared
        answers.append((diameter, nodule_id))
    return answers


place = st.integers(0, 12).map(float)
series = st.sampled_from(["1", "2", "056"])


@settings(max_examples=50)
@given(
    st.lists(st.tuples(series, place, place, place, st.booleans()), max_size=25),
    st.lists(st.tuples(series, place, place, place, st.integers(1, 20).map(float)), max_size=8),
)
def test_matching_equals_a_plain_loop(candidate_rows: list, nodule_rows: list) -> None:
    candidates, nodules = candidates_of(*candidate_rows), nodules_of(*nodule_rows)
    nodules = nodules.assign(nodule_id=nodules.index)
    got = match_nodules(candidates, nodules, 0.25)
    assert list(zip(got["diameter_mm"], got["nodule_id"], strict=True)) == by_loops(candidates, nodules)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["1.2", "1.10"]),
            *[st.sampled_from([-1.0, -0.0, 0.0, 2.5])] * 3,
            st.booleans(),
            st.sampled_from([0.0, 4.0, 9.0]),
        ),
        max_size=12,
    )
)
def test_the_order_is_pythons_of_the_books_tuples_descending(rows: list[tuple[str, float, float, float, bool, float]]):
    table = pd.DataFrame(rows, columns=["series_uid", "x", "y", "z", "is_nodule", "diameter_mm"])
    ordered = order_as_book(table.astype({"is_nodule": bool, "diameter_mm": float, "x": float, "y": float, "z": float}))
    wanted = sorted(((nodule, mm, uid, x, y, z) for uid, x, y, z, nodule, mm in rows), reverse=True)
    assert list(
        ordered[["is_nodule", "diameter_mm", "series_uid", "x", "y", "z"]].itertuples(index=False, name=None)
    ) == (wanted)


def test_nodules_come_first_and_the_largest_of_them_before_the_others() -> None:
    rows = [(False, 0.0, "1"), (True, 4.0, "1"), (True, 9.0, "2"), (True, 0.0, "1"), (True, 4.0, "3")]
    table = pd.DataFrame(rows, columns=["is_nodule", "diameter_mm", "series_uid"]).assign(x=0.0, y=0.0, z=0.0)
    ordered = order_as_book(table)
    assert list(zip(ordered["diameter_mm"], ordered["series_uid"], strict=True)) == [
        (9.0, "2"),
        (4.0, "3"),
        (4.0, "1"),
        (0.0, "1"),
        (0.0, "1"),
    ]


SCANS = [scan("1", "subset0"), scan("2", "subset1"), scan("3", "subset2"), scan("4", "subset2")]
ONE_EACH = candidates_of(("1", 5, 5, 5, True), ("2", 5, 5, 5, True), ("3", 5, 5, 5, True), ("1", 9, 9, 9, False))
NODULES = nodules_of(("1", 5, 5, 5, 4), ("2", 5, 5, 5, 6), ("3", 5, 5, 5, 8), ("4", 50, 50, 50, 5))


def test_a_scan_is_in_the_split_of_its_subset_and_so_are_its_candidates() -> None:
    tables = merge_annotations(SCANS, labels_of(ONE_EACH, NODULES), merge=MERGE, split=SPLIT)
    assert tables.scans["split"].tolist() == ["train", "val", "test", "test"]
    assert dict(zip(tables.candidates["series_uid"], tables.candidates["split"], strict=True)) == {
        "1": "train",
        "2": "val",
        "3": "test",
    }
    assert tables.facts["splits"]["test"] == {
        "scans": 2,
        "scans_without_nodules": 0,
        "nodules": 2,  # that of scan 4, which no candidate hits, counts
        "malignant": 0,
        "benign": 0,
        "candidates": 1,
        "positives": 1,
        "negatives": 0,
        "diameter_mm_percentiles": {"0": 5.0, "10": 5.3, "25": 5.75, "50": 6.5, "75": 7.25, "90": 7.7, "100": 8.0},
    }


def test_tables_have_the_columns_that_the_design_names() -> None:
    tables = merge_annotations(SCANS, labels_of(ONE_EACH, NODULES), merge=MERGE, split=SPLIT)
    assert list(tables.candidates.columns) == (
        ["candidate_id", "series_uid", "subset", "split", "x", "y", "z", "is_nodule", "nodule_id", "diameter_mm"]
    )
    assert list(tables.nodules.columns) == ["nodule_id", "series_uid", "x", "y", "z", "diameter_mm", "is_malignant"]
    assert list(tables.excluded.columns) == ["series_uid", "x", "y", "z", "diameter_mm"]
    assert tables.candidates["candidate_id"].tolist() == [0, 1, 2, 3]
    assert tables.candidates["diameter_mm"].tolist() == [8.0, 6.0, 4.0, 0.0]
    assert tables.candidates["nodule_id"].tolist() == [2, 1, 0, -1]


def test_what_belongs_to_a_scan_that_is_not_on_disk_is_left_out_and_counted() -> None:
    candidates = pd.concat([ONE_EACH, candidates_of(("9", 1, 1, 1, True), ("8", 1, 1, 1, False))])
    nodules = pd.concat([NODULES, nodules_of(("9", 1, 1, 1, 5))])
    tables = merge_annotations(SCANS, labels_of(candidates, nodules), merge=MERGE, split=SPLIT)
    assert set(tables.candidates["series_uid"]) == {"1", "2", "3"}
    assert tables.facts["left_out"]["candidates_without_scan"] == 2
    assert tables.facts["left_out"]["nodules_without_scan"] == 1


def test_a_candidate_outside_its_scan_is_named_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    candidates = pd.concat([ONE_EACH, candidates_of(("2", 5, 5, 101.6, False))])
    tables = merge_annotations(SCANS, labels_of(candidates, NODULES), merge=MERGE, split=SPLIT)
    assert tables.facts["left_out"]["first_candidates_outside_scan"] == [{"series_uid": "2", "xyz": [5, 5, 101.6]}]
    assert tables.facts["left_out"]["candidates_outside_scan"] == 1
    assert "1 candidates, the first at (5.00, 5.00, 101.60) mm, lie outside their scan 2: left out" in caplog.text
    assert len(tables.candidates) == 4


def test_a_repeated_candidate_counts_once() -> None:
    tables = merge_annotations(SCANS, labels_of(pd.concat([ONE_EACH, ONE_EACH[:1]]), NODULES), merge=MERGE, split=SPLIT)
    assert (len(tables.candidates), tables.facts["left_out"]["duplicate_candidates"]) == (4, 1)


def test_a_repeated_annotation_is_one_nodule() -> None:
    tables = merge_annotations(SCANS, labels_of(ONE_EACH, pd.concat([NODULES, NODULES])), merge=MERGE, split=SPLIT)
    assert (len(tables.nodules), tables.facts["left_out"]["duplicate_nodules"]) == (4, 4)
    assert tables.facts["splits"]["test"]["nodules"] == 2


def test_a_repeated_excluded_finding_is_counted() -> None:
    labels = replace(labels_of(ONE_EACH, NODULES), excluded=nodules_of(("1", 7, 7, 7, -1), ("1", 7, 7, 7, -1)))
    tables = merge_annotations(SCANS, labels, merge=MERGE, split=SPLIT)
    assert (len(tables.excluded), tables.facts["left_out"]["duplicate_excluded_findings"]) == (1, 1)


def test_a_place_with_both_classes_is_a_nodule_and_is_said(caplog: pytest.LogCaptureFixture) -> None:
    candidates = pd.concat([ONE_EACH, candidates_of(("1", 9, 9, 9, True), ("1", 9, 9, 9.5, False))])
    tables = merge_annotations(SCANS, labels_of(candidates, NODULES), merge=MERGE, split=SPLIT)
    at = tables.candidates[(tables.candidates[XYZ] == 9).all(axis=1)]
    assert at["is_nodule"].tolist() == [True]
    assert (len(tables.candidates), tables.facts["left_out"]["contradictory_candidates"]) == (5, 1)
    assert "1 candidates have class 0 in one line and 1 in another, the first of series 1 at (9" in caplog.text


def test_minus_zero_is_zero() -> None:
    candidates = pd.concat([ONE_EACH, candidates_of(("1", 0.0, 5.0, 5.0, False), ("1", -0.0, 5.0, 5.0, False))])
    tables = merge_annotations(SCANS, labels_of(candidates, NODULES), merge=MERGE, split=SPLIT)
    assert (len(tables.candidates), tables.facts["left_out"]["duplicate_candidates"]) == (5, 1)


def test_a_series_that_seriesuids_csv_lacks_is_counted_and_a_scan_on_disk_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    candidates = pd.concat([ONE_EACH, candidates_of(("8", 1, 1, 1, False), ("9", 1, 1, 1, False))])
    labels = replace(labels_of(candidates, NODULES), series_uids=frozenset({"1", "2", "3", "8"}))
    facts = merge_annotations(SCANS, labels, merge=MERGE, split=SPLIT).facts
    assert facts["left_out"]["candidates_without_scan"] == 2
    assert facts["left_out"]["candidates_of_unknown_series"] == 1
    assert facts["scans_not_in_seriesuids"] == 1
    assert "1 scans on disk are not in seriesuids.csv, the first 4: are the labels" in caplog.text


def test_the_real_malignancies_all_find_their_nodule(slabs: Path) -> None:
    folder = slabs.parent / "luna16-labels"
    nodules = read_nodules_csv(folder / "annotations.csv")
    malignancy = read_malignancy_csv(folder / "annotations_with_malignancy.csv")
    labels = Labels(candidates_of(("1", 5, 5, 5, True)), nodules, nodules_of(), malignancy, None)
    everywhere = Grid((101, 101, 101), (50.0, 50.0, 50.0), (-2500.0,) * 3, SCANS[0].grid.direction)
    scans = [Scan(uid, "subset0", "", everywhere) for uid in nodules["series_uid"].unique()]
    labels = replace(labels, candidates=nodules.drop(columns="diameter_mm").assign(is_nodule=True))
    split = SPLIT.model_copy(update={"strategy": "series_hash"})
    flags = merge_annotations(scans, labels, merge=MERGE, split=split).nodules["is_malignant"]
    assert (len(flags), int(flags.notna().sum()), int(flags.sum())) == (1186, 1182, 378)


rows = st.tuples(st.sampled_from(["1", "2", "3", "4", "9"]), place, place, place, st.booleans())
strategies = st.sampled_from(["subset", "k_fold", "series_hash", "candidate_stride"])


@settings(max_examples=25, phases=[Phase.explicit, Phase.generate])
@given(st.lists(rows, max_size=15), st.randoms(use_true_random=False), strategies)
def test_whatever_the_order_of_the_rows_the_tables_are_the_same_bytes_and_the_splits_part_the_scans(
    tmp_path_factory: pytest.TempPathFactory, more: list, random, strategy: str
) -> None:
    split = SPLIT.model_copy(update={"strategy": strategy, "val_stride": 2, "val_share": 0.4, "seed": 1})
    candidates = pd.concat([ONE_EACH, candidates_of(*more), candidates_of(("4", 9, 9, 9, False))], ignore_index=True)
    order = list(range(len(candidates)))
    random.shuffle(order)
    written, folder = [], tmp_path_factory.getbasetemp()
    for table in (candidates, candidates.iloc[order]):
        tables = merge_annotations(SCANS, labels_of(table, NODULES), merge=MERGE, split=split)
        for name in ("scans", "nodules", "excluded", "candidates"):
            write_table(getattr(tables, name), folder / f"{name}.parquet")
        written.append([(folder / f"{name}.parquet").read_bytes() for name in ("scans", "nodules", "candidates")])
        written[-1].append(json.dumps(tables.facts).encode())
    assert written[0] == written[1]
    assert sorted(tables.scans["series_uid"]) == ["1", "2", "3", "4"]
    assert set(tables.candidates["split"]) <= set(tables.scans["split"]) | {"train"}
    if strategy != "candidate_stride":
        split_of = dict(zip(tables.scans["series_uid"], tables.scans["split"], strict=True))
        assert tables.candidates["split"].tolist() == [split_of[uid] for uid in tables.candidates["series_uid"]]


def test_the_order_of_the_files_rows_does_not_change_the_tables() -> None:
    one = merge_annotations(SCANS, labels_of(ONE_EACH, NODULES), merge=MERGE, split=SPLIT)
    other = merge_annotations(SCANS[::-1], labels_of(ONE_EACH[::-1], NODULES), merge=MERGE, split=SPLIT)
    pd.testing.assert_frame_equal(one.candidates, other.candidates)
    pd.testing.assert_frame_equal(one.scans, other.scans)


def test_malignancy_is_that_of_the_annotation_at_the_same_place_and_else_unknown() -> None:
    known = nodules_of(("1", 5.0000001, 5, 5, 4), ("3", 6, 5, 5, 8)).assign(is_malignant=[True, True])
    tables = merge_annotations(SCANS, labels_of(ONE_EACH, NODULES, known), merge=MERGE, split=SPLIT)
    assert tables.nodules["is_malignant"].tolist() == [True, pd.NA, pd.NA, pd.NA]


def test_a_split_without_scans_is_refused() -> None:
    with pytest.raises(
        InputError, match="the split val has no scan by split.strategy subset: see its section, and fetch"
    ):
        merge_annotations([SCANS[0], SCANS[2]], labels_of(ONE_EACH, NODULES), merge=MERGE, split=SPLIT)


def test_a_split_without_candidates_is_refused() -> None:
    with pytest.raises(InputError, match="the split val has 1 scans and no candidate in them: are the labels those"):
        merge_annotations(SCANS, labels_of(ONE_EACH[ONE_EACH["series_uid"] != "2"], NODULES), merge=MERGE, split=SPLIT)


def test_a_split_without_positives_is_said(caplog: pytest.LogCaptureFixture) -> None:
    candidates = ONE_EACH.assign(is_nodule=[True, False, True, False])
    merge_annotations(SCANS, labels_of(candidates, NODULES), merge=MERGE, split=SPLIT)
    assert "the split val has no positive candidate in its 1 scans" in caplog.text


def test_candidate_stride_may_leave_no_scan_without_a_candidate_that_validates() -> None:
    many = candidates_of(*[(series, x, 1, 1, False) for series in "1234" for x in range(12)])
    stride = SPLIT.model_copy(update={"strategy": "candidate_stride", "val_stride": 10})
    tables = merge_annotations(SCANS, labels_of(pd.concat([ONE_EACH, many]), NODULES), merge=MERGE, split=stride)
    assert set(tables.scans["split"]) == {"val"}
    counts = {name: tables.facts["splits"][name]["candidates"] for name in ("train", "val")}
    assert counts["val"] == -(-len(tables.candidates) // 10)
    assert counts["train"] == len(tables.candidates) - counts["val"]


def test_candidate_stride_validates_every_nth_candidate_and_says_that_scans_leak(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stride = SPLIT.model_copy(update={"strategy": "candidate_stride", "val_stride": 2})
    with caplog.at_level(logging.WARNING):
        tables = merge_annotations(SCANS, labels_of(ONE_EACH, NODULES), merge=MERGE, split=stride)
    assert tables.candidates["split"].tolist() == ["val", "train", "val", "train"]
    assert "val is flattered" in caplog.text
    assert tables.facts["strategy"] == "candidate_stride"


def test_facts_are_json() -> None:
    tables = merge_annotations(SCANS, labels_of(ONE_EACH, NODULES), merge=MERGE, split=SPLIT)
    assert json.loads(json.dumps(tables.facts)) == tables.facts
