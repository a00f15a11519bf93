"""LUNA16's CSV files, read and checked: series ids stay text, coordinates are finite millimetres."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lunaops.errors import InputError

CANDIDATE_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "class")
FINDING_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm")
_NAMES = {"seriesuid": "series_uid", "coordX": "x", "coordY": "y", "coordZ": "z"}
_SERIES_UID = re.compile(r"[0-9A-Za-z._-]{1,64}")  # a DICOM UID has digits and dots; other data sets add letters


@dataclass(frozen=True)
class Labels:
    """What LUNA16's part `labels` says, for all its scans; `malignancy` is None where the file is missing."""

    candidates: pd.DataFrame
    nodules: pd.DataFrame
    excluded: pd.DataFrame
    malignancy: pd.DataFrame | None


def read_labels(folder: Path, candidates: str) -> Labels:
    """Read the CSV files in `folder`; `candidates` is the name of the one with the candidates, without .csv.

    annotations_excluded.csv and annotations_with_malignancy.csv may be missing: nothing is excluded then, and no
    malignancy known. Raises InputError naming file and line.
    """
    excluded, malignancy = folder / "annotations_excluded.csv", folder / "annotations_with_malignancy.csv"
    no_findings = pd.DataFrame(columns=["series_uid", "x", "y", "z", "diameter_mm"]).astype(
        {"series_uid": str, "x": float, "y": float, "z": float, "diameter_mm": float}
    )
    return Labels(
        candidates=read_candidates_csv(folder / f"{candidates}.csv"),
        nodules=read_nodules_csv(folder / "annotations.csv"),
        excluded=read_excluded_csv(excluded) if excluded.exists() else no_findings,
        malignancy=read_malignancy_csv(malignancy) if malignancy.exists() else None,
    )


def read_candidates_csv(path: Path) -> pd.DataFrame:
    """Columns series_uid, x, y, z [mm], is_nodule, in the file's order. Raises InputError naming file and row."""
    frame = _read(path, CANDIDATE_COLUMNS)
    wrong = ~frame["class"].isin([0, 1])
    if wrong.any():
        raise InputError(f"{_row(path, wrong)}: class must be 0 or 1, got {frame['class'][wrong].iloc[0]:g}")
    return frame.assign(is_nodule=frame.pop("class") == 1)


def read_nodules_csv(path: Path) -> pd.DataFrame:
    """Columns series_uid, x, y, z, diameter_mm of annotations.csv. Raises InputError naming file and row."""
    frame = _read(path, FINDING_COLUMNS)
    wrong = frame["diameter_mm"] <= 0
    if wrong.any():
        got = frame["diameter_mm"][wrong].iloc[0]
        raise InputError(f"{_row(path, wrong)}: diameter_mm of a nodule must be positive, got {got:g}")
    return frame


def read_excluded_csv(path: Path) -> pd.DataFrame:
    """Columns as `read_nodules_csv`, of annotations_excluded.csv; an unknown diameter is negative there."""
    return _read(path, FINDING_COLUMNS)


def read_malignancy_csv(path: Path) -> pd.DataFrame:
    """Columns series_uid, x, y, z, diameter_mm, is_malignant of annotations_with_malignancy.csv."""
    frame = _read(path, (*FINDING_COLUMNS, "mal_bool"), text=("mal_bool",))
    known = frame["mal_bool"].isin(["True", "False"])
    if not known.all():
        raise InputError(
            f"{_row(path, ~known)}: mal_bool must be True or False, got {frame['mal_bool'][~known].iloc[0]}"
        )
    return frame.assign(is_malignant=frame.pop("mal_bool") == "True")


def _read(path: Path, columns: Sequence[str], text: Sequence[str] = ()) -> pd.DataFrame:
    """The named columns; LF and CRLF, with or without a byte-order mark; line numbers count from the header's 1."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; fetch the part 'labels' again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # pandas would cut what a line has too much
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except pd.errors.ParserWarning as error:
        raise InputError(f"{path}: a line has more fields than the header; numbers want a decimal point") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a CSV file: {' '.join(str(error).split())}") from error
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        got = ",".join(map(str, frame.columns))
        raise InputError(f"{path}: lacks the column {missing[0]}; wanted {','.join(columns)}, got {got}")
    frame = frame[list(columns)].fillna("")
    _check_series(path, frame["seriesuid"])
    for name in columns:
        if name != "seriesuid" and name not in text:
            frame = frame.assign(**{name: _numbers(path, frame[name])})
    return frame.rename(columns=_NAMES)


def _check_series(path: Path, series_uids: pd.Series) -> None:
    unique = series_uids.unique()
    wrong = series_uids.isin([uid for uid in unique if not _SERIES_UID.fullmatch(uid) or ".." in uid])
    if wrong.any():
        got = series_uids[wrong].iloc[0]
        raise InputError(f"{_row(path, wrong)}: seriesuid {got!r} has no place in a file name; wanted digits and dots")


def _numbers(path: Path, column: pd.Series) -> pd.Series:
    numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
    wrong = pd.Series(~np.isfinite(numbers.to_numpy()), index=column.index)
    if wrong.any():
        raise InputError(f"{_row(path, wrong)}: {column.name} must be a number, got {column[wrong].iloc[0]!r}")
    return numbers


def _row(path: Path, wrong: pd.Series) -> str:
    return f"{path}, line {int(np.flatnonzero(wrong)[0]) + 2}"
