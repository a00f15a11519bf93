"""Candidates matched to nodules, ordered and split: LUNA16's labels become the tables of the scans on disk."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lunaops.cohort import describe_splits
from lunaops.errors import InputError
from lunaops.findings import findings_in_scans, findings_of_series, without_contradictions
from lunaops.labels import Labels
from lunaops.params import MergeParams, SplitParams
from lunaops.splits import SPLITS, split_by_stride, split_scans, wanted_splits
from lunaops.tables import XYZ, Scan, scan_table

logger = logging.getLogger(__name__)

SAME_PLACE_MM = 1e-3  # two files write one annotation with different digits


@dataclass(frozen=True)
class Tables:
    """What merge-annotations decides; `facts` are the counts for reports/data.json. Text columns are categories."""

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

    A repeated row counts once. Every annotated nodule inside a scan stays, whether a candidate hits it or not. Raises
    InputError where a split has no scan; one without positives is said in the log.
    """
    scans = sorted(scans, key=lambda scan: scan.series_uid)
    known = labels.series_uids
    candidates, left_out = findings_in_scans(labels.candidates, scans, "candidate", known)
    candidates, contradictory = without_contradictions(candidates)
    nodules, nodules_left_out = findings_in_scans(labels.nodules, scans, "nodule", known)
    nodules = nodules.sort_values("series_uid", kind="stable").reset_index(drop=True)
    nodules = nodules.assign(nodule_id=nodules.index, is_malignant=_malignancy(nodules, labels.malignancy))
    nodules = nodules[["nodule_id", "series_uid", *XYZ, "diameter_mm", "is_malignant"]]
    excluded, excluded_left_out = findings_of_series(labels.excluded, scans, "excluded_finding", known)
    excluded = excluded.sort_values(["series_uid", *XYZ, "diameter_mm"], kind="stable").reset_index(drop=True)
    candidates = order_as_book(match_nodules(candidates, nodules, merge.box_fraction))
    scan_rows, candidates = _split(scans, candidates, split)
    counts = describe_splits(scan_rows, nodules, candidates)
    _check_splits(counts, split)
    facts = {
        "strategy": split.strategy,
        "splits": counts,
        "left_out": {**left_out, "contradictory_candidates": contradictory, **nodules_left_out, **excluded_left_out},
        "scans_not_in_seriesuids": _count_unlisted(scans, known),
    }
    return Tables(scans=scan_rows, nodules=nodules, excluded=excluded, candidates=candidates, facts=facts)


def match_nodules(candidates: pd.DataFrame, nodules: pd.DataFrame, box_fraction: float) -> pd.DataFrame:
    """Add diameter_mm and nodule_id to each candidate.

    diameter_mm is that of the first annotation of its series, in the file's order, for which |dx|, |dy| and |dz| are
    all at most `box_fraction` of the diameter, else 0.0 (the book's rule). nodule_id is the nearest annotation that
    it hits, strictly within half the diameter (LUNA16's rule), else -1; of two at one distance the first.
    """
    series = candidates["series_uid"].astype("category").cat
    nodules = nodules.assign(code=series.categories.get_indexer(pd.Index(nodules["series_uid"])))
    nodules = nodules[nodules["code"] >= 0].sort_values("code", kind="stable")
    counts = np.bincount(nodules["code"], minlength=len(series.categories))
    first = np.cumsum(counts) - counts
    code, place = series.codes.to_numpy(), candidates[XYZ].to_numpy()
    centers, diameters = nodules[XYZ].to_numpy(), nodules["diameter_mm"].to_numpy()
    ids = nodules["nodule_id"].to_numpy()
    x = np.ascontiguousarray(place[:, 0])
    diameter_mm, nearest = np.zeros(len(code)), np.full(len(code), np.inf)
    nodule_id = np.full(len(code), -1, dtype=np.int64)
    for turn in range(counts.max(initial=0)):  # the turn-th annotation of every series at once
        rows = np.flatnonzero(counts[code] > turn)
        chosen = first[code[rows]] + turn
        near = np.abs(x[rows] - centers[chosen, 0]) <= diameters[chosen] * max(
            box_fraction, 0.5
        )  # few are, on one axis
        rows, chosen = rows[near], chosen[near]
        offset, diameter = np.abs(place[rows] - centers[chosen]), diameters[chosen]
        boxed = (offset <= (diameter * box_fraction)[:, None]).all(axis=1) & (diameter_mm[rows] == 0)
        diameter_mm[rows[boxed]] = diameter[boxed]
        squared = (offset**2).sum(axis=1)
        hits = (squared < (diameter / 2) ** 2) & (squared < nearest[rows])
        nearest[rows[hits]] = squared[hits]
        nodule_id[rows[hits]] = ids[chosen[hits]]
    return candidates.assign(diameter_mm=diameter_mm, nodule_id=nodule_id)


