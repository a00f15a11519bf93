"""How far a FROC would differ had other scans been drawn: a bootstrap over scans."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
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
    hits, false_alarms = _counts_between_hits(events)
    num_scans, rates = len(events.nodules_per_scan), np.asarray(fps_per_scan, dtype=np.float64)
    result = np.empty((num_draws, len(rates)))
    for first in range(0, num_draws, DRAWS_AT_ONCE):
        draws = range(first, min(first + DRAWS_AT_ONCE, num_draws))
        weight = np.stack([_times_drawn(num_scans, seed, draw) for draw in draws])
        num_nodules = weight @ events.nodules_per_scan
        found, wrong = (np.cumsum(weight @ counts, axis=1) for counts in (hits, false_alarms))
        for place, draw in enumerate(draws):
            if num_nodules[place]:
                result[draw] = np.interp(rates, wrong[place] / num_scans, found[place] / num_nodules[place])
            else:
                result[draw] = np.nan
    return result


def interval(draws: NDArray[np.float64]) -> Interval:
    """The interval over the first axis; draws with a NaN are left out, and without any other all is NaN."""
    known = draws[~np.isnan(draws).reshape(len(draws), -1).any(axis=1)]
    if not len(known):
        return Interval(*np.full((3, *draws.shape[1:]), np.nan))
    return Interval(known.mean(axis=0), *np.percentile(known, PERCENT, axis=0))


def _times_drawn(num_scans: int, seed: int, draw: int) -> NDArray[np.float64]:
    scans = np.random.default_rng([seed, draw]).integers(num_scans, size=num_scans)
    return np.bincount(scans, minlength=num_scans).astype(np.float64)


def _counts_between_hits(events: Events) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Hits and false positives (scans, steps) in each step of the curve: level, rising, level, ... from the top.

    A rising step is a run of equal scores that holds a hit. The first column is zero: no mark at all.
    """
    ends = ends_of_ties(events.score)
    run = np.searchsorted(ends, np.arange(len(events.score)))
    rises = np.bincount(run[events.is_hit], minlength=len(ends)) > 0
    step = (1 + 2 * np.cumsum(rises) - rises)[run]
    shape = len(events.nodules_per_scan), 2 * int(rises.sum()) + 2
    place = events.scan * shape[1] + step
    counts = [np.bincount(place[kind], minlength=shape[0] * shape[1]) for kind in (events.is_hit, ~events.is_hit)]
    hits, false_alarms = (count.reshape(shape).astype(np.float64) for count in counts)
    return hits, false_alarms
