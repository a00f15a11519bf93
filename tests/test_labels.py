from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lunaops.errors import InputError
from lunaops.labels import read_candidates_csv, read_excluded_csv, read_labels, read_malignancy_csv, read_nodules_csv

HEADER = "seriesuid,coordX,coordY,coordZ,class\n"


def csv_of(folder: Path, text: str, *, encoding: str = "utf-8", newline: str = "\n") -> Path:
    path = folder / "candidates.csv"
    path.write_bytes(text.replace("\n", newline).encode(encoding))
    return path


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_line_ends_and_byte_order_marks_do_not_matter(tmp_path: Path, newline: str, encoding: str) -> None:
    path = csv_of(tmp_path, HEADER + "1.2,-1.5,2,3,1\n056,0,0,0,0\n", newline=newline, encoding=encoding)
    frame = read_candidates_csv(path)
    assert frame.to_dict("list") == {
        "series_uid": ["1.2", "056"],
        "x": [-1.5, 0.0],
        "y": [2.0, 0.0],
        "z": [3.0, 0.0],
        "is_nodule": [True, False],
    }


def test_ids_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    frame = read_candidates_csv(csv_of(tmp_path, HEADER + "056,0,0,0,0\n1.10,0,0,0,0\n1e5,0,0,0,0\nNA,0,0,0,0\n"))
    assert frame["series_uid"].tolist() == ["056", "1.10", "1e5", "NA"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "candidates.csv: not a CSV file"),
        ("seriesuid,coordX,coordY,class\n1.2,0,0,0\n", "lacks the column coordZ; wanted seriesuid,coordX.* got series"),
        (HEADER + "1.2,0,0,0,0\n1.2,0,zero,0,0\n", "line 3: coordY must be a number, got 'zero'"),
        (HEADER + "1.2,0,,0,0\n", "line 2: coordY must be a number, got ''"),
        (HEADER + "1.2,0,inf,0,0\n", "line 2: coordY must be a number, got 'inf'"),
        (HEADER + "1.2,0,nan,0,0\n", "line 2: coordY must be a number, got 'nan'"),
        (HEADER + "1.2,0\n", "line 2: coordY must be a number, got ''"),
        (HEADER + "1.2,1,5,2,5,3,5,1\n", "a line has more fields than the header; numbers want a decimal point"),
        (HEADER + "0,1.2,0,0,0,0\n", "a line has more fields than the header"),
        (HEADER + "1.2,0,0,0,2\n", "line 2: class must be 0 or 1, got 2"),
        (HEADER + "1.2,0,0,0,0\n../../etc,0,0,0,0\n", "line 3: seriesuid '../../etc' has no place in a file name"),
        (HEADER + "..,0,0,0,0\n", "line 2: seriesuid '..' has no place"),
        (HEADER + ",0,0,0,0\n", "line 2: seriesuid '' has no place"),
        (HEADER + "1 2,0,0,0,0\n", "line 2: seriesuid '1 2' has no place"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_candidates_csv(csv_of(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"candidates_V2\.csv: no such file; fetch the part 'labels'"):
        read_labels(tmp_path, "candidates_V2")


def test_a_nodule_wants_a_diameter_and_an_excluded_finding_does_not(tmp_path: Path) -> None:
    path = csv_of(tmp_path, "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2,0,0,0,-1\n")
    assert read_excluded_csv(path)["diameter_mm"].tolist() == [-1.0]
    with pytest.raises(InputError, match="line 2: diameter_mm of a nodule must be positive, got -1"):
        read_nodules_csv(path)


def test_malignancy_is_true_or_false(tmp_path: Path) -> None:
    header = "seriesuid,coordX,coordY,coordZ,diameter_mm,mal_bool\n"
    assert read_malignancy_csv(csv_of(tmp_path, header + "1.2,0,0,0,5,True\n"))["is_malignant"].tolist() == [True]
    with pytest.raises(InputError, match="line 2: mal_bool must be True or False, got maybe"):
        read_malignancy_csv(csv_of(tmp_path, header + "1.2,0,0,0,5,maybe\n"))


def test_excluded_findings_and_malignancy_may_be_missing(tmp_path: Path) -> None:
    csv_of(tmp_path, HEADER + "1.2,0,0,0,0\n")
    (tmp_path / "annotations.csv").write_text("seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2,0,0,0,5\n")
    labels = read_labels(tmp_path, "candidates")
    assert (len(labels.candidates), len(labels.nodules), len(labels.excluded), labels.malignancy) == (1, 1, 0, None)


@given(st.binary(max_size=200) | st.text(alphabet='seriuid,coordXYZclass10.-\n"', max_size=200).map(str.encode))
def test_any_bytes_give_a_table_or_a_clear_line(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "candidates.csv"
    path.write_bytes(HEADER.encode() + text)
    try:
        read_candidates_csv(path)
    except InputError as error:
        assert "\n" not in str(error)


def test_the_real_labels(slabs: Path) -> None:
    folder = slabs.parent / "luna16-labels"
    nodules = read_nodules_csv(folder / "annotations.csv")
    excluded = read_excluded_csv(folder / "annotations_excluded.csv")
    assert (len(nodules), nodules["series_uid"].nunique()) == (1186, 601)
    assert (len(excluded), (excluded["diameter_mm"] == -1).sum()) == (35192, 30513)
    assert read_malignancy_csv(folder / "annotations_with_malignancy.csv")["is_malignant"].sum() == 378
