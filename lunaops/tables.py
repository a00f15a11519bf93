"""The tables between the stages, read and written; DESIGN.md names their columns."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lunaops.errors import InputError
from lunaops.geometry import Grid

XYZ = ["x", "y", "z"]  # patient millimetres
_GRID_COLUMNS = ("shape", "spacing", "origin", "direction")


def grid_of(row: Mapping[Any, Any] | pd.Series) -> Grid:
    """The grid of a row of scans.csv."""
    shape, spacing, origin, direction = (json.loads(row[name]) for name in _GRID_COLUMNS)
    return Grid(tuple(shape), tuple(spacing), tuple(origin), tuple(tuple(axis) for axis in direction))


def read_table(path: Path) -> pd.DataFrame:
    """Read a .parquet or .csv table that a stage wrote; ids stay text. Raises InputError where it is missing."""
    if not path.is_file():
        raise InputError(f"{path}: no such table; run `dvc repro`, or `dvc pull` it")
    if path.suffix == ".csv":
        return pd.read_csv(path, dtype={"series_uid": str, "subset": str, "path": str, "split": str})
    return pd.read_parquet(path)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write `table` as .parquet or .csv, whatever its index."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        table.to_csv(path, index=False, lineterminator="\n")
    else:
        table.to_parquet(path, index=False)
