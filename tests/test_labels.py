from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lunaops.csv_file import read_series_uids
from lunaops.errors import InputError
from lunaops.labels import (
    read_candidates_csv,
    read_excluded_csv,
    read_labels,
    read_malignancy_csv,
    read_nodules_csv,
)

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


@pytest.mark.parametrize("newline", ["\r", "\r\n", "\n"])
def test_quotes_blank_lines_more_columns_and_another_order_do_not_matter(tmp_path: Path, newline: str) -> None:
    text = (
        'note,class,"coordZ",coordY,coordX,seriesuid,\n\n"a, ""b""\nc",1,3,"2",-1.5,"1.2",\n\n,0.0,+0, 1e1 ,.5,056,\n\n'
    )
    frame = read_candidates_csv(csv_of(tmp_path, text, newline=newline))
    assert frame.drop(columns="is_nodule").to_numpy().tolist() == [["1.2", -1.5, 2, 3], ["056", 0.5, 10, 0]]
    assert frame["is_nodule"].tolist() == [True, False]


def test_a_file_of_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    assert len(read_candidates_csv(csv_of(tmp_path, HEADER.strip()))) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "candidates.csv: not a CSV file: it is empty"),
        ("\n\n", "candidates.csv: not a CSV file: it is empty"),
        (
            "seriesuid,coordX,coordY,class\n1.2,0,0,0\n",
            "lacks the column coordZ; wanted seriesuid,coordX.* got 'series",
        ),
        ("seriesuid;coordX;coordY;coordZ;class\n", "lacks the column seriesuid; wanted .* got 'seriesuid;coordX"),
        ("seriesuid,coordX,coordX,coordY,coordZ,class\n", "has more than once the column coordX"),
        (HEADER + "1.2,0,0,0,0\n1.2,0,zero,0,0\n", "line 3: coordY must be a number, got 'zero'"),
        (HEADER + "\n\n1.2,0,0,0,0\n\n1.2,0,zero,0,0\n", "line 6: coordY must be a number, got 'zero'"),
        (HEADER + "1.2,0,,0,0\n", "line 2: coordY must be a number, got ''"),
        (HEADER + "1.2,0, ,0,0\n", "line 2: coordY must be a number, got ' '"),
        (HEADER + "1.2,0,inf,0,0\n", "line 2: coordY must be a number, got 'inf'"),
        (HEADER + "1.2,0,nan,0,0\n", "line 2: coordY must be a number, got 'nan'"),
        (HEADER + "1.2,0,NA,0,0\n", "line 2: coordY must be a number, got 'NA'"),
        (HEADER + "1.2,0,1e400,0,0\n", "line 2: coordY must be a number, got '1e400'"),
        (HEADER + "1.2,0,0x10,0,0\n", "line 2: coordY must be a number, got '0x10'"),
        (HEADER + "1.2,0,1_0,0,0\n", "line 2: coordY must be a number, got '1_0'"),
        (HEADER + "1.2,0,１,0,0\n", "line 2: coordY must be a number, got '１'"),
        (HEADER + '1.2,0,"1,5",0,0\n', "line 2: coordY must be a number, got '1,5'"),
        (HEADER + "1.2,0\n", "line 2: 2 fields, the header has 5: '1.2,0'"),
        (HEADER + "\n1.2,0,0,0,0\n1.2,0\n", "line 4: 2 fields, the header has 5: '1.2,0'"),
        (HEADER + " \n1.2,0,0,0,0\n\t\n1.2,0\n", "line 5: 2 fields, the header has 5: '1.2,0'"),
        (HEADER + " \n1.2,0,zero,0,0\n", "line 3: coordY must be a number, got 'zero'"),
        (HEADER + "1.2,1,5,2,5,3,5,1\n", "line 2: 8 fields, the header has 5: .*; .* numbers want a decimal point"),
        (HEADER + "0,1.2,0,0,0,0\n", "line 2: 6 fields, the header has 5"),
        (HEADER + "1.2,0,0,0,0,\n", "line 2: 6 fields, the header has 5: '1.2,0,0,0,0,'"),
        (HEADER + '1.2,0,0,0,"0\n1.2,0,0,0,0\n', "line 2: class must be a number|line 2: .* fields"),
        (HEADER + '1.2,0,0,0,1\n1.2,1"5,0,0,1\n1.2,0,0,0,1\n1.2,0,0,0\n', "line 5: 4 fields, the header has 5"),
        (HEADER + '1.2,1"5,0,0,1\n1.2,0,0,0,1\n', "line 2: coordX must be a number, got '1\"5'"),
        (HEADER + "1.2,0,0,0,2\n", "line 2: class must be 0 or 1, got 2"),
        (HEADER + "1.2,0,0,0,0\n../../etc,0,0,0,0\n", "line 3: seriesuid '../../etc' has no place in a file name"),
        (HEADER + "..,0,0,0,0\n", "line 2: seriesuid '..' has no place"),
        (HEADER + ",0,0,0,0\n", "line 2: seriesuid '' has no place"),
        (HEADER + "1 2,0,0,0,0\n", "line 2: seriesuid '1 2' has no place"),
        (HEADER + " 1.2,0,0,0,0\n", "line 2: seriesuid ' 1.2' has no place"),
        (HEADER + "1.2,0,0,0,0\n1.2,0\0,0,0,0\n", "not a CSV file: it has NUL bytes; compressed, or UTF-16"),
        (HEADER + f"1.2,{'9' * 5000},0,0,0\n", r"line 2: coordX must be a number, got '9{80}\.\.\.'"),
        (HEADER + f"1.2,{'9' * 2_000_000},0,0,0\n", "candidates.csv"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_candidates_csv(csv_of(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", "it has NUL bytes; compressed, or UTF-16"),
        ("utf-16-be", "NUL bytes"),
        ("latin-1", "line 3: not UTF-8: save it as"),
    ],
)
def test_another_encoding_is_named(tmp_path: Path, encoding: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_candidates_csv(csv_of(tmp_path, HEADER + "1.2,0,0,0,0\n1.2ä,0,0,0,0\n", encoding=encoding))


def test_a_line_break_in_quotes_counts_as_a_line(tmp_path: Path) -> None:
    text = "note," + HEADER + '"two\nlines",1.2,0,0,0,0\nx,1.2,0,zero,0,0\n'
    with pytest.raises(InputError, match="line 4: coordY must be a number, got 'zero'"):
        read_candidates_csv(csv_of(tmp_path, text))


@settings(max_examples=30)
@given(st.lists(st.floats(-1e5, 1e5), min_size=1, max_size=20), st.booleans())
def test_numbers_are_the_nearest_float64(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[float], blanks: bool
) -> None:
    around = " " if blanks else ""  # read by another path
    rows = "".join(f"1.2,{around}{number!r}{around},0,{number:.25e},0\n" for number in numbers)
    frame = read_candidates_csv(csv_of(tmp_path_factory.getbasetemp(), HEADER + rows))
    assert frame["x"].tolist() == frame["z"].tolist() == numbers


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
    with pytest.raises(InputError, match="line 2: mal_bool must be True or False, got 'maybe'"):
        read_malignancy_csv(csv_of(tmp_path, header + "1.2,0,0,0,5,maybe\n"))


def test_excluded_findings_and_malignancy_may_be_missing(tmp_path: Path) -> None:
    csv_of(tmp_path, HEADER + "1.2,0,0,0,0\n")
    (tmp_path / "annotations.csv").write_text("seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2,0,0,0,5\n")
    labels = read_labels(tmp_path, "candidates")
    assert (len(labels.candidates), len(labels.nodules), len(labels.excluded)) == (1, 1, 0)
    assert (labels.malignancy, labels.series_uids) == (None, None)


VALID = HEADER + "1.2,-1.5,2,3,1\n056,0,0.5e1,0,0\n" + '"1.2",1,"2",3,0\n'
pieces = st.sampled_from(
    ['"', '""', ",", "\n", "\r", "\r\n", " ", "\t", "\0", "\ufeff", "nan", "1e400", "é", "１", "#", "x" * 200, HEADER]
) | st.text(max_size=5)  # fmt: skip


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A valid file, with pieces put in and taken out, cut short, in some encoding."""
    text = VALID
    for piece in draw(st.lists(pieces, max_size=4)):
        start = draw(st.integers(0, len(text)))
        text = text[:start] + piece + text[start + draw(st.integers(0, 6)) :]
    encoded = text.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"])), "replace")
    return encoded[: draw(st.integers(0, len(encoded)))] if draw(st.booleans()) else encoded


# rows whose quotes are anywhere: inside a field they are not those that hold a line end
quoted = st.text('",\n\r1 ', max_size=60).map(lambda text: (HEADER + text).encode())


@settings(max_examples=200)
@given(mutations() | st.binary(max_size=200) | st.binary(max_size=100).map(HEADER.encode().__add__) | quoted)
@example(f'""""{HEADER}1.2,-1.5,2,3,1\n'.encode())  # a column whose name has a quote
def test_any_bytes_give_a_table_or_a_clear_line(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "candidates.csv"
    path.write_bytes(text)
    for read in (read_candidates_csv, read_series_uids):
        try:
            read(path)
        except InputError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 500


FIELDS = ["1.2", "", '5"', '1"5', '""', '"a"""', '"a,b"', '"a""\n"5', '"\r"', '"\r\n"', 'a"\\']


@settings(max_examples=200)
@given(st.lists(st.lists(st.sampled_from(FIELDS), min_size=4, max_size=6), max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_the_first_row_with_too_few_or_too_many_fields_is_named_wherever_quotes_are(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], newline: str
) -> None:
    lines = [HEADER.strip(), *(",".join(row) for row in rows), "1.2"]
    path = tmp_path_factory.getbasetemp() / "candidates.csv"
    path.write_bytes(newline.join(lines).encode())
    wrong = next((number for number, row in enumerate(rows, start=1) if len(row) != 5), len(lines) - 1)
    line = len(newline.join(lines[:wrong]).splitlines()) + 1
    with pytest.raises(InputError, match=f"line {line}: .* fields, the header has 5: "):
        read_candidates_csv(path)


def test_the_real_labels(slabs: Path) -> None:
    folder = slabs.parent / "luna16-labels"
    nodules = read_nodules_csv(folder / "annotations.csv")
    excluded = read_excluded_csv(folder / "annotations_excluded.csv")
    assert (len(nodules), nodules["series_uid"].nunique()) == (1186, 601)
    assert (len(excluded), (excluded["diameter_mm"] == -1).sum()) == (35192, 30513)
    assert read_malignancy_csv(folder / "annotations_with_malignancy.csv")["is_malignant"].sum() == 378
    series_uids = read_series_uids(folder / "seriesuids.csv")
    assert len(series_uids) == 888
    assert set(nodules["series_uid"]) | set(excluded["series_uid"]) <= set(series_uids)
