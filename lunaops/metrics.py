"""Per-class numbers of a classification: arrays in, numbers out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from lunaops.ranking import counts_at_thresholds

NAN = float("nan")
Z_95 = 1.959963984540054  # standard deviations of a normal distribution to either side that hold 95 % of it


@dataclass(frozen=True, eq=False)
class RocCurve:
    """Rates at falling thresholds; all three (n,). The first threshold is infinite: nothing is called positive."""

    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]
    threshold: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PrecisionRecallCurve:
    """Precision and recall at falling thresholds; all three (n,), one point for each distinct score."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    threshold: NDArray[np.float64]


def classification_metrics(
    is_positive: ArrayLike, scores: ArrayLike, losses: ArrayLike, *, threshold: float
) -> dict[str, float]:
    """Losses, percentages correct, precision, recall, ranking and counts, by class; always the same keys.

    All three arrays are (n,). A score at or above the threshold is called positive. What is undefined is NaN:
    a mean over no candidate, precision where nothing is called positive, recall and average precision without
    positives, ROC AUC without both classes, F1 where there is neither a positive nor a call. A NaN score (diverged
    training) is never called positive and makes ROC AUC and average precision NaN.
    """
    label, score = _arrays(is_positive, scores)
    loss = np.asarray(losses, dtype=np.float64)
    if not label.shape == score.shape == loss.shape or label.ndim != 1:
        raise ValueError(f"wanted three arrays of one length, got {label.shape}, {score.shape}, {loss.shape}")
    called = score >= threshold
    hits, num_pos = int((called & label).sum()), int(label.sum())
    num_neg, false_alarms = len(label) - num_pos, int((called & ~label).sum())
    correct_neg = num_neg - false_alarms
    return {
        "loss/all": _mean(loss),
        "loss/neg": _mean(loss[~label]),
        "loss/pos": _mean(loss[label]),
        "correct/all": 100 * _ratio(hits + correct_neg, len(label)),
        "correct/neg": 100 * _ratio(correct_neg, num_neg),
        "correct/pos": 100 * _ratio(hits, num_pos),
        "pr/precision": _ratio(hits, hits + false_alarms),
        "pr/recall": _ratio(hits, num_pos),
        "pr/f1_score": _ratio(2 * hits, hits + false_alarms + num_pos),
        **ranking(label, score),
        "num_neg": float(num_neg),
        "num_pos": float(num_pos),
        "num_correct_neg": float(correct_neg),
        "num_correct_pos": float(hits),
    }


def metrics_of_others(metrics: Mapping[str, float]) -> dict[str, float]:
    """Precision, recall and F1 of the other class, the negatives, and specificity, which is its recall.

    `metrics` are those of `classification_metrics`. NaN where undefined: as there, with the classes changed over.
    """
    right, num_other = metrics["num_correct_neg"], int(metrics["num_neg"])
    called_other = int(right + metrics["num_pos"] - metrics["num_correct_pos"])
    recall = _ratio(right, num_other)
    return {
        "specificity": recall,
        "other/precision": _ratio(right, called_other),
        "other/recall": recall,
        "other/f1_score": _ratio(2 * right, called_other + num_other),
    }


def ranking(is_positive: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    """roc_auc and average_precision alone; NaN as in `classification_metrics`."""
    _, *ranked = counts_at_thresholds(*_arrays(is_positive, scores))
    return {"roc_auc": _roc_auc(*ranked), "average_precision": _average_precision(*ranked)}


def wilson_interval(part: ArrayLike, whole: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The ends of the 95 % interval of each share `part` of `whole` (Wilson 1927); NaN where the whole is 0."""
    size = np.asarray(whole, dtype=np.float64)
    size = np.where(size > 0, size, NAN)
    share = np.asarray(part, dtype=np.float64) / size
    middle = share + Z_95**2 / (2 * size)
    half = Z_95 * np.sqrt(share * (1 - share) / size + Z_95**2 / (4 * size**2))
    low, high = ((middle + side * half) / (1 + Z_95**2 / size) for side in (-1, 1))
    return np.where(share == 0, 0.0, low), np.where(share == 1, 1.0, high)  # what they are but for rounding


def roc(is_positive: ArrayLike, scores: ArrayLike) -> RocCurve:
    """The ROC curve with all its points; empty unless both classes are present and every score is a number."""
    threshold, hits, false_alarms = counts_at_thresholds(*_arrays(is_positive, scores))
    if len(hits) == 1 or not hits[-1] or not false_alarms[-1]:
        return RocCurve(*np.empty((3, 0)))
    return RocCurve(false_alarms / false_alarms[-1], hits / hits[-1], threshold)


def precision_recall(is_positive: ArrayLike, scores: ArrayLike) -> PrecisionRecallCurve:
    """The precision-recall curve; empty without positives, or where a score is not a number.

    Scikit-learn's closing point (precision 1, recall 0), where no threshold stands, is left out.
    """
    threshold, hits, false_alarms = counts_at_thresholds(*_arrays(is_positive, scores))
    if not hits[-1]:
        return PrecisionRecallCurve(*np.empty((3, 0)))
    hits, false_alarms, threshold = hits[1:], false_alarms[1:], threshold[1:]
    return PrecisionRecallCurve(hits / (hits + false_alarms), hits / hits[-1], threshold)


def sensitivity_by_diameter(
    nodules: pd.DataFrame, predictions: pd.DataFrame, *, threshold: float, bands_mm: Sequence[float]
) -> pd.DataFrame:
    """Per band [low, high) of the diameter: how many nodules there are and how many were found.

    `nodules` needs nodule_id and diameter_mm, `predictions` nodule_id and score. A nodule is found if any of its
    candidates scores at or above the threshold; one without candidates is not found and still counts. One row a
    band: low_mm, high_mm, nodules, found, sensitivity, sensitivity_lo, sensitivity_hi: its 95 % interval (Wilson); NaN
    in an empty band. A nodule outside all bands is in none.
    """
    called = predictions.loc[predictions["score"] >= threshold, "nodule_id"]
    is_found = nodules["nodule_id"].isin(called).to_numpy()
    diameter = nodules["diameter_mm"].to_numpy()
    rows = []
    for low, high in pairwise(bands_mm):
        inside = (low <= diameter) & (diameter < high)
        num_nodules, num_found = int(inside.sum()), int((inside & is_found).sum())
        rows.append((float(low), float(high), num_nodules, num_found, _ratio(num_found, num_nodules)))
    bands = pd.DataFrame(rows, columns=["low_mm", "high_mm", "nodules", "found", "sensitivity"])
    low_end, high_end = wilson_interval(bands["found"], bands["nodules"])
    return bands.assign(sensitivity_lo=low_end, sensitivity_hi=high_end)


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else NAN


def _ratio(part: float, whole: int) -> float:
    return part / whole if whole else NAN


def _arrays(is_positive: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    return np.asarray(is_positive, dtype=bool), np.asarray(scores, dtype=np.float64)


def _roc_auc(hits: NDArray[np.int64], false_alarms: NDArray[np.int64]) -> float:
    """The area under straight lines between the points, so that ties count half."""
    return _ratio(float(np.trapezoid(hits, false_alarms)), int(hits[-1]) * int(false_alarms[-1]))


def _average_precision(hits: NDArray[np.int64], false_alarms: NDArray[np.int64]) -> float:
    """Precision at each threshold, weighted with the recall gained there (as scikit-learn: no interpolation)."""
    precision = hits[1:] / (hits[1:] + false_alarms[1:])
    return _ratio(float((np.diff(hits) * precision).sum()), int(hits[-1]))
