"""The predictions that a run is compared with."""

import re
import tempfile
from pathlib import Path

import pandas as pd

from lunaops.errors import InputError
from lunaops.tables import read_table
from lunaops.tracking import fetch_artifact

RUN_ID = re.compile(r"[0-9a-f]{32}")  # as MLflow makes them
PREDICTIONS = "predictions.parquet"  # among the artifacts of an evaluate run


def read_baseline(compare_with: str | None) -> pd.DataFrame | None:
    """The predictions that `evaluate.compare_with` names, a file or an MLflow run; None: nothing to compare with.

    Raises InputError if there is no such file, run, or predictions among the run's artifacts.
    """
    if compare_with is None:
        return None
    if Path(compare_with).is_file():
        return read_table(Path(compare_with))
    if not RUN_ID.fullmatch(compare_with):
        raise InputError(
            f"evaluate.compare_with {compare_with}: no such file, and no id of an MLflow run, which has 32 digits"
        )
    with tempfile.TemporaryDirectory() as folder:
        return read_table(fetch_artifact(compare_with, PREDICTIONS, Path(folder)))
