"""Predictions of one split -> everything that is said about it in numbers."""

import logging
import math
from dataclasses import dataclass, replace
from typing import TypeVar

import pandas as pd

from lunaops.bootstrap import Interval, interval, ranking_of_draws
from lunaops.calibration import brier_score, expected_calibration_error, log_losses, reliability, scale
from lunaops.comparison import Comparison, compare
from lunaops.detection import Detection, detect
from lunaops.metrics import (
    PrecisionRecallCurve,
    RocCurve,
    classification_metrics,
    metrics_of_others,
    precision_recall,
    ranking,
    roc,
)
from lunaops.operating_point import OperatingPoint, operating_point
from lunaops.params import EvaluateParams
from lunaops.scored_split import Reference, ScoredSplit, scored_split
from lunaops.task import NODULE, Task

logger = logging.getLogger(__name__)

Curve = TypeVar("Curve", RocCurve, PrecisionRecallCurve)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All that is said about one split; `metrics` by the names that MLflow and metrics.json use, without split.

    Scores and thresholds are those read at `point`: calibrated, where `evaluate.calibrate` asks for it. `detection` is
    None where the task is none, `roc_by_diameter` (the nodules' diameter for a score) where it is one.
    `ranking_intervals` are those of roc_auc and average_precision, empty where `evaluate.bootstraps` is 0.
    `reliability` is of the scores as read, `uncalibrated` of those as they were predicted. `comparison` is None without
    a baseline.
    """

    task: Task
    params: EvaluateParams
    point: OperatingPoint
    predictions: pd.DataFrame
    metrics: dict[str, float]
    roc: RocCurve
    precision_recall: PrecisionRecallCurve
    detection: Detection | None
    roc_by_diameter: RocCurve | None
    ranking_intervals: dict[str, Interval]
    reliability: pd.DataFrame
    uncalibrated: pd.DataFrame
    comparison: Comparison | None

    @property
    def threshold(self) -> float:
        """From here on a score is called positive."""
        return self.point.threshold

    @property
    def label(self) -> "pd.Series[bool]":
        """Of each candidate whether it is of the positive class."""
        return self.predictions[self.task.label]

    @property
    def num_nodules(self) -> int:
        """All nodules of the scans where they are to be found, else those that were told apart."""
        return self.detection.froc.nodules if self.detection else self.predictions["nodule_id"].nunique()


def evaluate(
    predictions: pd.DataFrame,
    nodules: pd.DataFrame,
    excluded: pd.DataFrame,
    scans: pd.DataFrame,
    params: EvaluateParams,
    baseline: pd.DataFrame | None = None,
    task: Task = NODULE,
) -> Evaluation:
    """Evaluate the candidates of `params.split` against all scans of that split and all nodules in them.

    The tables are those of the stages; `baseline` is another model's predictions, to compare with. Where the `task` is
    no detection, what LUNA16's rules count in scans is left out, and ranking by diameter alone stands beside the
    model's. Ranks (FROC, ROC, precision and recall) are taken of the scores as predicted, so calibration changes none.
    What is undefined (no nodules, say) is NaN and named in one warning. Raises InputError if the split has no scans or
    no predictions, if predictions, scans and task do not belong together, if val does not allow what a rule asks, or if
    the baseline scored other candidates.
    """
    reference = Reference(nodules, excluded, scans, task)
    split = scored_split(params.split, predictions, reference, params)
    point = operating_point(predictions, reference, params)
    raw, read, label = split.predictions, _read(split, point), split.label
    detection = detect(split, point, params) if task.is_detection else None
    by_diameter = None if task.is_detection else _diameters(split)
    ranking_intervals = _ranking_intervals(split, params)
    curve = reliability(label, read["score"], bins=params.calibration_bins)
    uncalibrated = reliability(label, raw["score"], bins=params.calibration_bins)
    comparison = None if baseline is None else compare(predictions, baseline, reference, params)
    evaluation = Evaluation(
        task=task,
        params=params,
        point=point,
        predictions=read,
        metrics=(detection.challenge_metrics if detection else {})
        | {"num_scans": float(len(split.scans)), "threshold": point.threshold}
        | (detection.threshold_metrics if detection else {})
        | _class_metrics(split, read, point)
        | ({} if by_diameter is None else {"by_diameter/roc_auc": ranking(label, by_diameter)["roc_auc"]})
        | _ends(ranking_intervals)
        | _calibration_metrics(split, read, point, curve, uncalibrated)
        | (comparison.metrics if comparison else {}),
        roc=_rescaled(roc(label, raw["score"]), point),
        precision_recall=_rescaled(precision_recall(label, raw["score"]), point),
        detection=detection,
        roc_by_diameter=None if by_diameter is None else roc(label, by_diameter),
        ranking_intervals=ranking_intervals,
        reliability=curve,
        uncalibrated=uncalibrated,
        comparison=comparison,
    )
    _warn_of_undefined(evaluation)
    return evaluation


def headline(evaluation: Evaluation) -> str:
    """The numbers that a person looks for first, in one line."""
    numbers = evaluation.metrics
    return (
        f"{evaluation.params.split}: {_of_task(evaluation)}; "
        f"at threshold {evaluation.threshold:.3g} ({evaluation.params.threshold_rule}) "
        f"precision {numbers['pr/precision']:.3f}, recall {numbers['pr/recall']:.3f}"
    )


def _of_task(evaluation: Evaluation) -> str:
    """What tells most of the task."""
    numbers, task = evaluation.metrics, evaluation.task
    low, high = (numbers.get(f"{task.telling}_{end}") for end in ("lo", "hi"))
    interval = "" if low is None or math.isnan(low) else f", 95 % interval {low:.3f} to {high:.3f}"
    average_precision = f"average precision {numbers['average_precision']:.3f}"
    if evaluation.detection is None:
        return (
            f"ROC AUC {numbers['roc_auc']:.3f}{interval} ({numbers['by_diameter/roc_auc']:.3f} by diameter alone), "
            f"{average_precision}; {numbers['num_pos']:.0f} candidates of {task.positives}, "
            f"{numbers['num_neg']:.0f} of {task.negatives}"
        )
    result = evaluation.detection.froc
    rates = ", ".join(f"{sensitivity:.3f} at {rate:g}" for rate, sensitivity in result.sensitivity_at.items())
    return (
        f"CPM {result.cpm:.3f}{interval} (sensitivity {rates} false positives per scan), "
        f"{average_precision}, ROC AUC {numbers['roc_auc']:.3f}; "
        f"{result.true_positives} of {result.nodules} nodules marked in {numbers['num_scans']:.0f} scans"
    )


def told(evaluation: Evaluation) -> list[str]:
    """What a person is told: the headline, then the temperature and the comparison where there are such."""
    lines, numbers = [headline(evaluation)], evaluation.metrics
    if evaluation.point.temperature != 1:
        lines.append(
            f"calibrated: temperature {numbers['temperature']:.3f}, calibration error "
            f"{numbers['uncalibrated/ece']:.4f} -> {numbers['ece']:.4f}, "
            f"Brier score {numbers['uncalibrated/brier_score']:.4f} -> {numbers['brier_score']:.4f}"
        )
    return lines + ([evaluation.comparison.sentence] if evaluation.comparison else [])


def tracked_metrics(evaluation: Evaluation) -> dict[str, float]:
    """The metrics by the names that MLflow knows them by: split/metric."""
    return {f"{evaluation.params.split}/{name}": value for name, value in evaluation.metrics.items()}


def _diameters(split: ScoredSplit) -> pd.Series:
    """The diameter [mm] of each candidate's nodule: a score that asks for no model (the book's baseline)."""
    return split.predictions["nodule_id"].map(split.nodules.set_index("nodule_id")["diameter_mm"])


def _class_metrics(split: ScoredSplit, read: pd.DataFrame, point: OperatingPoint) -> dict[str, float]:
    """The candidates' metrics at the threshold; those of the ranking from the scores as predicted."""
    metrics = classification_metrics(split.label, read["score"], read["loss"], threshold=point.threshold)
    return metrics | ranking(split.label, split.predictions["score"]) | metrics_of_others(metrics)


