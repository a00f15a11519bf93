from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st
from luna16_rules import curve, literally

from benchmarks.froc import generated_submission
from lunaops.csv_file import read_series_uids
from lunaops.errors import InputError
from lunaops.froc import COUNTS, LUNA16_RATES
from lunaops.submission import as_json, as_text, read_marks, score_submission

HEADER = "seriesuid,coordX,coordY,coordZ,probability\n"


def file_of(folder: Path, text: str, *, encoding: str = "utf-8", newline: str = "\n") -> Path:
    path = folder / "S.csv"
    path.write_bytes(text.replace("\n", newline).encode(encoding))
    return path


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_line_ends_and_byte_order_marks_do_not_matter(tmp_path: Path, encoding: str, newline: str, end: str) -> None:
    marks = file_of(tmp_path, HEADER + "1.2,-1.5,2,3e1,0.9\n056,0,0,0,1" + end, encoding=encoding, newline=newline)
    assert read_marks(marks).astype({"series_uid": str}).to_dict("list") == {
        "series_uid": ["1.2", "056"],
        "x": [-1.5, 0.0],
        "y": [2.0, 0.0],
        "z": [30.0, 0.0],
        "score": [0.9, 1.0],
    }
    uids = file_of(tmp_path, "056\n1.10" + end, encoding=encoding, newline=newline)
    assert read_series_uids(uids) == ["056", "1.10"]


def test_columns_may_stand_in_another_order_among_others(tmp_path: Path) -> None:
    path = file_of(tmp_path, "note,probability,coordZ,coordY,coordX,seriesuid\nhm,0.5,3,2,1,a\n")
    assert read_marks(path)[["x", "y", "z", "score"]].to_numpy().tolist() == [[1, 2, 3, 0.5]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "S.csv: not a CSV file: it is empty; wanted seriesuid,coordX,coordY,coordZ,probability$"),
        ("seriesuid,coordX,coordY,coordZ\na,0,0,0\n", "S.csv: lacks the column probability; wanted .* got 'seriesuid,"),
        (HEADER + "a,0,0,0,0.5\na,0,zero,0,0.5\n", "S.csv, line 3: coordY must be a number, got 'zero'"),
        (HEADER + "a,0,0,0,nan\n", "S.csv, line 2: probability must be a number, got 'nan'"),
        (HEADER + "a,0,0,0,NaN\n", "S.csv, line 2: probability must be a number, got 'NaN'"),
        (HEADER + "a,0,0,0,inf\n", "S.csv, line 2: probability must be a number, got 'inf'"),
        (HEADER + "a,0,0,0,\n", "S.csv, line 2: probability must be a number, got ''"),
        (HEADER + "a,0,0,0\n", "S.csv, line 2: 4 fields, the header has 5"),
        (HEADER + ",0,0,0,0.5\n", "S.csv, line 2: seriesuid ''"),
        (HEADER + "a,1,5,2,5,3,5,0,9\n", "S.csv, line 2: 9 fields, the header has 5"),
        (HEADER.replace(",", ";") + "a;0;0;0;0.5\n", "S.csv: lacks the column seriesuid"),
    ],
)
def test_a_bad_line_of_a_submission_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_marks(file_of(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "S.csv: holds no series id"),
        ("seriesuid\n\n", "S.csv: holds no series id"),
        ("1.2\n\n1.3,0,0,0\n", "S.csv, line 3: '1.3,0,0,0' is no series id; wanted one a line"),
        ("1.2 1.3\n", "S.csv, line 1: '1.2 1.3' is no series id"),
    ],
)
def test_a_bad_list_of_scans_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_series_uids(file_of(tmp_path, text))


def test_a_list_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "S.csv"
    path.write_bytes(b"\xff\xfe1\x00")
    with pytest.raises(InputError, match=r"S\.csv: not a CSV file: it has NUL bytes"):
        read_series_uids(path)


def test_a_scan_listed_twice_or_below_a_header_is_one_scan(tmp_path: Path) -> None:
    assert read_series_uids(file_of(tmp_path, "seriesuid\n\n1.2\n1.3\n1.2\n")) == ["1.2", "1.3"]


