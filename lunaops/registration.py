"""An evaluation as evidence of a registered model."""

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from lunaops.evaluated_data import digest_of, evaluated_data
from lunaops.evaluation import Evaluation, headline
from lunaops.provenance import content_digest
from lunaops.scored_split import Reference
from lunaops.tracking import Tracker
from lunaops.tracking_registry import SPLIT_TAG

REFERENCE = ("nodules", "excluded", "scans")  # the tables that `python -m lunaops promote` evaluates anew with
_NUMBERS = ("cpm", "cpm_lo", "cpm_hi", "roc_auc", "roc_auc_lo", "roc_auc_hi")


def register(
    evaluation: Evaluation, tables: Mapping[str, pd.DataFrame], inputs: Mapping[str, Path], tracker: Tracker
) -> None:
    """Register the trained model under `evaluate.register`, with this evaluation as evidence; null: do nothing.

    `tables` and the files `inputs` that hold them are predictions, nodules, excluded and scans, the latter three logged
    beside the predictions.
    """
    name = evaluation.params.register_as
    if name is None:
        return
    for table in REFERENCE:
        tracker.log_artifact(inputs[table])
    evidence = evidence_of(evaluation, tables) | {"dvc.predictions": content_digest(inputs["predictions"])}
    tracker.register_model(name, evidence=evidence, description=headline(evaluation))


def evidence_of(evaluation: Evaluation, tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """The split, CPM and ROC AUC with their intervals where defined, and a hash of what they were measured on."""
    split, numbers = evaluation.params.split, evaluation.metrics
    reference = Reference(**{name: tables[name] for name in REFERENCE}, task=evaluation.task)
    data = evaluated_data(split, tables["predictions"], reference)
    known = {name: numbers[name] for name in _NUMBERS if not math.isnan(numbers.get(name, math.nan))}
    return {
        SPLIT_TAG: split,
        **{f"lunaops.{name}": f"{value:.6f}" for name, value in known.items()},
        "lunaops.evaluated_data": digest_of(data),
    }
