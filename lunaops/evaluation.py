"""Predictions of one split -> everything that is said about it in numbers."""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from lunaops.bootstrap import FrocIntervals, froc_intervals
from lunaops.errors import InputError
from lunaops.froc import COUNTS, Froc, froc, match
from lunaops.metrics import (
    PrecisionRecallCurve,
    RocCurve,
    classification_metrics,
    precision_recall,
    roc,
    sensitivity_by_diameter,
)
from lunaops.params import EvaluateParams

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All that is said about one split; `metrics` by the names that MLflow and metrics.json use, without split.

    `intervals` are the FROC's, None where `evaluate.bootstraps` is 0.
    """

    params: EvaluateParams
    predictions: pd.DataFrame
    metrics: dict[str, float]
    roc: RocCurve
    precision_recall: PrecisionRecallCurve
    froc: Froc
    intervals: FrocIntervals | None
    bands: pd.DataFrame


def evaluate(
    predictions: pd.DataFrame,
    nodules: pd.DataFrame,
    excluded: pd.DataFrame,
    scans: pd.DataFrame,
    params: EvaluateParams,
) -> Evaluation:
    """Evaluate the candidates of `params.split` against all scans of that split and all nodules in them.

    The tables are those of the stages. What is undefined (no nodules, say) is NaN and named in one warning. Raises
    InputError if the split has no scans or no predictions, or if predictions and scans do not belong together.
    """
    scans_of_split = _of_split(scans, params.split, "scan", "evaluate.split, or split.val and split.test")
    of_split = _of_split(predictions, params.split, "scored candidate", "evaluate.split, or predict.splits")
    series_uids = scans_of_split["series_uid"]
    _check_same_scans(of_split, series_uids, params.split)
    nodules_of_split = nodules[nodules["series_uid"].isin(series_uids)]
    label, score = of_split["is_nodule"], of_split["score"]
    events = match(
        of_split,
        nodules_of_split,
        excluded,
        list(series_uids),
        unknown_diameter_mm=params.unknown_diameter_mm,
        max_marks_per_scan=params.max_marks_per_scan,
    )
    rates = params.fps_per_scan
    challenge = froc(events, fps_per_scan=rates)
    intervals = froc_intervals(events, fps_per_scan=rates, num_draws=params.bootstraps, seed=params.seed)
    by_class = classification_metrics(label, score, of_split["loss"], threshold=params.threshold)
    evaluation = Evaluation(
        params=params,
        predictions=of_split,
        metrics=_challenge_metrics(challenge, intervals) | {"num_scans": float(len(series_uids))} | by_class,
        roc=roc(label, score),
        precision_recall=precision_recall(label, score),
        froc=challenge,
        intervals=intervals,
        bands=sensitivity_by_diameter(
            nodules_of_split, of_split, threshold=params.threshold, bands_mm=params.diameter_bands_mm
        ),
    )
    _warn_of_undefined(evaluation)
    return evaluation


def headline(evaluation: Evaluation) -> str:
    """The numbers that a person looks for first, in one line."""
    numbers, result = evaluation.metrics, evaluation.froc
    rates = ", ".join(f"{sensitivity:.3f} at {rate:g}" for rate, sensitivity in result.sensitivity_at.items())
    interval = f", 95 % interval {numbers['cpm_lo']:.3f} to {numbers['cpm_hi']:.3f}" if evaluation.intervals else ""
    return (
        f"{evaluation.params.split}: CPM {result.cpm:.3f}{interval} (sensitivity {rates} false positives per scan), "
        f"average precision {numbers['average_precision']:.3f}, ROC AUC {numbers['roc_auc']:.3f}; "
        f"{result.true_positives} of {result.nodules} nodules marked in {numbers['num_scans']:.0f} scans; "
        f"at threshold {evaluation.params.threshold:g} precision {numbers['pr/precision']:.3f}, "
        f"recall {numbers['pr/recall']:.3f}"
    )


def tracked_metrics(evaluation: Evaluation) -> dict[str, float]:
    """The metrics by the names that MLflow knows them by: split/metric."""
    return {f"{evaluation.params.split}/{name}": value for name, value in evaluation.metrics.items()}


def _of_split(table: pd.DataFrame, split: str, kind: str, remedy: str) -> pd.DataFrame:
    rows = table[table["split"] == split].reset_index(drop=True)
    if rows.empty:
        others = ", ".join(sorted(table["split"].unique())) or "no split at all"
        raise InputError(f"no {kind} is in the split '{split}', only in {others}: set {remedy}")
    return rows


def _check_same_scans(predictions: pd.DataFrame, series_uids: pd.Series, split: str) -> None:
    strangers = sorted(set(predictions["series_uid"]) - set(series_uids))
    if strangers:
        raise InputError(
            f"predictions of the split '{split}' name {len(strangers)} series that are not of that split in the scans "
            f"table, the first {strangers[0]}: run the predict stage again (with split.strategy candidate_stride, "
            "where a scan may have both, only val can be evaluated)"
        )


def _challenge_metrics(result: Froc, intervals: FrocIntervals | None) -> dict[str, float]:
    return {
        "cpm": result.cpm,
        **{f"sensitivity_at/{rate:g}": sensitivity for rate, sensitivity in result.sensitivity_at.items()},
        **(_interval_metrics(result.sensitivity_at, intervals) if intervals else {}),
        **{f"froc/{name}": float(getattr(result, name)) for name in COUNTS},
    }


def _interval_metrics(rates: Iterable[float], intervals: FrocIntervals) -> dict[str, float]:
    """The ends of the 95 % intervals: cpm_lo, sensitivity_lo/1, ..."""
    metrics = {"cpm_lo": float(intervals.cpm.low), "cpm_hi": float(intervals.cpm.high)}
    for rate, low, high in zip(rates, intervals.sensitivity.low, intervals.sensitivity.high, strict=True):
        metrics |= {f"sensitivity_lo/{rate:g}": float(low), f"sensitivity_hi/{rate:g}": float(high)}
    return metrics


def _warn_of_undefined(evaluation: Evaluation) -> None:
    undefined = [name for name, value in evaluation.metrics.items() if math.isnan(value)]
    if undefined:
        logger.warning(
            "%s: %d nodules, %.0f candidates of nodules and %.0f others, so these are undefined, null in files and "
            "absent in MLflow: %s",
            evaluation.params.split,
            evaluation.froc.nodules,
            evaluation.metrics["num_pos"],
            evaluation.metrics["num_neg"],
            ", ".join(undefined),
        )
