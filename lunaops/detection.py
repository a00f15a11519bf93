"""What LUNA16's rules say of one split: nodules found and false positives, by rate, diameter, scan and subset."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import pandas as pd

from lunaops.bootstrap import FrocIntervals, froc_intervals
from lunaops.calibration import scale
from lunaops.froc import COUNTS, Froc, froc
from lunaops.metrics import sensitivity_by_diameter
from lunaops.operating_point import OperatingPoint
from lunaops.params import EvaluateParams
from lunaops.per_scan import scan_table, subset_table
from lunaops.scored_split import ScoredSplit


@dataclass(frozen=True, eq=False)
class Detection:
    """The FROC, its intervals (None where `evaluate.bootstraps` is 0), and what is found at the threshold."""

    froc: Froc
    intervals: FrocIntervals | None
    bands: pd.DataFrame
    scans: pd.DataFrame
    subsets: pd.DataFrame

    @property
    def challenge_metrics(self) -> dict[str, float]:
        """The CPM, the sensitivities that make it, their intervals, and the marks' counts."""
        rates = self.froc.sensitivity_at
        return {
            "cpm": self.froc.cpm,
            **{f"sensitivity_at/{rate:g}": sensitivity for rate, sensitivity in rates.items()},
            **(_interval_metrics(rates, self.intervals) if self.intervals else {}),
            **{f"froc/{name}": float(getattr(self.froc, name)) for name in COUNTS},
        }

    @property
    def threshold_metrics(self) -> dict[str, float]:
        """What the threshold amounts to; the sensitivity NaN without nodules."""
        counts = self.scans[["found", "nodules", "false_positives"]].sum()
        return {
            "at_threshold/sensitivity": float(counts["found"] / counts["nodules"]) if counts["nodules"] else math.nan,
            "at_threshold/fps_per_scan": float(counts["false_positives"] / len(self.scans)),
        }


def detect(split: ScoredSplit, point: OperatingPoint, params: EvaluateParams) -> Detection:
    """Apply the rules; the FROC is of the scores as predicted, its thresholds are as scores are read at `point`."""
    rates = params.fps_per_scan
    challenge, scans = froc(split.events, fps_per_scan=rates), scan_table(split, point)
    return Detection(
        froc=replace(challenge, threshold=scale(challenge.threshold, point.temperature)),
        intervals=froc_intervals(split.events, fps_per_scan=rates, num_draws=params.bootstraps, seed=params.seed),
        bands=sensitivity_by_diameter(
            split.nodules,
            point.read(split.predictions),
            threshold=point.threshold,
            bands_mm=params.diameter_bands_mm,
        ),
        scans=scans,
        subsets=subset_table(scans),
    )


def _interval_metrics(rates: Iterable[float], intervals: FrocIntervals) -> dict[str, float]:
    """The ends of the 95 % intervals: cpm_lo, sensitivity_lo/1, ..."""
    metrics = {"cpm_lo": float(intervals.cpm.low), "cpm_hi": float(intervals.cpm.high)}
    for rate, low, high in zip(rates, intervals.sensitivity.low, intervals.sensitivity.high, strict=True):
        metrics |= {f"sensitivity_lo/{rate:g}": float(low), f"sensitivity_hi/{rate:g}": float(high)}
    return metrics
