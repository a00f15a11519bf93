"""The threshold from which on a score is called positive, chosen by a stated rule."""

import numpy as np
from numpy.typing import NDArray

from lunaops.errors import InputError
from lunaops.froc import Froc
from lunaops.ranking import counts_at_thresholds


def best_f1(is_positive: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """The score at which the candidates' F1 is highest, of several the highest.

    Raises InputError without positives, as every F1 is 0 then, and where a score is not a number.
    """
    threshold, hits, false_alarms = counts_at_thresholds(is_positive, score)
    if not hits[-1]:
        raise InputError(
            "evaluate.threshold_rule best_f1: no candidate of val is positive, so there is no best F1; "
            "set evaluate.threshold_rule: fixed"
        )
    f1_score = 2 * hits / (hits + false_alarms + hits[-1])
    return float(threshold[np.argmax(f1_score)])


def highest_sensitive(curve: Froc, min_sensitivity: float) -> float:
    """The highest score at which the curve has at least this sensitivity.

    Raises InputError where no mark reaches it, or without nodules.
    """
    enough = curve.sensitivity >= min_sensitivity
    if not enough.any():
        raise InputError(
            f"evaluate.threshold_rule sensitivity: no threshold finds {min_sensitivity:g} of val's nodules, all marks "
            f"together find {curve.true_positives} of {curve.nodules}; lower evaluate.min_sensitivity"
        )
    return float(curve.threshold[np.argmax(enough)])


def lowest_within(curve: Froc, score: NDArray[np.float64], max_fps_per_scan: float) -> float:
    """The lowest score of all candidates, `score` (n,), at which there are at most so many false positives per scan.

    It need not be a point of the curve, which has none for a mark that counts neither way. Raises InputError where even
    the highest score has more: nothing at all could be called positive.
    """
    too_low = curve.threshold[curve.fps_per_scan > max_fps_per_scan].max(initial=-np.inf)
    within = score[score > too_low]
    if not within.size:
        raise InputError(
            f"evaluate.threshold_rule fps_per_scan: on val already the highest score has more than "
            f"{max_fps_per_scan:g} false positives per scan; raise evaluate.max_fps_per_scan"
        )
    return float(within.min())
