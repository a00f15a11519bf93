"""Predictions of one split -> everything that is said about it in numbers."""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

import pandas as pd

from lunaops.bootstrap import FrocIntervals, Interval, froc_intervals, interval, ranking_of_draws
from lunaops.calibration import brier_score, expected_calibration_error, log_losses, reliability, scale
from lunaops.comparison import Comparison, compare
from lunaops.froc import COUNTS, Froc, froc
from lunaops.metrics import (
    PrecisionRecallCurve,
    RocCurve,
    classification_metrics,
    metrics_of_others,
    precision_recall,
    roc,
    sensitivity_by_diameter,
)
from lunaops.operating_point import OperatingPoint, operating_point
from lunaops.params import EvaluateParams
from lunaops.per_scan import scan_table, subset_table
from lunaops.scored_split import Reference, ScoredSplit, scored_split

logger = logging.getLogger(__name__)

Curve = TypeVar("Curve", Froc, RocCurve, PrecisionRecallCurve)
RANKING = ("roc_auc", "average_precision")  # what no temperature changes


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All that is said about one split; `metrics` by the names that MLflow and metrics.json use, without split.

    Scores and thresholds are those read at `point`: calibrated, where `evaluate.calibrate` asks for it. `intervals`
    are the FROC's and `ranking_intervals` those of roc_auc and average_precision, None and empty where
    `evaluate.bootstraps` is 0. `reliability` is of the scores as read, `uncalibrated` of those as they were predicted.
    `comparison` is None without a baseline.
    """

    params: EvaluateParams
    point: OperatingPoint
    predictions: pd.DataFrame
    metrics: dict[str, float]
    roc: RocCurve
    precision_recall: PrecisionRecallCurve
    froc: Froc
    intervals: FrocIntervals | None
    ranking_intervals: dict[str, Interval]
    bands: pd.DataFrame
    reliability: pd.DataFrame
    uncalibrated: pd.DataFrame
    scans: pd.DataFrame
    subsets: pd.DataFrame
    comparison: Comparison | None

    @property
    def threshold(self) -> float:
        """From here on a score is called nodule."""
        return self.point.threshold


def evaluate(
    predictions: pd.DataFrame,
    nodules: pd.DataFrame,
    excluded: pd.DataFrame,
    scans: pd.DataFrame,
    params: EvaluateParams,
    baseline: pd.DataFrame | None = None,
) -> Evaluation:
    """Evaluate the candidates of `params.split` against all scans of that split and all nodules in them.

    The tables are those of the stages; `baseline` is another model's predictions, to compare with. Ranks (FROC, ROC,
    precision and recall) are taken of the scores as predicted, so calibration changes none. What is undefined (no
    nodules, say) is NaN and named in one warning. Raises InputError if the split has no scans or no predictions, if
    predictions and scans do not belong together, if val does not allow what a rule asks, or if the baseline scored
    other candidates.
    """
    reference = Reference(nodules, excluded, scans)
    split = scored_split(params.split, predictions, reference, params)
    point = operating_point(predictions, reference, params)
    rates, draws = params.fps_per_scan, {"num_draws": params.bootstraps, "seed": params.seed}
    raw, read = split.predictions, _read(split.predictions, point)
    label = raw["is_nodule"]
    challenge = _rescaled(froc(split.events, fps_per_scan=rates), point)
    intervals = froc_intervals(split.events, fps_per_scan=rates, **draws)
    ranking_intervals = _ranking_intervals(split, params)
    table, curve = scan_table(split, point), reliability(label, read["score"], bins=params.calibration_bins)
    uncalibrated = reliability(label, raw["score"], bins=params.calibration_bins)
    comparison = None if baseline is None else compare(predictions, baseline, reference, params)
    evaluation = Evaluation(
        params=params,
        point=point,
        predictions=read,
        metrics=_challenge_metrics(challenge, intervals)
        | _detection_metrics(table, point)
        | _class_metrics(raw, read, point)
        | _ends(ranking_intervals)
        | _calibration_metrics(raw, read, point, curve, uncalibrated)
        | (comparison.metrics if comparison else {}),
        roc=_rescaled(roc(label, raw["score"]), point),
        precision_recall=_rescaled(precision_recall(label, raw["score"]), point),
        froc=challenge,
        intervals=intervals,
        ranking_intervals=ranking_intervals,
        bands=sensitivity_by_diameter(
            split.nodules, read, threshold=point.threshold, bands_mm=params.diameter_bands_mm
        ),
        reliability=curve,
        uncalibrated=uncalibrated,
        scans=table,
        subsets=subset_table(table),
        comparison=comparison,
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
        f"at threshold {evaluation.threshold:.3g} ({evaluation.params.threshold_rule}) "
        f"precision {numbers['pr/precision']:.3f}, recall {numbers['pr/recall']:.3f}"
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


def _challenge_metrics(result: Froc, intervals: FrocIntervals | None) -> dict[str, float]:
    return {
        "cpm": result.cpm,
        **{f"sensitivity_at/{rate:g}": sensitivity for rate, sensitivity in result.sensitivity_at.items()},
        **(_interval_metrics(result.sensitivity_at, intervals) if intervals else {}),
        **{f"froc/{name}": float(getattr(result, name)) for name in COUNTS},
    }


def _detection_metrics(scans: pd.DataFrame, point: OperatingPoint) -> dict[str, float]:
    """What the threshold amounts to by LUNA16's rules; the sensitivity NaN without nodules."""
    counts = scans[["found", "nodules", "false_positives"]].sum()
    return {
        "num_scans": float(len(scans)),
        "threshold": point.threshold,
        "at_threshold/sensitivity": float(counts["found"] / counts["nodules"]) if counts["nodules"] else math.nan,
        "at_threshold/fps_per_scan": float(counts["false_positives"] / len(scans)),
    }


