"""LUNA16's free-response ROC: marks and findings in, sensitivity at false positives per scan out.

The rules are those of the challenge (Setio et al., Medical Image Analysis 42, 2017, and its evaluation script):
a mark hits a nodule if it lies nearer to its centre than the nodule's radius; of several marks on a nodule the
highest score counts and the others count neither way; a mark that hits an excluded finding but no nodule is
ignored; every other mark is a false positive. All nodules and all scans stay in the denominators.

Where that script (noduleCADEvaluationLUNA16.py) does otherwise, on purpose:
- it reads rates that went through two divisions, so that 1/8 may fall one rounding error short of a point of the
  curve; whole numbers are counted here, and a point at exactly the wanted rate counts;
- it reads the curve on 10,001 even steps from 1/8 to 8, among which 1/4 is not, and leaves the CPM to the reader;
- a scan listed twice counts twice there, once here;
- without nodules it divides by zero, with false positives but no hit its sensitivity is NaN; see `froc`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lunaops.errors import InputError
from lunaops.ranking import counts_at_thresholds

XYZ = ["x", "y", "z"]
LUNA16_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # false positives per scan; the CPM is the mean sensitivity there
COUNTS = (
    "nodules",
    "true_positives",
    "false_negatives",
    "false_positives",
    "candidates",
    "ignored_excluded",
    "ignored_double",
)


@dataclass(frozen=True, eq=False)
class Events:
    """What the marks amount to: hits, one a nodule found, and false positives, one a mark.

    `scan` (n,) is a place in the list of scans, `score` (n,) falls, `is_hit` (n,) goes with it; `nodules_per_scan`
    (num_scans,) counts the nodules of each scan, found or not. A bootstrap over scans draws from these. The other
    counts are of marks; `ignored_double` counts a mark once for each nodule on which it is not the best, as
    LUNA16's script does.
    """

    scan: NDArray[np.int64]
    score: NDArray[np.float64]
    is_hit: NDArray[np.bool_]
    nodules_per_scan: NDArray[np.int64]
    candidates: int
    ignored_excluded: int
    ignored_double: int


@dataclass(frozen=True, eq=False)
class Froc:
    """The curve, read at the wanted rates, and its counts.

    `fps_per_scan`, `sensitivity`, `threshold` (n,) run from no mark at all (threshold infinite) to all marks.
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


@dataclass(frozen=True, eq=False)
class _Points:
    """Marks or findings: the scan's place in the list (n,), where (n, 3), and score or diameter (n,)."""

    scan: NDArray[np.int64]
    xyz: NDArray[np.float64]
    value: NDArray[np.float64]


