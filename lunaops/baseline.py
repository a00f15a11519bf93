"""The predictions that a run is compared with."""

import re
import tempfile
from pathlib import Path

import pandas as pd

from lunaops.comparison import SAME
from lunaops.errors import InputError
from lunaops.tables import read_table
from lunaops.tracking import fetch_artifact

RUN_ID = re.compile(r"[0-9a-f]{32}")  # as MLflow makes them
_CANDIDATE = ["split", "candidate_id"]
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
    """The table at `path`, if it has the columns of predictions and each candidate once a split (of folds: pooled)."""
    try:
        table = read_table(path)
    except ValueError as error:  # of pandas and of Arrow
        reason = " ".join(str(error).split())
        raise InputError(f"evaluate.compare_with {compare_with}: no table of predictions: {reason}") from error
    missing = [name for name in (*_CANDIDATE, *SAME, "score") if name not in table]
    if missing:
        raise InputError(
            f"evaluate.compare_with {compare_with}: not predictions: lacks {', '.join(missing)}; "
            "give a predictions.parquet that predict wrote"
        )
    twice = table.duplicated(_CANDIDATE)
    if twice.any():
        first = table[twice].iloc[0]
        raise InputError(
            f"evaluate.compare_with {compare_with}: {int(twice.sum())} rows hold a candidate again, the first "
            f"candidate {first['candidate_id']} of split {first['split']}; give a "
            "predictions.parquet that predict wrote"
        )
    return table
