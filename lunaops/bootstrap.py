"""How far a result would differ had other scans been drawn: bootstraps over scans."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lunaops.froc import Events
from lunaops.ranking import ends_of_ties

PERCENT = (2.5, 97.5)  # of the draws: the 95 % interval
DRAWS_AT_ONCE = 500
POINTS_PER_OCTAVE = 32  # of the band along the curve


@dataclass(frozen=True, eq=False)
class Interval:
    """Mean of the draws, and their 2.5th and 97.5th percentiles (joined linearly, as numpy does); all of one shape."""

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FrocIntervals:
    """Of a FROC: intervals at the wanted rates (rates,), of their mean, the CPM (), and along the curve (points,)."""

    sensitivity: Interval
    cpm: Interval
    curve_fps_per_scan: NDArray[np.float64]
    curve: Interval
    num_draws: int
    seed: int


def froc_intervals(events: Events, *, fps_per_scan: Sequence[float], num_draws: int, seed: int) -> FrocIntervals | None:
    """The 95 % intervals of `froc` from bootstraps over scans; None where `num_draws` is 0."""
    if not num_draws:
        return None
    first, last = fps_per_scan[0], fps_per_scan[-1]
    fine = np.geomspace(first, last, 2 + int(POINTS_PER_OCTAVE * np.log2(last / first)))
    draws = sensitivity_of_draws(events, [*fps_per_scan, *fine], num_draws=num_draws, seed=seed)
    wanted, along = np.split(draws, [len(fps_per_scan)], axis=1)
    return FrocIntervals(
        sensitivity=interval(wanted),
        cpm=interval(wanted.mean(axis=1)),
        curve_fps_per_scan=fine,
        curve=interval(along),
        num_draws=num_draws,
        seed=seed,
    )


def sensitivity_of_draws(
    events: Events, fps_per_scan: Sequence[float], *, num_draws: int, seed: int
) -> NDArray[np.float64]:
    """Sensitivities (num_draws, rates) at false positives per scan, each draw of as many scans as there are.

    Scans are drawn with replacement; one drawn twice counts twice, with its nodules and marks. Draw k takes the scans
    `default_rng([seed, k]).integers(n, size=n)`: other events of the same list of scans meet the same draws, so the
    difference of two results is a paired one. A draw without a nodule has no sensitivity: NaN.

    Exact: false positives between two neighbouring hits lie on a level part of the curve, so their number in each
    scan is all that a draw needs. Memory: 32 bytes x scans x nodules found, and as much for the draws at once.
    """
    num_scans, rates = len(events.nodules_per_scan), np.asarray(fps_per_scan, dtype=np.float64)
    result = np.full((num_draws, len(rates)), np.nan)
    for drawn in _draws(events.scan, events.score, events.is_hit, num_scans, num_draws=num_draws, seed=seed):
        num_nodules = drawn.weight @ events.nodules_per_scan
        for place in np.flatnonzero(num_nodules):
            rate, sensitivity = drawn.false_alarms[place] / num_scans, drawn.hits[place] / num_nodules[place]
            result[drawn.first + place] = np.interp(rates, rate, sensitivity)
    return result


def ranking_of_draws(
    predictions: pd.DataFrame, label: str, series_uids: Sequence[str], *, num_draws: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Ranking of the candidates in each draw of scans: roc_auc and average_precision, each (num_draws,).

    Columns series_uid, score, and the `label`, a bool; all series of the candidates must be listed, each once. The
    draws are those of `sensitivity_of_draws`. A draw without positives has neither number, one without negatives no
    ROC AUC: NaN. Exact, as there: only how many others lie between two neighbouring positives' scores matters.
    """
    order = np.argsort(predictions["score"].to_numpy(np.float64), kind="stable")[::-1]
    scan = pd.Index(series_uids).get_indexer(pd.Index(predictions["series_uid"]))[order]
    assert (scan >= 0).all(), "a candidate's scan is not listed"
    score, is_positive = (predictions[name].to_numpy()[order] for name in ("score", label))
    areas = np.full((2, num_draws), np.nan)
    for drawn in _draws(scan, score, is_positive.astype(bool), len(series_uids), num_draws=num_draws, seed=seed):
        hits, wrong = drawn.hits, drawn.false_alarms
        num_pos, num_neg = hits[:, -1], wrong[:, -1]
        precision = np.divide(hits, hits + wrong, out=np.zeros_like(hits), where=hits > 0)
        gained = (np.diff(hits, axis=1) * precision[:, 1:]).sum(axis=1)
        under = np.trapezoid(hits, wrong, axis=1)
        here = areas[:, drawn.first : drawn.first + len(hits)]
        np.divide(under, num_pos * num_neg, out=here[0], where=num_pos * num_neg > 0)
        np.divide(gained, num_pos, out=here[1], where=num_pos > 0)
    return {"roc_auc": areas[0], "average_precision": areas[1]}


def interval(draws: NDArray[np.float64]) -> Interval:
    """The interval over the first axis; draws with a NaN are left out, and without any other all is NaN."""
    known = draws[~np.isnan(draws).any(axis=tuple(range(1, draws.ndim)))]
    if not len(known):
        return Interval(*np.full((3, *draws.shape[1:]), np.nan))
    return Interval(known.mean(axis=0), *np.percentile(known, PERCENT, axis=0))


def _times_drawn(num_scans: int, seed: int, draw: int) -> NDArray[np.float64]:
    scans = np.random.default_rng([seed, draw]).integers(num_scans, size=num_scans)
    return np.bincount(scans, minlength=num_scans).astype(np.float64)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Draws made at once, from the `first` on: how often each scan is in each (draws, scans); their curves' counts.

    `hits` and `false_alarms` (draws, steps) rise from zero to all of the draw.
    """

    first: int
    weight: NDArray[np.float64]
    hits: NDArray[np.float64]
    false_alarms: NDArray[np.float64]


def _draws(
    scan: NDArray[np.int64],
    falling_score: NDArray[np.float64],
    is_hit: NDArray[np.bool_],
    num_scans: int,
    *,
    num_draws: int,
    seed: int,
) -> Iterator[_Drawn]:
    counts = _counts_between_hits(scan, falling_score, is_hit, num_scans)
    for first in range(0, num_draws, DRAWS_AT_ONCE):
        draws = range(first, min(first + DRAWS_AT_ONCE, num_draws))
        weight = np.stack([_times_drawn(num_scans, seed, draw) for draw in draws])
        yield _Drawn(first, weight, *(np.cumsum(weight @ count, axis=1) for count in counts))


def _counts_between_hits(
    scan: NDArray[np.int64], falling_score: NDArray[np.float64], is_hit: NDArray[np.bool_], num_scans: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Hits and false positives (scans, steps) in each step of the curve: level, rising, level, ... from the top.

    A rising step is a run of equal scores that holds a hit. The first column is zero: no mark at all.
    """
    ends = ends_of_ties(falling_score)
    run = np.searchsorted(ends, np.arange(len(falling_score)))
    rises = np.bincount(run[is_hit], minlength=len(ends)) > 0
    step = (1 + 2 * np.cumsum(rises) - rises)[run]
    shape = num_scans, 2 * int(rises.sum()) + 2
    place = scan * shape[1] + step
    counts = [np.bincount(place[kind], minlength=shape[0] * shape[1]) for kind in (is_hit, ~is_hit)]
    hits, false_alarms = (count.reshape(shape).astype(np.float64) for count in counts)
    return hits, false_alarms
