"""A submission in LUNA16's format, whoever made it: read, checked, scored, told."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lunaops.bootstrap import FrocIntervals, froc_intervals
from lunaops.csv_file import CsvFile, read_series_uids
from lunaops.froc import COUNTS, LUNA16_RATES, Froc, froc, match
from lunaops.labels import read_excluded_csv

MARK_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "probability")


@dataclass(frozen=True, eq=False)
class Result:
    """What a submission is worth; `strangers` are the series of its `unlisted_marks`, which are not of the list."""

    froc: Froc
    intervals: FrocIntervals | None
    num_scans: int
    unlisted_marks: int
    strangers: list[str]


def score_submission(
    submission: Path,
    annotations: Path,
    excluded: Path,
    seriesuids: Path,
    *,
    unknown_diameter_mm: float,
    max_marks_per_scan: int | None,
    num_draws: int,
    seed: int,
) -> Result:
    """Score a submission by LUNA16's rules at LUNA16's rates. Raises InputError naming file and line."""
    series_uids, marks = read_series_uids(seriesuids), read_marks(submission)
    is_listed = marks["series_uid"].isin(series_uids)
    events = match(
        marks,
        read_excluded_csv(annotations),  # as LUNA16's script, which knows unknown diameters of nodules too
        read_excluded_csv(excluded),
        series_uids,
        unknown_diameter_mm=unknown_diameter_mm,
        max_marks_per_scan=max_marks_per_scan,
    )
    return Result(
        froc=froc(events, fps_per_scan=LUNA16_RATES),
        intervals=froc_intervals(events, fps_per_scan=LUNA16_RATES, num_draws=num_draws, seed=seed),
        num_scans=len(events.nodules_per_scan),
        unlisted_marks=int((~is_listed).sum()),
        strangers=marks["series_uid"][~is_listed].astype(str).drop_duplicates().tolist(),
    )


def read_marks(path: Path) -> pd.DataFrame:
    """Columns series_uid, x, y, z [mm], score of a submission, in the file's order.

    A score is any finite number. Raises InputError naming file and line.
    """
    return CsvFile(path).table(MARK_COLUMNS).rename(columns={"probability": "score"})


def as_json(result: Result) -> dict[str, Any]:
    """The result for machines; what is undefined is None. Lists are in the order of `fps_per_scan`."""
    numbers: dict[str, Any] = {name: getattr(result.froc, name) for name in COUNTS}
    numbers |= {
        "scans": result.num_scans,
        "unlisted_marks": result.unlisted_marks,
        "unlisted_series": len(result.strangers),
        "fps_per_scan": list(result.froc.sensitivity_at),
        "sensitivity_at": _known(result.froc.sensitivity_at.values()),
        "cpm": _known([result.froc.cpm])[0],
    }
    if result.intervals is not None:
        at, cpm = result.intervals.sensitivity, result.intervals.cpm
        cpm_mean, cpm_lo, cpm_hi = _known(map(float, (cpm.mean, cpm.low, cpm.high)))
        numbers |= {
            "bootstraps": result.intervals.num_draws,
            "seed": result.intervals.seed,
            "boot_mean": _known(at.mean),
            "boot_lo": _known(at.low),
            "boot_hi": _known(at.high),
            "cpm_mean": cpm_mean,
            "cpm_lo": cpm_lo,
            "cpm_hi": cpm_hi,
        }
    return numbers


def as_text(result: Result) -> str:
    """The result for people: counts, a column a rate, the CPM."""
    counts, intervals = result.froc, result.intervals
    lines = [
        f"{counts.candidates:,} marks in {result.num_scans:,} scans: {counts.false_positives:,} false positives; "
        f"ignored: {counts.ignored_excluded:,} on excluded findings, {counts.ignored_double:,} second ones on a nodule",
        f"{counts.nodules:,} nodules: {counts.true_positives:,} found, {counts.false_negatives:,} missed",
    ]
    if result.strangers:
        lines.append(
            f"{result.unlisted_marks:,} marks of {len(result.strangers):,} series that the list of scans does not "
            f"name were left out, the first of {result.strangers[0]}"
        )
    rows, cpm = {"sensitivity": list(counts.sensitivity_at.values())}, f"CPM {_said(counts.cpm)}"
    if intervals is not None:
        rows |= {"2.5 %": intervals.sensitivity.low.tolist(), "97.5 %": intervals.sensitivity.high.tolist()}
        low, high = _said(float(intervals.cpm.low)), _said(float(intervals.cpm.high))
        cpm += f", 95 % interval {low} to {high} ({intervals.num_draws:,} bootstraps over scans, seed {intervals.seed})"
    rates = "".join(f"{rate:8g}" for rate in counts.sensitivity_at)
    table = [f"{name:24s}" + "".join(f"{_said(value):>8s}" for value in values) for name, values in rows.items()]
    return "\n".join([*lines, f"{'false positives per scan':24s}{rates}", *table, cpm])


def _said(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _known(values: Iterable[float]) -> list[float | None]:
    return [None if math.isnan(value) else float(value) for value in values]