def _class_metrics(raw: pd.DataFrame, read: pd.DataFrame, point: OperatingPoint) -> dict[str, float]:
    """The candidates' metrics at the threshold; those of the ranking from the scores as predicted."""
    metrics, as_predicted = (
        classification_metrics(rows["is_nodule"], rows["score"], rows["loss"], threshold=point.threshold)
        for rows in (read, raw)
    )
    return metrics | {name: as_predicted[name] for name in RANKING} | metrics_of_others(metrics)


def _calibration_metrics(
    raw: pd.DataFrame, read: pd.DataFrame, point: OperatingPoint, curve: pd.DataFrame, uncalibrated: pd.DataFrame
) -> dict[str, float]:
    """Calibration error and Brier score; where a temperature was fitted, also it and what was before."""
    label = raw["is_nodule"]
    metrics = {"ece": expected_calibration_error(curve), "brier_score": brier_score(label, read["score"])}
    if point.temperature == 1:
        return metrics
    return metrics | {
        "temperature": point.temperature,
        "uncalibrated/ece": expected_calibration_error(uncalibrated),
        "uncalibrated/brier_score": brier_score(label, raw["score"]),
        "uncalibrated/loss/all": float(raw["loss"].mean()),
    }


def _interval_metrics(rates: Iterable[float], intervals: FrocIntervals) -> dict[str, float]:
    """The ends of the 95 % intervals: cpm_lo, sensitivity_lo/1, ..."""
    metrics = {"cpm_lo": float(intervals.cpm.low), "cpm_hi": float(intervals.cpm.high)}
    for rate, low, high in zip(rates, intervals.sensitivity.low, intervals.sensitivity.high, strict=True):
        metrics |= {f"sensitivity_lo/{rate:g}": float(low), f"sensitivity_hi/{rate:g}": float(high)}
    return metrics


def _ends(intervals: dict[str, Interval]) -> dict[str, float]:
    ends = {name: (float(of.low), float(of.high)) for name, of in intervals.items()}
    return {
        f"{name}_{end}": value for name, pair in ends.items() for end, value in zip(("lo", "hi"), pair, strict=True)
    }


def _ranking_intervals(split: ScoredSplit, params: EvaluateParams) -> dict[str, Interval]:
    if not params.bootstraps:
        return {}
    series_uids = list(split.scans["series_uid"])
    draws = ranking_of_draws(split.predictions, series_uids, num_draws=params.bootstraps, seed=params.seed)
    return {name: interval(values) for name, values in draws.items()}


def _read(predictions: pd.DataFrame, point: OperatingPoint) -> pd.DataFrame:
    """The predictions with scores scaled by the temperature, and losses with them."""
    if point.temperature == 1:
        return predictions
    losses = log_losses(predictions["is_nodule"], predictions["score"], point.temperature)
    return point.read(predictions).assign(loss=losses)


def _rescaled(curve: Curve, point: OperatingPoint) -> Curve:
    """The curve with its thresholds as scores are read."""
    return replace(curve, threshold=scale(curve.threshold, point.temperature))


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
