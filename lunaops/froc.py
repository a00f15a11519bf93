"""LUNA16's free-response ROC: marks and findings in, sensitivity at false positives per scan out.

The rules are those of the challenge (Setio et al., Medical Image Analysis 42, 2017, and its evaluation script):
a mark hits a nodule if it lies nearer to its centre than the nodule's radius; of several marks on a nodule the
highest score counts and the others count neither way; a mark that hits an excluded finding but no nodule is
ignored; every other mark is a false positive. All nodules and all scans stay in the denominators.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lunaops.errors import InputError

XYZ = ["x", "y", "z"]


@dataclass(frozen=True, eq=False)
class Events:
    """What the marks amount to: hits, one a nodule found, and false positives, one a mark.

    `scan` (n,) is a place in the list of scans, `score` (n,) and `is_hit` (n,) go with it; a bootstrap over scans
    draws from these. The counts are of nodules (num_nodules, false_negatives) and of marks (the others).
    """

    scan: NDArray[np.int64]
    score: NDArray[np.float64]
    is_hit: NDArray[np.bool_]
    num_scans: int
    num_nodules: int
    candidates: int
    ignored_excluded: int
    ignored_double: int


@dataclass(frozen=True, eq=False)
class Froc:
    """The curve, read at the wanted rates, and its counts.

    `fps_per_scan`, `sensitivity`, `threshold` (n,) run from no mark at all (threshold infinite) to all marks.
    `ignored_double` counts a mark once for each nodule on which it is not the best, as LUNA16's script does.
    """

    fps_per_scan: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    threshold: NDArray[np.float64]
    sensitivity_at: dict[float, float]
    cpm: float
    true_positives: int
    false_positives: int
    false_negatives: int
    candidates: int
    nodules: int
    ignored_excluded: int
    ignored_double: int


def froc(
    marks: pd.DataFrame,
    nodules: pd.DataFrame,
    excluded: pd.DataFrame,
    series_uids: Sequence[str],
    *,
    fps_per_scan: Sequence[float],
    unknown_diameter_mm: float,
    max_marks_per_scan: int | None = None,
) -> Froc:
    """The FROC of these marks over these scans, and the CPM: the mean sensitivity at the rates given.

    Columns: marks series_uid, x, y, z [mm], score; nodules and excluded series_uid, x, y, z, diameter_mm.
    Without nodules all sensitivities are NaN; without marks, or without hits, they are 0. Beyond the curve's last
    rate, thus everywhere if there is no false positive, the last sensitivity holds.
    """
    events = match(
        marks,
        nodules,
        excluded,
        series_uids,
        unknown_diameter_mm=unknown_diameter_mm,
        max_marks_per_scan=max_marks_per_scan,
    )
    threshold, hits, false_alarms = _counts_at_thresholds(events.score, events.is_hit)
    rate = false_alarms / events.num_scans
    sensitivity = hits / events.num_nodules if events.num_nodules else np.full(len(hits), np.nan)
    at = np.interp(fps_per_scan, rate, sensitivity)
    return Froc(
        fps_per_scan=rate,
        sensitivity=sensitivity,
        threshold=threshold,
        sensitivity_at=dict(zip(map(float, fps_per_scan), at.tolist(), strict=True)),
        cpm=float(at.mean()),
        true_positives=int(hits[-1]),
        false_positives=int(false_alarms[-1]),
        false_negatives=events.num_nodules - int(hits[-1]),
        candidates=events.candidates,
        nodules=events.num_nodules,
        ignored_excluded=events.ignored_excluded,
        ignored_double=events.ignored_double,
    )


def match(
    marks: pd.DataFrame,
    nodules: pd.DataFrame,
    excluded: pd.DataFrame,
    series_uids: Sequence[str],
    *,
    unknown_diameter_mm: float,
    max_marks_per_scan: int | None = None,
) -> Events:
    """Decide for every mark in the scans listed whether it hits, is ignored, or is a false positive.

    Rows of scans that are not listed do not count; a scan listed twice is one scan. With `max_marks_per_scan` =
    N, of a scan with more marks only those strictly above the score of its (N + 1)th are kept: fewer than N if
    scores tie there. Raises InputError for an empty list of scans and for a mark that is not all numbers.
    """
    scans = pd.Index(series_uids).unique()
    if scans.empty:
        raise InputError("froc: the list of scans is empty; give the series ids of the scans that were marked")
    marks, nodules, excluded = (_of_scans(table, scans) for table in (marks, nodules, excluded))
    marks = _strongest(_checked(marks, scans), max_marks_per_scan)
    hitting, hit = _pairs(marks, nodules, unknown_diameter_mm)
    ignorable, _ = _pairs(marks, excluded, unknown_diameter_mm)
    score = marks["score"].to_numpy(dtype=np.float64)
    best = np.full(len(nodules), -np.inf)
    np.maximum.at(best, hit, score[hitting])
    is_found = np.isin(np.arange(len(nodules)), hit)
    on_nodule = np.isin(np.arange(len(marks)), hitting)
    on_excluded = np.isin(np.arange(len(marks)), ignorable) & ~on_nodule
    is_false = ~on_nodule & ~on_excluded
    return Events(
        scan=np.concatenate([nodules["scan"].to_numpy()[is_found], marks["scan"].to_numpy()[is_false]]),
        score=np.concatenate([best[is_found], score[is_false]]),
        is_hit=np.arange(is_found.sum() + is_false.sum()) < is_found.sum(),
        num_scans=len(scans),
        num_nodules=len(nodules),
        candidates=len(marks),
        ignored_excluded=int(on_excluded.sum()),
        ignored_double=len(hitting) - int(is_found.sum()),
    )


def _of_scans(table: pd.DataFrame, scans: pd.Index) -> pd.DataFrame:
    """The rows of these scans, numbered anew, with the scan's place in the list as column `scan`."""
    scan = scans.get_indexer(pd.Index(table["series_uid"]))
    return table.assign(scan=scan)[scan >= 0].reset_index(drop=True)


