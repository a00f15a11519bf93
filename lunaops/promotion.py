"""Whether a challenger may become the champion."""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lunaops.baseline import PREDICTIONS
from lunaops.comparison import Difference, telling_difference
from lunaops.errors import InputError
from lunaops.evaluated_data import differences, evaluated_data
from lunaops.params import EvaluateParams
from lunaops.scored_split import Reference, scored_split
from lunaops.tables import read_table
from lunaops.task import task_of
from lunaops.tracking import fetch_artifact
from lunaops.tracking_query import ModelVersion

_REFERENCE = {"nodules": "nodules.parquet", "excluded": "excluded.parquet", "scans": "scans.csv"}


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the evaluation of a version measured: the split, the predictions, and what the scans hold."""

    title: str
    split: str
    predictions: pd.DataFrame
    reference: Reference


def read_evidence(version: ModelVersion, alias: str) -> Evidence:
    """Fetch what the evaluation of a version logged; raises InputError where there is no such run or file."""
    title = f"{version.name} version {version.version} ({alias})"
    if version.evaluation_id is None or version.split is None:
        raise InputError(
            f"{title} has no evaluation as evidence: evaluate that model with evaluate.register: {version.name}"
        )
    run_id = version.evaluation_id
    with tempfile.TemporaryDirectory() as folder:
        names = {"predictions": PREDICTIONS, **_REFERENCE}
        tables = {name: read_table(fetch_artifact(run_id, file, Path(folder))) for name, file in names.items()}
    predictions = tables.pop("predictions")
    return Evidence(title, version.split, predictions, Reference(**tables, task=task_of(predictions)))


def compare_evidence(challenger: Evidence, champion: Evidence, params: EvaluateParams) -> Difference:
    """The challenger's CPM (of malignancy: ROC AUC) less the champion's, both measured anew by `params`.

    Both meet the same draws of scans. Raises InputError, which says how they differ, unless they were evaluated on the
    same scans, nodules, excluded findings and candidates.
    """
    both = challenger, champion
    tasks = [each.reference.task.name for each in both]
    if len(set(tasks)) > 1:
        differ = ["model.task " + " against ".join(tasks)]
    elif challenger.split != champion.split:
        differ = [f"split {challenger.split} against {champion.split}"]
    else:
        differ = differences(*(evaluated_data(each.split, each.predictions, each.reference) for each in both))
    if differ:
        raise InputError(
            f"{challenger.title} and {champion.title} were not evaluated on the same data: {'; '.join(differ)}; "
            "evaluate both on the same, each with evaluate.register, and promote again"
        )
    this, other = (scored_split(each.split, each.predictions, each.reference, params) for each in both)
    return telling_difference(this, other, params)


def objection(difference: Difference, margin: float) -> str | None:
    """Why the challenger may not be promoted, or None: it is not worse by more than `margin`.

    The rule is that of trials of non-inferiority (ICH E9): the lower end of the difference's 95 % interval is not below
    -margin, so all that chance leaves open lies within the margin. On few scans a challenger wants a margin or a clear
    lead; one with the same CPM in every draw needs neither.
    """
    if math.isnan(difference.low):
        return "the difference has no interval: it wants nodules in the scans, and evaluate.bootstraps above 0"
    if difference.low < -margin:
        return (
            f"the challenger may be worse by up to {-difference.low:.4f} (the lower end of the 95 % interval), "
            f"which is more than --margin {margin:g}"
        )
    return None