@given(st.binary(max_size=120) | st.text(alphabet='a1.-e,\n"', max_size=120).map(str.encode))
def test_any_bytes_give_marks_or_a_clear_line(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "S.csv"
    path.write_bytes(HEADER.encode() + text)
    try:
        marks = read_marks(path)
        assert np.isfinite(marks[["x", "y", "z", "score"]].to_numpy()).all()
    except InputError as error:
        assert "\n" not in str(error)


def scored(folder: Path, marks: str, nodules: str = "a,0,0,0,6\n", excluded: str = "", uids: str = "a\n", **options):
    findings = "seriesuid,coordX,coordY,coordZ,diameter_mm\n"
    texts = {"S": HEADER + marks, "A": findings + nodules, "X": findings + excluded, "U": uids}
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text(text)
    files = [folder / f"{name}.csv" for name in texts]
    defaults = {"unknown_diameter_mm": 10, "max_marks_per_scan": None, "num_draws": 0, "seed": 1}
    return score_submission(*files, **{**defaults, **options})


def test_the_json_holds_what_the_rules_give(tmp_path: Path) -> None:
    marks = "a,0,0,0,0.9\na,1,0,0,0.8\na,50,0,0,0.7\nb,90,0,0,0.6\n"
    result = scored(tmp_path, marks, "a,0,0,0,6\nb,0,0,0,6\n", "a,51,0,0,-1\n", "a\nb\n")
    assert as_json(result) == {
        "nodules": 2,
        "true_positives": 1,
        "false_negatives": 1,
        "false_positives": 1,
        "candidates": 4,
        "ignored_excluded": 1,
        "ignored_double": 1,
        "scans": 2,
        "unlisted_marks": 0,
        "unlisted_series": 0,
        "fps_per_scan": [0.125, 0.25, 0.5, 1, 2, 4, 8],
        "sensitivity_at": [0.5] * 7,
        "cpm": 0.5,
    }


def test_the_json_holds_the_intervals_of_the_draws(tmp_path: Path) -> None:
    marks = "a,0,0,0,0.9\nb,90,0,0,0.95\n"
    without = as_json(scored(tmp_path, marks, uids="a\nb\n"))
    numbers = as_json(scored(tmp_path, marks, uids="a\nb\n", num_draws=200, seed=3))
    assert {name: numbers[name] for name in without} == without
    assert set(numbers) - set(without) == {
        *("boot_mean", "boot_lo", "boot_hi", "cpm_mean", "cpm_lo", "cpm_hi", "bootstraps", "seed"),
    }
    assert [len(numbers[name]) for name in ("boot_mean", "boot_lo", "boot_hi")] == [7, 7, 7]
    # one of each scan: the false positive comes first, at 1/2 a scan; scan a twice: no false positive
    assert numbers["boot_lo"] == [0, 0, 1, 1, 1, 1, 1] and numbers["boot_hi"] == [1] * 7
    assert numbers["cpm_lo"] == pytest.approx(5 / 7) and numbers["cpm_hi"] == 1


def test_the_options_reach_their_rules(tmp_path: Path) -> None:
    marks = "a,0,0,0,0.9\na,50,0,0,0.8\na,90,0,0,0.7\n"
    assert scored(tmp_path, marks, max_marks_per_scan=1).froc.candidates == 1
    assert scored(tmp_path, "a,6,0,0,0.9\n", "a,0,0,0,-1\n").froc.true_positives == 0
    assert scored(tmp_path, "a,6,0,0,0.9\n", "a,0,0,0,-1\n", unknown_diameter_mm=14).froc.true_positives == 1


def test_marks_of_scans_that_are_not_listed_are_counted_and_said(tmp_path: Path) -> None:
    result = scored(tmp_path, "a,0,0,0,0.9\n1.9,0,0,0,0.8\nz,0,0,0,0.8\n1.9,5,0,0,0.1\n")
    assert (as_json(result)["unlisted_marks"], as_json(result)["unlisted_series"]) == (3, 2)
    assert "3 marks of 2 series that the list of scans does not name were left out, the first of 1.9" in as_text(result)
    assert result.froc.candidates == 1 and "left out" not in as_text(scored(tmp_path, "a,0,0,0,0.9\n"))


def test_a_submission_without_marks_finds_nothing(tmp_path: Path) -> None:
    numbers = as_json(scored(tmp_path, "", num_draws=5))
    assert (numbers["cpm"], numbers["cpm_hi"], numbers["false_negatives"]) == (0, 0, 1)


def test_without_nodules_the_sensitivity_is_null_and_a_dash(tmp_path: Path) -> None:
    result = scored(tmp_path, "a,0,0,0,0.9\n", nodules="", num_draws=5)
    numbers = as_json(result)
    assert numbers["cpm"] is numbers["cpm_lo"] is None and numbers["sensitivity_at"] == numbers["boot_hi"] == [None] * 7
    assert "CPM –, 95 % interval – to –" in as_text(result)


def test_the_text_is_a_table_that_can_be_read(tmp_path: Path) -> None:
    result = scored(tmp_path, "a,0,0,0,0.5\na,90,0,0,0.5\n", num_draws=1000)
    assert as_text(result).splitlines() == [
        "2 marks in 1 scans: 1 false positives; ignored: 0 on excluded findings, 0 second ones on a nodule",
        "1 nodules: 1 found, 0 missed",
        "false positives per scan   0.125    0.25     0.5       1       2       4       8",
        "sensitivity                0.125   0.250   0.500   1.000   1.000   1.000   1.000",
        "2.5 %                      0.125   0.250   0.500   1.000   1.000   1.000   1.000",
        "97.5 %                     0.125   0.250   0.500   1.000   1.000   1.000   1.000",
        "CPM 0.696, 95 % interval 0.696 to 0.696 (1,000 bootstraps over scans, seed 1)",
    ]


@pytest.fixture
def labels() -> Path:
    """LUNA16's own labels; they lie beside the project where it is built, and nowhere else."""
    if not (SHARED / "luna16-labels").is_dir():
        pytest.skip("needs the real labels in ../shared/data/luna16-labels")
    return SHARED / "luna16-labels"


def scored_on(labels: Path, path: Path, uids: Path | None = None, **options):
    files = [labels / "annotations.csv", labels / "annotations_excluded.csv", uids or labels / "seriesuids.csv"]
    defaults = {"unknown_diameter_mm": 10, "max_marks_per_scan": None, "num_draws": 0, "seed": 1}
    return score_submission(path, *files, **{**defaults, **options})


def test_the_real_nodules_marked_at_their_centres_are_all_found(labels: Path, tmp_path: Path) -> None:
    nodules = pd.read_csv(labels / "annotations.csv", dtype=str).rename(columns={"diameter_mm": "probability"})
    nodules.to_csv(tmp_path / "S.csv", index=False)
    numbers = as_json(scored_on(labels, tmp_path / "S.csv"))
    assert numbers["cpm"] == 1.0 and [numbers[name] for name in COUNTS] == [1186, 1186, 0, 0, 1186, 0, 0]


def test_the_real_excluded_findings_marked_at_their_centres_are_ignored_or_on_a_nodule(
    labels: Path, tmp_path: Path
) -> None:
    excluded = pd.read_csv(labels / "annotations_excluded.csv", dtype=str).rename(
        columns={"diameter_mm": "probability"}
    )
    excluded.assign(probability="0.5").to_csv(tmp_path / "S.csv", index=False)
    counts = scored_on(labels, tmp_path / "S.csv").froc
    assert counts.candidates == 35192 and counts.false_positives == 0
    assert counts.ignored_excluded + counts.ignored_double + counts.true_positives >= 35192


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path]:
    """As many marks as LUNA16 has candidates, over all its scans; and their file."""
    if not (SHARED / "luna16-labels").is_dir():
        pytest.skip("needs the real labels in ../shared/data/luna16-labels")
    marks, path = generated_submission(SHARED / "luna16-labels", seed=0), tmp_path_factory.mktemp("full") / "S.csv"
    marks.to_csv(path, index=False)
    return marks, path