def order_as_book(candidates: pd.DataFrame) -> pd.DataFrame:
    """Nodules first, largest first, then series id and coordinates, all descending: the book's order."""
    order = _order_by_place(candidates)[::-1]
    sizes, labels = candidates["diameter_mm"].to_numpy()[order], candidates["is_nodule"].to_numpy(dtype=bool)[order]
    is_first = labels | (sizes > 0)  # the few before all others
    first = np.flatnonzero(is_first)
    first = first[np.lexsort([-sizes[first], ~labels[first]])]
    order = order[np.concatenate([first, np.flatnonzero(~is_first)])]
    ordered: pd.DataFrame = candidates.iloc[order].reset_index(drop=True)
    return ordered


def _order_by_place(candidates: pd.DataFrame) -> NDArray[np.intp]:
    """The rows by series id, x, y and z, rising; rows alike in all four as they come.

    As lexsort by the four, at a third of its time: the id and x alone part nearly all rows, lexsort the rest.
    """
    codes = candidates["series_uid"].astype("category").cat.codes.to_numpy()
    x, y, z = (candidates[axis].to_numpy(dtype=np.float64) for axis in XYZ)
    order = np.argsort(x)
    order = order[np.argsort(codes[order], kind="stable")]
    same = (np.diff(codes[order]) == 0) & (np.diff(x[order]) == 0)
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    rows = np.sort(order[tied])
    order[tied] = rows[np.lexsort([z[rows], y[rows], x[rows], codes[rows]])]
    return order


def _split(scans: Sequence[Scan], candidates: pd.DataFrame, split: SplitParams) -> tuple[pd.DataFrame, pd.DataFrame]:
    """scans.csv and candidates.parquet. Under candidate_stride a scan with a validation candidate counts as val."""
    codes = candidates["series_uid"].cat.codes.to_numpy()
    subsets = pd.Categorical([scan.subset for scan in scans])
    if split.strategy == "candidate_stride":
        of_candidate = pd.Categorical(split_by_stride(len(candidates), split), categories=SPLITS)
        in_val = np.isin(np.arange(len(scans)), codes[of_candidate == "val"])
        of_scan = pd.Categorical(np.where(in_val, "val", "train"), categories=SPLITS)
    else:
        split_of = split_scans({scan.series_uid: scan.subset for scan in scans}, split)
        of_scan = pd.Categorical([split_of[scan.series_uid] for scan in scans], categories=SPLITS)
        of_candidate = of_scan[codes]
    columns = ["candidate_id", "series_uid", "subset", "split", *XYZ, "is_nodule", "nodule_id", "diameter_mm"]
    candidates = candidates.assign(candidate_id=candidates.index, subset=subsets[codes], split=of_candidate)
    return scan_table(scans).assign(split=of_scan), candidates[columns]


def _count_unlisted(scans: Sequence[Scan], series_uids: frozenset[str] | None) -> int:
    unlisted = [scan.series_uid for scan in scans if series_uids and scan.series_uid not in series_uids]
    if unlisted:
        logger.warning(
            "%d scans on disk are not in seriesuids.csv, the first %s: are the labels those of these scans?",
            *(len(unlisted), unlisted[0]),
        )
    return len(unlisted)


def _malignancy(nodules: pd.DataFrame, malignancy: pd.DataFrame | None) -> pd.Series:
    """is_malignant of each nodule; missing where nothing is known."""
    unknown = pd.Series(pd.NA, index=nodules.index, dtype="boolean")
    if malignancy is None:
        return unknown
    malignancy = malignancy.assign(series_uid=malignancy["series_uid"].astype(str))
    pairs = (
        nodules.reset_index().astype({"series_uid": str}).merge(malignancy, on="series_uid", suffixes=("", "_other"))
    )
    offset = np.abs(pairs[XYZ].to_numpy() - pairs[[f"{axis}_other" for axis in XYZ]].to_numpy())
    same = pairs[(offset < SAME_PLACE_MM).all(axis=1)].drop_duplicates("index").set_index("index")
    flags: pd.Series = same["is_malignant"].astype("boolean").reindex(nodules.index)
    return flags


def _check_splits(counts: Mapping[str, Mapping[str, Any]], split: SplitParams) -> None:
    for name in wanted_splits(split):
        of_split = counts[name]
        if of_split["scans"] == 0 and split.strategy != "candidate_stride":  # there splits share the scans
            raise InputError(
                f"the split {name} has no scan by split.strategy {split.strategy}: see its section, and fetch.parts"
            )
        if of_split["candidates"] == 0:
            raise InputError(
                f"the split {name} has {of_split['scans']} scans and no candidate in them: "
                "are the labels those of these scans? See fetch.candidates and fetch.parts"
            )
        if of_split["positives"] == 0:
            logger.warning(
                "the split %s has no positive candidate in its %d scans: its sensitivity is undefined; "
                "see the section split and fetch.parts",
                *(name, of_split["scans"]),
            )