def froc(events: Events, *, fps_per_scan: Sequence[float]) -> Froc:
    """The FROC of what `match` found, and the CPM: the mean sensitivity at the rates given.

    Between its points, one a distinct score, the curve is straight. Without nodules all sensitivities are NaN;
    without marks, or without hits, they are 0. Beyond the curve's last rate, thus everywhere if there is no false
    positive, the last sensitivity holds.
    """
    threshold, hits, false_alarms = counts_at_thresholds(events.is_hit, events.score)
    num_scans, num_nodules = len(events.nodules_per_scan), int(events.nodules_per_scan.sum())
    rate = false_alarms / num_scans
    sensitivity = hits / num_nodules if num_nodules else np.full(len(hits), np.nan)
    at = np.interp(fps_per_scan, rate, sensitivity)
    return Froc(
        fps_per_scan=rate,
        sensitivity=sensitivity,
        threshold=threshold,
        sensitivity_at=dict(zip(map(float, fps_per_scan), at.tolist(), strict=True)),
        cpm=float(at.mean()),
        true_positives=int(hits[-1]),
        false_positives=int(false_alarms[-1]),
        false_negatives=num_nodules - int(hits[-1]),
        candidates=events.candidates,
        nodules=num_nodules,
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

    Columns: marks series_uid, x, y, z [mm], score; nodules and excluded series_uid, x, y, z, diameter_mm, where a
    negative diameter counts as the unknown one. Rows of scans that are not listed do not count; a scan listed twice
    is one scan. With `max_marks_per_scan` = N, of a scan with more marks only those strictly above the score of its
    (N + 1)th are kept: fewer than N if scores tie there. Raises InputError for an empty list of scans and for a mark
    or finding that is not all numbers.
    """
    scans = pd.Index(series_uids).unique()
    if scans.empty:
        raise InputError("froc: the list of scans is empty; give the series ids of the scans that were marked")
    mark = _points(marks, "score", scans, "marks")
    if max_marks_per_scan is not None:
        mark = _strongest(mark, max_marks_per_scan, len(scans))
    nodule = _points(nodules, "diameter_mm", scans, "nodules")
    hitting, hit = _pairs(mark, nodule, unknown_diameter_mm)
    ignorable, _ = _pairs(mark, _points(excluded, "diameter_mm", scans, "excluded findings"), unknown_diameter_mm)
    best = np.full(len(nodule.scan), -np.inf)
    np.maximum.at(best, hit, mark.value[hitting])
    is_found = np.isfinite(best)
    on_nodule = _flags(len(mark.scan), hitting)
    on_excluded = _flags(len(mark.scan), ignorable) & ~on_nodule
    is_false = ~on_nodule & ~on_excluded
    score = np.concatenate([best[is_found], mark.value[is_false]])
    order = np.argsort(score, kind="stable")[::-1]
    return Events(
        scan=np.concatenate([nodule.scan[is_found], mark.scan[is_false]])[order],
        score=score[order],
        is_hit=order < is_found.sum(),
        nodules_per_scan=np.bincount(nodule.scan, minlength=len(scans)),
        candidates=len(mark.scan),
        ignored_excluded=int(on_excluded.sum()),
        ignored_double=len(hitting) - int(is_found.sum()),
    )


def _points(table: pd.DataFrame, value: str, scans: pd.Index, kind: str) -> _Points:
    """The rows of these scans as arrays."""
    codes, uids = pd.factorize(table["series_uid"])
    scan = np.append(scans.get_indexer(pd.Index(uids)), -1)[codes]
    is_listed = scan >= 0
    numbers = table[[*XYZ, value]].to_numpy(dtype=np.float64)[is_listed]
    is_bad = ~np.isfinite(numbers).all(axis=1)
    if is_bad.any():
        place = int(np.argmax(is_bad))
        raise InputError(
            f"froc: {int(is_bad.sum())} {kind} are not all numbers, the first on series "
            f"{scans[scan[is_listed][place]]}: x, y, z, {value} = {', '.join(map(str, numbers[place]))}; "
            "mend or remove them"
        )
    return _Points(scan=scan[is_listed], xyz=numbers[:, :3], value=numbers[:, 3])


def _strongest(marks: _Points, max_marks: int, num_scans: int) -> _Points:
    order = np.lexsort([-marks.value, marks.scan])
    scan = marks.scan[order]
    place = np.arange(len(scan)) - np.searchsorted(scan, scan)  # in its scan, the highest score's being 0
    first_too_many = order[place == max_marks]
    limit = np.full(num_scans, -np.inf)
    limit[marks.scan[first_too_many]] = marks.value[first_too_many]
    keep = marks.value > limit[marks.scan]
    return _Points(marks.scan[keep], marks.xyz[keep], marks.value[keep])


@np.errstate(over="ignore")  # what is too far to be squared is not inside
def _pairs(
    marks: _Points, findings: _Points, unknown_diameter_mm: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers (mark, finding) of all marks strictly inside a finding's sphere."""
    radius_squared = (np.where(findings.value < 0, unknown_diameter_mm, findings.value) / 2) ** 2
    marks_of, pairs = pd.Series(marks.scan).groupby(marks.scan).indices, [np.empty((2, 0), dtype=np.int64)]
    for scan, rows in pd.Series(findings.scan).groupby(findings.scan).indices.items():
        near = marks_of.get(scan, np.empty(0, dtype=np.int64))
        mark_xyz, finding_xyz = marks.xyz[near, None], findings.xyz[None, rows]
        x, y, z = (mark_xyz[..., axis] - finding_xyz[..., axis] for axis in range(3))
        mark, finding = np.nonzero(x**2 + y**2 + z**2 < radius_squared[rows])
        pairs.append(np.stack([near[mark], rows[finding]]))
    mark, finding = np.concatenate(pairs, axis=1)
    return mark, finding


def _flags(count: int, places: NDArray[np.int64]) -> NDArray[np.bool_]:
    flags = np.zeros(count, dtype=bool)
    flags[places] = True
    return flags
