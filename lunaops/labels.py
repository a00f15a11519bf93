"""LUNA16's CSV files, read and checked: series ids stay text, coordinates are finite millimetres."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lunaops.csv_file import CsvFile, read_series_uids, shown
from lunaops.errors import InputError

CANDIDATE_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "class")
FINDING_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm")


@dataclass(frozen=True)
class Labels:
    """What LUNA16's part `labels` says, for all its scans; `malignancy` and `series_uids` are None without a file."""

    candidates: pd.DataFrame
    nodules: pd.DataFrame
    excluded: pd.DataFrame
    malignancy: pd.DataFrame | None
    series_uids: frozenset[str] | None


def read_labels(folder: Path, candidates: str) -> Labels:
    """Read the CSV files in `folder`; `candidates` is the name of the one with the candidates, without .csv.

    annotations_excluded.csv, annotations_with_malignancy.csv and seriesuids.csv may be missing: nothing is excluded
    then, no malignancy known, no series unknown. Raises InputError naming file and line.
    """
    excluded, malignancy = folder / "annotations_excluded.csv", folder / "annotations_with_malignancy.csv"
    series_uids = folder / "seriesuids.csv"
    no_findings = pd.DataFrame(columns=["series_uid", "x", "y", "z", "diameter_mm"]).astype(
        {"series_uid": "category", "x": float, "y": float, "z": float, "diameter_mm": float}
    )
    return Labels(
        candidates=read_candidates_csv(folder / f"{candidates}.csv"),
        nodules=read_nodules_csv(folder / "annotations.csv"),
        excluded=read_excluded_csv(excluded) if excluded.exists() else no_findings,
        malignancy=read_malignancy_csv(malignancy) if malignancy.exists() else None,
        series_uids=frozenset(read_series_uids(series_uids)) if series_uids.exists() else None,
    )


def read_candidates_csv(path: Path) -> pd.DataFrame:
    """Columns series_uid (a category), x, y, z [mm], is_nodule, in the file's order.

    Raises InputError naming file and line, as all these readers do.
    """
    file = CsvFile(path)
    frame = file.table(CANDIDATE_COLUMNS)
    wrong = ~frame["class"].isin([0, 1])
    if wrong.any():
        raise InputError(f"{file.line(wrong)}: class must be 0 or 1, got {frame['class'][wrong].iloc[0]:g}")
    return frame.assign(is_nodule=frame.pop("class") == 1)


def read_nodules_csv(path: Path) -> pd.DataFrame:
    """Columns series_uid, x, y, z, diameter_mm of annotations.csv."""
    file = CsvFile(path)
    frame = file.table(FINDING_COLUMNS)
    wrong = frame["diameter_mm"] <= 0
    if wrong.any():
        got = frame["diameter_mm"][wrong].iloc[0]
        raise InputError(f"{file.line(wrong)}: diameter_mm of a nodule must be positive, got {got:g}")
    return frame


def read_excluded_csv(path: Path) -> pd.DataFrame:
    """Columns as `read_nodules_csv`, of annotations_excluded.csv; an unknown diameter is negative there."""
    return CsvFile(path).table(FINDING_COLUMNS)


def read_malignancy_csv(path: Path) -> pd.DataFrame:
    """Columns series_uid, x, y, z, diameter_mm, is_malignant of annotations_with_malignancy.csv."""
    file = CsvFile(path)
    frame = file.table((*FINDING_COLUMNS, "mal_bool"), text=("mal_bool",))
    known = frame["mal_bool"].isin(["True", "False"])
    if not known.all():
        got = shown(frame["mal_bool"][~known].iloc[0])
        raise InputError(f"{file.line(~known)}: mal_bool must be True or False, got {got}")
    return frame.assign(is_malignant=frame.pop("mal_bool") == "True")