def _calibration_metrics(
    split: ScoredSplit, read: pd.DataFrame, point: OperatingPoint, curve: pd.DataFrame, uncalibrated: pd.DataFrame
) -> dict[str, float]:
    """Calibration error and Brier score; where a temperature was fitted, also it and what was before."""
    raw, label = split.predictions, split.label
    metrics = {"ece": expected_calibration_error(curve), "brier_score": brier_score(label, read["score"])}
    if point.temperature == 1:
        return metrics
    return metrics | {
        "temperature": point.temperature,
        "uncalibrated/ece": expected_calibration_error(uncalibrated),
        "uncalibrated/brier_score": brier_score(label, raw["score"]),
        "uncalibrated/loss/all": float(raw["loss"].mean()),
    }


def _ends(intervals: dict[str, Interval]) -> dict[str, float]:
    ends = {name: (float(of.low), float(of.high)) for name, of in intervals.items()}
    return {
        f"{name}_{end}": value for name, pair in ends.items() for end, value in zip(("lo", "hi"), pair, strict=True)
    }


def _ranking_intervals(split: ScoredSplit, params: EvaluateParams) -> dict[str, Interval]:
    if not params.bootstraps:
        return {}
    series_uids = list(split.scans["series_uid"])
    draws = ranking_of_draws(
        split.predictions, split.task.label, series_uids, num_draws=params.bootstraps, seed=params.seed
    )
    return {name: interval(values) for name, values in draws.items()}


def _read(split: ScoredSplit, point: OperatingPoint) -> pd.DataFrame:
    """The predictions with scores scaled by the temperature, and losses with them."""
    if point.temperature == 1:
        return split.predictions
    losses = log_losses(split.label, split.predictions["score"], point.temperature)
    return point.read(split.predictions).assign(loss=losses)


def _rescaled(curve: Curve, point: OperatingPoint) -> Curve:
    """The curve with its thresholds as scores are read."""
    return replace(curve, threshold=scale(curve.threshold, point.temperature))


def _warn_of_undefined(evaluation: Evaluation) -> None:
    undefined = [name for name, value in evaluation.metrics.items() if math.isnan(value)]
    if undefined:
        logger.warning(
            "%s: %d nodules, candidates: %.0f %s and %.0f %s, so these are undefined, null in files and absent in "
            "MLflow: %s",
            *(evaluation.params.split, evaluation.num_nodules),
            *(evaluation.metrics["num_pos"], evaluation.task.positive),
            *(evaluation.metrics["num_neg"], evaluation.task.negative),
            ", ".join(undefined),
        )