@pytest.mark.slow
@pytest.mark.xdist_group("full-size submission")
@pytest.mark.parametrize("max_marks", [None, 100])
def test_a_full_size_submission_is_scored_and_a_part_of_it_as_the_literal_reading_scores_it(
    labels: Path, full_size: tuple[pd.DataFrame, Path], tmp_path: Path, max_marks: int | None
) -> None:
    marks, path = full_size
    whole = scored_on(labels, path, max_marks_per_scan=max_marks, num_draws=1000)
    assert whole.froc.nodules == 1186 and whole.unlisted_marks == 0
    assert whole.froc.candidates == 551065 if max_marks is None else 88000 < whole.froc.candidates <= 88800
    assert whole.intervals.cpm.low < whole.froc.cpm < whole.intervals.cpm.high
    some = read_series_uids(labels / "seriesuids.csv")[:20]
    (tmp_path / "U.csv").write_text("\n".join(some))
    part = scored_on(labels, path, tmp_path / "U.csv", max_marks_per_scan=max_marks)
    tables = [marks, *(pd.read_csv(labels / f"{name}.csv") for name in ("annotations", "annotations_excluded"))]
    rows = [list(table[table["seriesuid"].isin(some)].itertuples(index=False, name=None)) for table in tables]
    label, value, counts = literally(*rows, some, max_marks=max_marks)
    assert {name: getattr(part.froc, name) for name in counts} == counts
    assert (part.froc.true_positives, part.froc.false_positives) == (sum(label), len(label) - sum(label))
    x, y = zip(*curve(label, value, part.froc.nodules, len(some)), strict=True)
    np.testing.assert_allclose(list(part.froc.sensitivity_at.values()), np.interp(LUNA16_RATES, x, y))
    assert part.unlisted_marks == 551065 - sum(marks["seriesuid"].isin(some))
