"""The predictions that a run is compared with."""

import re
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import infer_dtype

from lunaops.errors import InputError
from lunaops.tables import XYZ, read_table
from lunaops.task import TASKS
from lunaops.tracking import fetch_artifact

RUN_ID = re.compile(r"[0-9a-f]{32}")  # as MLflow makes them
_CANDIDATE = ["split", "candidate_id"]
_LABELS = [task.label for task in TASKS.values()]  # of which a table has its task's
_NUMBER = ("floating", "integer")
_KINDS: dict[str, tuple[str, ...]] = {  # by column, as pandas names what its values are
    "split": ("string",),
    "candidate_id": ("integer",),
    "series_uid": ("string",),
    **dict.fromkeys([*XYZ, "score"], _NUMBER),
    **dict.fromkeys(_LABELS, ("boolean",)),
}
PREDICTIONS = "predictions.parquet"  # among the artifacts of an evaluate run


def read_baseline(compare_with: str | None) -> pd.DataFrame | None:
    """The predictions that `evaluate.compare_with` names, a file or an MLflow run; None: nothing to compare with.

    Raises InputError if there is no such file, run, or predictions among the run's artifacts, and where they are no
    table of predictions.
    """
    if compare_with is None:
        return None
    if Path(compare_with).is_file():
        return _read(Path(compare_with), compare_with)
    if not RUN_ID.fullmatch(compare_with):
        raise InputError(
            f"evaluate.compare_with {compare_with}: no such file, and no id of an MLflow run, which has 32 digits"
        )
    with tempfile.TemporaryDirectory() as folder:
        return _read(fetch_artifact(compare_with, PREDICTIONS, Path(folder)), compare_with)


def _read(path: Path, compare_with: str) -> pd.DataFrame:
    try:
        table = read_table(path)
    except (ValueError, OSError, LookupError, TypeError) as error:  # seen of pandas and Arrow on altered files
        reason = " ".join(str(error).split())
        raise InputError(f"evaluate.compare_with {compare_with}: no table of predictions: {reason}") from error
    if wrong := _wrong(table):
        raise InputError(
            f"evaluate.compare_with {compare_with}: {wrong}; give a predictions.parquet that predict wrote"
        )
    return table


def _wrong(table: pd.DataFrame) -> str:
    """What keeps a table from being predictions, each candidate once a split (of folds: pooled); empty: nothing."""
    missing = [name for name in _KINDS if name not in table and name not in _LABELS]
    if missing:
        return f"not predictions: lacks {', '.join(missing)}"
    for name, kinds in _KINDS.items():
        if name in table and (wrong := _wrong_values(table[name], kinds)):
            return f"not predictions: column {name} {wrong}"
    twice = table.duplicated(_CANDIDATE)
    if twice.any():
        first = table[twice].iloc[0]
        return (
            f"{int(twice.sum())} rows hold a candidate again, the first candidate {first['candidate_id']} of split "
            f"{first['split']}"
        )
    return ""


def _wrong_values(column: "pd.Series[Any]", kinds: tuple[str, ...]) -> str:
    unknown = column.isna()
    if unknown.any() and column.name != "score":  # a diverged model's are NaN
        return f"has no value in {int(unknown.sum())} rows"
    kind = infer_dtype(column[~unknown], skipna=False)
    return "" if kind in (*kinds, "empty") else f"is of kind {kind}, wanted is {' or '.join(kinds)}"