def _checked(marks: pd.DataFrame, scans: pd.Index) -> pd.DataFrame:
    is_bad = ~np.isfinite(marks[[*XYZ, "score"]].to_numpy(dtype=np.float64)).all(axis=1)
    if is_bad.any():
        row = marks[is_bad].iloc[0]
        values = ", ".join(str(row[column]) for column in [*XYZ, "score"])
        raise InputError(
            f"froc: {int(is_bad.sum())} marks are not all numbers, the first on series {scans[row['scan']]}: "
            f"x, y, z, score = {values}; mend or remove them"
        )
    return marks


def _strongest(marks: pd.DataFrame, max_marks: int | None) -> pd.DataFrame:
    if max_marks is None:
        return marks
    first_too_many = marks.sort_values("score", ascending=False).groupby("scan").nth(max_marks)
    limit = marks["scan"].map(first_too_many.set_index("scan")["score"]).fillna(-np.inf)
    return marks[marks["score"] > limit].reset_index(drop=True)


def _pairs(
    marks: pd.DataFrame, findings: pd.DataFrame, unknown_diameter_mm: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers (mark, finding) of all marks strictly inside a finding's sphere."""
    diameter = findings["diameter_mm"].to_numpy(dtype=np.float64)
    radius_squared = (np.where(diameter < 0, unknown_diameter_mm, diameter) / 2) ** 2
    mark_xyz, finding_xyz = (table[XYZ].to_numpy(dtype=np.float64) for table in (marks, findings))
    marks_of, pairs = marks.groupby("scan").indices, [np.empty((2, 0), dtype=np.int64)]
    for scan, rows in findings.groupby("scan").indices.items():
        near = marks_of.get(scan, np.empty(0, dtype=np.int64))
        offset = mark_xyz[near, None] - finding_xyz[None, rows]
        mark, finding = np.nonzero((offset**2).sum(axis=-1) < radius_squared[rows])
        pairs.append(np.stack([near[mark], rows[finding]]))
    mark, finding = np.concatenate(pairs, axis=1)
    return mark, finding


def _counts_at_thresholds(
    score: NDArray[np.float64], is_hit: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Distinct scores, falling, after an infinite one; hits and false positives at or above each.

    Whole numbers where scikit-learn's roc_curve has rates, so that the curve is read at 1/8 exactly.
    """
    order = np.argsort(score)[::-1]
    ranked = score[order]
    last_of_ties = np.flatnonzero(np.diff(ranked, append=-np.inf))
    hits = np.cumsum(is_hit[order])[last_of_ties]
    threshold = np.concatenate([[np.inf], ranked[last_of_ties]])
    return threshold, np.concatenate([[0], hits]), np.concatenate([[0], last_of_ties + 1 - hits])
