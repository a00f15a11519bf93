"""One split: its scored candidates, all its scans and nodules, and what the marks amount to."""

from dataclasses import dataclass

import pandas as pd

from lunaops.errors import InputError
from lunaops.froc import Events, match
from lunaops.params import EvaluateParams
from lunaops.task import NODULE, Task


@dataclass(frozen=True, eq=False)
class Reference:
    """What the scans hold, whatever was predicted, and what is asked of it.

    The tables are nodules, excluded and scans of the stages.
    """

    nodules: pd.DataFrame
    excluded: pd.DataFrame
    scans: pd.DataFrame
    task: Task = NODULE


@dataclass(frozen=True, eq=False)
class ScoredSplit:
    """The rows of one split; `events` say by LUNA16's rules which marks hit."""

    name: str
    task: Task
    predictions: pd.DataFrame
    scans: pd.DataFrame
    nodules: pd.DataFrame
    events: Events

    @property
    def label(self) -> "pd.Series[bool]":
        """Of each candidate whether it is of the positive class."""
        return self.predictions[self.task.label]


def scored_split(
    split: str, predictions: pd.DataFrame, reference: Reference, params: EvaluateParams, *, remedy: str = ""
) -> ScoredSplit:
    """Take the split's candidates, all its scans, and all nodules in them.

    Raises InputError if it has no scans or no predictions, or if predictions, scans and task do not belong together.
    """
    if reference.task.label not in predictions:
        raise InputError(
            f"the predictions have no column {reference.task.label}, so they are not of model.task "
            f"{reference.task.name}: predict with a model of that task"
        )
    scans = _of_split(reference.scans, split, "scan", remedy or "set evaluate.split, or split.val and split.test")
    of_split = _of_split(predictions, split, "scored candidate", remedy or "set evaluate.split, or predict.splits")
    series_uids = scans["series_uid"]
    _check_same_scans(of_split, series_uids, split)
    nodules = reference.nodules[reference.nodules["series_uid"].isin(series_uids)]
    events = match(
        of_split,
        nodules,
        reference.excluded,
        list(series_uids),
        unknown_diameter_mm=params.unknown_diameter_mm,
        max_marks_per_scan=params.max_marks_per_scan,
    )
    return ScoredSplit(split, reference.task, of_split, scans, nodules, events)


def _of_split(table: pd.DataFrame, split: str, kind: str, remedy: str) -> pd.DataFrame:
    rows = table[table["split"] == split].reset_index(drop=True)
    if rows.empty:
        others = ", ".join(sorted(table["split"].unique())) or "no split at all"
        raise InputError(f"no {kind} is in the split '{split}', only in {others}: {remedy}")
    return rows


def _check_same_scans(predictions: pd.DataFrame, series_uids: pd.Series, split: str) -> None:
    strangers = sorted(set(predictions["series_uid"]) - set(series_uids))
    if strangers:
        raise InputError(
            f"predictions of the split '{split}' name {len(strangers)} series that are not of that split in the scans "
            f"table, the first {strangers[0]}: run the predict stage again (with split.strategy candidate_stride, "
            "where a scan may have both, only val can be evaluated)"
        )
