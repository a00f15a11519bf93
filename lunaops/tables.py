"""The tables between the stages, read and written; DESIGN.md names their columns."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lunaops.errors import InputError
from lunaops.geometry import Grid

XYZ = ["x", "y", "z"]  # patient millimetres
_GRID_COLUMNS = ("shape", "spacing", "origin", "direction")


@dataclass(frozen=True)
class Scan:
    """A scan on disk; `path` is relative to the folder of the raw data."""

    series_uid: str
    subset: str
    path: str
    grid: Grid


def scan_table(scans: Sequence[Scan]) -> pd.DataFrame:
    """The columns of scans.csv that the scans themselves decide; `split` is decided elsewhere."""
    return pd.DataFrame(
        {
            "series_uid": [scan.series_uid for scan in scans],
            "subset": [scan.subset for scan in scans],
            "path": [scan.path for scan in scans],
            "shape": [json.dumps(scan.grid.shape_irc) for scan in scans],
            "spacing": [json.dumps(scan.grid.spacing_xyz) for scan in scans],
            "origin": [json.dumps(scan.grid.origin_xyz) for scan in scans],
            "direction": [json.dumps(scan.grid.direction) for scan in scans],
        }
    )


def grid_of(row: Mapping[Any, Any] | pd.Series) -> Grid:
    """The grid of a row of scans.csv."""
    shape, spacing, origin, direction = (json.loads(row[name]) for name in _GRID_COLUMNS)
    return Grid(tuple(shape), tuple(spacing), tuple(origin), tuple(tuple(axis) for axis in direction))


def spacing_irc_of(rows: pd.DataFrame, scans: pd.DataFrame) -> NDArray[np.float64]:
    """The voxels' mm of the scan of each row, (n, 3): between slices, rows, columns."""
    spacings = {
        uid: json.loads(spacing)[::-1] for uid, spacing in zip(scans["series_uid"], scans["spacing"], strict=True)
    }
    return np.array([spacings[series_uid] for series_uid in rows["series_uid"]], np.float64).reshape(-1, 3)


def read_table(path: Path) -> pd.DataFrame:
    """Read a .parquet or .csv table that a stage wrote; ids stay text. Raises InputError where it is missing."""
    if not path.is_file():
        raise InputError(f"{path}: no such table; run `dvc repro`, or `dvc pull` it")
    if path.suffix == ".csv":
        return pd.read_csv(path, dtype={"series_uid": str, "subset": str, "path": str, "split": str})
    return pd.read_parquet(path)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write `table` as .parquet or .csv, whatever its index; categories are written as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = table.astype(dict.fromkeys(table.select_dtypes("category").columns, str))
    if path.suffix == ".csv":
        table.to_csv(path, index=False, lineterminator="\n")
    else:
        table.to_parquet(path, index=False)
