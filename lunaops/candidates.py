"""Candidates matched to nodules, ordered and split: LUNA16's labels become the tables of the scans on disk."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lunaops.errors import InputError
from lunaops.geometry import Grid, irc_from_xyz, is_inside
from lunaops.labels import Labels
from lunaops.params import MergeParams, SplitParams
from lunaops.tables import XYZ

logger = logging.getLogger(__name__)

LISTED = 100  # of what was left out, in reports/data.json
SAME_PLACE_MM = 1e-3  # two files write one annotation with different digits


@dataclass(frozen=True)
class Scan:
    """A scan on disk; `path` is relative to the folder of the raw data."""

    series_uid: str
    subset: str
    path: str
    grid: Grid


@dataclass(frozen=True)
class Tables:
    """What merge-annotations decides; `facts` are the counts for reports/data.json."""

    scans: pd.DataFrame
    nodules: pd.DataFrame
    excluded: pd.DataFrame
    candidates: pd.DataFrame
    facts: dict[str, Any]


def merge_annotations(
    scans: Sequence[Scan],
    labels: Labels,
    *,
    merge: MergeParams,
    split: SplitParams,
) -> Tables:
    """Build the tables of the scans on disk; what belongs to no scan on disk is left out and counted.

    Raises InputError where a split has no scan; one without positives is said in the log.
    """
    candidates, left_out = _on_disk(labels.candidates.drop_duplicates(), scans, "candidate")
    nodules, nodules_left_out = _on_disk(labels.nodules, scans, "nodule")
    excluded = labels.excluded[labels.excluded["series_uid"].isin([scan.series_uid for scan in scans])]
    nodules = nodules.sort_values("series_uid", kind="stable").reset_index(drop=True)
    nodules = nodules.assign(nodule_id=nodules.index, is_malignant=_malignancy(nodules, labels.malignancy))
    candidates = order_as_book(match_nodules(candidates, nodules, merge.box_fraction))
    subset = {scan.series_uid: scan.subset for scan in scans}
    candidates = candidates.assign(candidate_id=candidates.index, subset=candidates["series_uid"].map(subset))
    candidates = candidates.assign(split=split_candidates(candidates, split))
    scan_rows = scan_table(scans, candidates, split)
    tables = Tables(
        scans=scan_rows,
        nodules=nodules[["nodule_id", "series_uid", *XYZ, "diameter_mm", "is_malignant"]],
        excluded=excluded.sort_values(["series_uid", *XYZ], kind="stable").reset_index(drop=True),
        candidates=candidates[
            ["candidate_id", "series_uid", "subset", "split", *XYZ, "is_nodule", "nodule_id", "diameter_mm"]
        ],
        facts={},
    )
    facts = {
        "strategy": split.strategy,
        "splits": count_splits(tables),
        "left_out": {
            "duplicate_candidates": len(labels.candidates) - len(labels.candidates.drop_duplicates()),
            **left_out,
            **nodules_left_out,
        },
    }
    _check_splits(tables, split)
    return Tables(tables.scans, tables.nodules, tables.excluded, tables.candidates, facts)


def match_nodules(candidates: pd.DataFrame, nodules: pd.DataFrame, box_fraction: float) -> pd.DataFrame:
    """Add diameter_mm and nodule_id to each candidate.

    diameter_mm is that of the first annotation of its series, in the file's order, for which |dx|, |dy| and |dz| are
    all at most `box_fraction` of the diameter, else 0.0 (the book's rule). nodule_id is the nearest annotation that
    it hits, strictly within half the diameter (LUNA16's rule), else -1.
    """
    rows = candidates.reset_index(drop=True)
    pairs = rows.reset_index().merge(nodules, on="series_uid", suffixes=("", "_nodule"))
    offset = np.abs(pairs[XYZ].to_numpy() - pairs[[f"{axis}_nodule" for axis in XYZ]].to_numpy())
    diameter = pairs["diameter_mm"].to_numpy()
    in_box = (offset <= (diameter * box_fraction)[:, None]).all(axis=1)
    boxed = pairs[in_box].drop_duplicates("index").set_index("index")
    squared = (offset**2).sum(axis=1)
    near = pairs.assign(squared=squared)[squared < (diameter / 2) ** 2]
    hit = near.sort_values(["index", "squared"], kind="stable").drop_duplicates("index").set_index("index")
    return rows.assign(
        diameter_mm=boxed["diameter_mm"].reindex(rows.index, fill_value=0.0),
        nodule_id=hit["nodule_id"].reindex(rows.index, fill_value=-1).astype(np.int64),
    )


def order_as_book(candidates: pd.DataFrame) -> pd.DataFrame:
    """Nodules first, largest first, then series id and coordinates, all descending: the book's order."""
    keys = ["is_nodule", "diameter_mm", "series_uid", *XYZ]
    return candidates.sort_values(keys, ascending=False, kind="stable").reset_index(drop=True)


def split_candidates(candidates: pd.DataFrame, split: SplitParams) -> pd.Series:
    """train, val or test of each candidate, in `order_as_book`."""
    if split.strategy == "candidate_stride":
        logger.warning(
            "split.strategy candidate_stride, the book's: crops of one scan are in train and val, so val is flattered, "
            "and its FROC has only every %dth mark: quote no CPM of it",
            split.val_stride,
        )
        is_val = np.arange(len(candidates)) % split.val_stride == 0
        return pd.Series(np.where(is_val, "val", "train"), index=candidates.index)
    return candidates["subset"].map(lambda subset: _split_of_subset(subset, split))


def scan_table(scans: Sequence[Scan], candidates: pd.DataFrame, split: SplitParams) -> pd.DataFrame:
    """scans.csv: every scan on disk, also those without candidates.

    Under candidate_stride a scan with a validation candidate counts as val.
    """
    in_val = set(candidates["series_uid"][candidates["split"] == "val"])
    by_stride = split.strategy == "candidate_stride"
    rows = [
        {
            "series_uid": scan.series_uid,
            "subset": scan.subset,
            "path": scan.path,
            "shape": json.dumps(scan.grid.shape_irc),
            "spacing": json.dumps(scan.grid.spacing_xyz),
            "origin": json.dumps(scan.grid.origin_xyz),
            "direction": json.dumps(scan.grid.direction),
            "split": ("val" if scan.series_uid in in_val else "train")
            if by_stride
            else _split_of_subset(scan.subset, split),
        }
        for scan in sorted(scans, key=lambda scan: scan.series_uid)
    ]
    return pd.DataFrame(rows)


def count_splits(tables: Tables) -> dict[str, dict[str, int]]:
    """Scans, nodules and candidates of each class in each split."""
    split_of = tables.scans.set_index("series_uid")["split"]
    nodule_split = tables.nodules["series_uid"].map(split_of)
    counts = {}
    for name in ("train", "val", "test"):
        of_split = tables.candidates[tables.candidates["split"] == name]
        counts[name] = {
            "scans": int((tables.scans["split"] == name).sum()),
            "nodules": int((nodule_split == name).sum()),
            "candidates": len(of_split),
            "positives": int(of_split["is_nodule"].sum()),
            "negatives": int((~of_split["is_nodule"]).sum()),
        }
    return counts


def _on_disk(findings: pd.DataFrame, scans: Sequence[Scan], kind: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The findings inside a scan on disk, and what was left out."""
    grids = {scan.series_uid: scan.grid for scan in scans}
    known = findings[findings["series_uid"].isin(grids)].reset_index(drop=True)
    inside = pd.Series(True, index=known.index)
    for series_uid, rows in known.groupby("series_uid"):
        grid = grids[str(series_uid)]
        inside[rows.index] = is_inside(irc_from_xyz(rows[XYZ].to_numpy(), grid), grid)
    outside = known[~inside]
    for series_uid, rows in outside.groupby("series_uid"):
        x, y, z = rows[XYZ].iloc[0]
        logger.warning(
            "%d %ss, the first at (%.2f, %.2f, %.2f) mm, lie outside their scan %s: left out",
            *(len(rows), kind, x, y, z, series_uid),
        )
    listed = outside[["series_uid", *XYZ]].head(LISTED).to_numpy().tolist()
    return known[inside], {
        f"{kind}s_without_scan": len(findings) - len(known),
        f"{kind}s_outside_scan": len(outside),
        f"first_{kind}s_outside_scan": listed,
    }


def _malignancy(nodules: pd.DataFrame, malignancy: pd.DataFrame | None) -> pd.Series:
    """is_malignant of each nodule; missing where nothing is known."""
    unknown = pd.Series(pd.NA, index=nodules.index, dtype="boolean")
    if malignancy is None:
        return unknown
    pairs = nodules.reset_index().merge(malignancy, on="series_uid", suffixes=("", "_other"))
    offset = np.abs(pairs[XYZ].to_numpy() - pairs[[f"{axis}_other" for axis in XYZ]].to_numpy())
    same = pairs[(offset < SAME_PLACE_MM).all(axis=1)].drop_duplicates("index").set_index("index")
    flags: pd.Series = same["is_malignant"].astype("boolean").reindex(nodules.index)
    return flags


def _split_of_subset(subset: str, split: SplitParams) -> str:
    if subset in split.test:
        return "test"
    return "val" if subset in split.val else "train"


def _check_splits(tables: Tables, split: SplitParams) -> None:
    counts = count_splits(tables)
    for name, wanted in (("train", True), ("val", True), ("test", split.strategy == "subset")):
        if wanted and counts[name]["scans"] == 0:
            raise InputError(f"the split {name} has no scan: set split.val, split.test and fetch.parts so that it has")
        if wanted and counts[name]["candidates"] == 0:
            raise InputError(
                f"the split {name} has {counts[name]['scans']} scans and no candidate in them: "
                "are the labels those of these scans? See fetch.candidates and fetch.parts"
            )
        if wanted and counts[name]["positives"] == 0:
            logger.warning(
                "the split %s has no positive candidate in its %d scans: its sensitivity is undefined; "
                "see split.val, split.test and fetch.parts",
                name,
                counts[name]["scans"],
            )
