"""Scores ranked from the highest down, equal ones together."""

import numpy as np
from numpy.typing import NDArray


def counts_at_thresholds(
    is_hit: NDArray[np.bool_], score: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Distinct scores, falling, after an infinite one, and how many hits and false alarms lie at or above each.

    Whole numbers where scikit-learn's roc_curve has rates, so that a curve can be read at 1/8 exactly; and all its
    points, also those on a straight line. With a NaN score nothing is ranked: the infinite one alone.
    """
    if np.isnan(score).any():
        is_hit, score = is_hit[:0], score[:0]
    order = np.argsort(score)[::-1]
    ends = ends_of_ties(score[order])
    hits = np.cumsum(is_hit[order])[ends]
    threshold = np.concatenate([[np.inf], score[order][ends]])
    return threshold, np.concatenate([[0], hits]), np.concatenate([[0], ends + 1 - hits])


def ends_of_ties(falling_score: NDArray[np.float64]) -> NDArray[np.int64]:
    """The last place of each run of equal scores."""
    return np.flatnonzero(np.diff(falling_score, append=-np.inf))
