"""Candidates, nodules and excluded findings that are on disk, each once; what is left out is counted."""

import logging
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lunaops.geometry import irc_from_xyz, is_inside
from lunaops.tables import XYZ, Scan

logger = logging.getLogger(__name__)

LISTED = 100  # of what lies outside its scan, in reports/data.json
PLACE = ["series_uid", *XYZ]


def findings_of_series(
    findings: pd.DataFrame, scans: Sequence[Scan], kind: str, series_uids: frozenset[str] | None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The findings of the scans, each once, series_uid a category in the scans' order; and what was left out.

    A series that is neither on disk nor in seriesuids.csv (`series_uids`) is unknown.
    """
    findings = findings.assign(series_uid=findings["series_uid"].astype("category"))
    again = findings.duplicated().to_numpy() if _may_repeat(findings) else np.zeros(len(findings), dtype=bool)
    findings = findings[~again] if again.any() else findings
    series, on_disk = findings["series_uid"].cat, [scan.series_uid for scan in scans]
    unknown = set(series.categories) - set(on_disk) - series_uids if series_uids else set()
    rows = findings.assign(series_uid=series.set_categories(on_disk))
    rows = rows[rows["series_uid"].notna()].reset_index(drop=True)
    return rows, {
        f"duplicate_{kind}s": int(again.sum()),
        f"{kind}s_without_scan": len(findings) - len(rows),
        f"{kind}s_of_unknown_series": int(findings["series_uid"].isin(unknown).sum()) if unknown else 0,
    }


def findings_in_scans(
    findings: pd.DataFrame, scans: Sequence[Scan], kind: str, series_uids: frozenset[str] | None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """As `findings_of_series`, without what lies outside its scan, which is listed."""
    rows, left_out = findings_of_series(findings, scans, kind, series_uids)
    inside = _inside(rows, scans)
    outside = rows[~inside].sort_values(PLACE, kind="stable")
    for series_uid, of_scan in outside.groupby("series_uid", observed=True):
        x, y, z = of_scan[XYZ].iloc[0]
        logger.warning(
            "%d %ss, the first at (%.2f, %.2f, %.2f) mm, lie outside their scan %s: left out",
            *(len(of_scan), kind, x, y, z, series_uid),
        )
    return rows[inside].reset_index(drop=True), {
        **left_out,
        f"{kind}s_outside_scan": len(outside),
        f"first_{kind}s_outside_scan": [
            {"series_uid": row.series_uid, "xyz": [row.x, row.y, row.z]} for row in outside.head(LISTED).itertuples()
        ],
    }


def without_contradictions(candidates: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """A place that one row calls a nodule and another does not is a nodule; and how many rows that leaves out."""
    if not _may_repeat(candidates):
        return candidates, 0
    contradictory = candidates.duplicated(PLACE, keep=False) & ~candidates["is_nodule"].astype(bool)
    if contradictory.any():
        first = candidates[contradictory].iloc[0]
        logger.warning(
            "%d candidates have class 0 in one line and 1 in another, the first of series %s at (%s, %s, %s) mm: "
            "they count as nodules",
            *(contradictory.sum(), first["series_uid"], *first[XYZ]),
        )
    return candidates[~contradictory].reset_index(drop=True), int(contradictory.sum())


def _inside(findings: pd.DataFrame, scans: Sequence[Scan]) -> NDArray[np.bool_]:
    """Whether each finding's nearest voxel exists; series_uid is a category in the scans' order."""
    codes = findings["series_uid"].cat.codes.to_numpy()
    order = np.argsort(codes, kind="stable")
    place = findings[XYZ].to_numpy()[order]
    starts = np.searchsorted(codes[order], np.arange(len(scans) + 1))
    inside = np.zeros(len(findings), dtype=bool)
    for scan, (start, stop) in zip(scans, pairwise(starts), strict=True):
        if start < stop:
            inside[order[start:stop]] = is_inside(irc_from_xyz(place[start:stop], scan.grid), scan.grid)
    return inside


def _may_repeat(findings: pd.DataFrame) -> bool:
    """Whether two rows may have one series and place: 20 times as fast as looking, and False is certain."""
    hashes = findings["series_uid"].cat.codes.to_numpy().astype(np.uint64)
    for axis in XYZ:
        bits = (findings[axis].to_numpy(dtype=np.float64) + 0.0).view(np.uint64)  # -0.0 becomes 0.0
        hashes = (hashes ^ bits) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    hashes.sort()
    return bool((hashes[1:] == hashes[:-1]).any())
