"""Whether a score is a probability, and temperature scaling, which makes it more of one.

Guo et al., On Calibration of Modern Neural Networks, ICML 2017. A score is a softmax over two classes, so its logit
is log(p / (1 - p)).
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from lunaops.metrics import wilson_interval

BEYOND_FLOAT32 = (2.0**-150, 1 - 2.0**-25)  # nearer to 0 and to 1 than a softmax in float32 comes without being it
TEMPERATURES = (0.05, 20.0)  # where a temperature is looked for; an end is taken if the best lies beyond it
HALVINGS = 60  # of that range, until it is narrower than float64 tells


def fit_temperature(is_positive: ArrayLike, scores: ArrayLike) -> float:
    """The temperature that makes the mean log loss of these candidates, those of val, smallest.

    At most 20 and at least 0.05: where all scores are on their right side of 1/2, any lower one would be better still.
    Where all scores are 1/2, any temperature does: 1. Raises ValueError without both classes, or for a NaN.
    """
    label, logit = np.asarray(is_positive, dtype=bool), _logit(scores)
    if label.all() or not label.any() or np.isnan(logit).any():
        raise ValueError("a temperature wants candidates of both classes, and scores that are numbers")
    if not logit.any():
        return 1.0
    low, high = np.log(TEMPERATURES)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        # The loss is convex in 1 / temperature: it rises with it where the labels want smaller logits.
        if ((_sigmoid(logit / np.exp(middle)) - label) * logit).mean() > 0:
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))


def scale(scores: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """Scores whose logits are divided by the temperature; of temperature 1 the scores as they are.

    Never falls where the score rises. An infinite threshold stays infinite, a NaN stays NaN.
    """
    score = np.asarray(scores, dtype=np.float64)
    if temperature == 1:
        return score
    return np.where(np.isposinf(score), np.inf, _sigmoid(_logit(score) / temperature))


def log_losses(is_positive: ArrayLike, scores: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """The log loss of each candidate whose score is scaled by the temperature; (n,)."""
    label, logit = np.asarray(is_positive, dtype=bool), _logit(scores) / temperature
    return np.logaddexp(0.0, np.where(label, -logit, logit))


def reliability(is_positive: ArrayLike, scores: ArrayLike, *, bins: int) -> pd.DataFrame:
    """The reliability curve over bins of equal width, a row a bin, also an empty one.

    Columns low, high, candidates, positives, mean_score, share (of positives), share_lo, share_hi: its 95 % interval
    (Wilson). A bin holds its upper end, the first also 0, as in scikit-learn's calibration_curve. What an empty bin
    lacks is NaN; so are all of a NaN score, which is in no bin.
    """
    label, score = np.asarray(is_positive, dtype=bool), np.asarray(scores, dtype=np.float64)
    known = ~np.isnan(score)
    edges = np.linspace(0, 1, bins + 1)
    place = np.searchsorted(edges[1:-1], score[known])
    total = np.bincount(place, minlength=bins)
    positives = np.bincount(place[label[known]], minlength=bins)
    size = np.where(total > 0, total, np.nan)
    low, high = wilson_interval(positives, total)
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "candidates": total,
            "positives": positives,
            "mean_score": np.bincount(place, weights=score[known], minlength=bins) / size,
            "share": positives / size,
            "share_lo": low,
            "share_hi": high,
        }
    )


def expected_calibration_error(curve: pd.DataFrame) -> float:
    """The mean distance of score and share of positives over the bins of `reliability`, weighted with their candidates.

    NaN without candidates.
    """
    filled = curve[curve["candidates"] > 0]
    if filled.empty:
        return float("nan")
    gap = (filled["mean_score"] - filled["share"]).abs().to_numpy()
    return float(np.average(gap, weights=filled["candidates"].to_numpy()))


def brier_score(is_positive: ArrayLike, scores: ArrayLike) -> float:
    """The mean squared distance of score and class (0, 1); NaN without candidates or where a score is NaN."""
    score = np.asarray(scores, dtype=np.float64)
    return float(np.mean((score - np.asarray(is_positive, dtype=bool)) ** 2)) if len(score) else float("nan")


def _logit(scores: ArrayLike) -> NDArray[np.float64]:
    score = np.clip(np.asarray(scores, dtype=np.float64), *BEYOND_FLOAT32)
    return np.log(score) - np.log1p(-score)


def _sigmoid(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # a score that is NaN stays NaN
        return np.exp(-np.logaddexp(0.0, -logit))
