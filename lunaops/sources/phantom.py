"""The phantom as a source: one part of the embedded data set in LUNA16's files."""

import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from lunaops.cores import spread
from lunaops.errors import InputError
from lunaops.memory import keep_freed_memory
from lunaops.params import PhantomParams
from lunaops.phantom.fields import Array
from lunaops.phantom.lesions import Lesion
from lunaops.phantom.rendering import render
from lunaops.phantom.scans import Order, ScanPlan, plan_orders, plan_scan
from lunaops.sources.metaimage import write_metaimage

Row = tuple[str | float | bool, ...]  # seriesuid, coordX, coordY, coordZ, and what the file adds

LABELS = {  # the CSV files, and what each adds to a place
    "annotations": ("diameter_mm",),
    "candidates": ("class",),
    "annotations_excluded": ("diameter_mm",),
    "annotations_with_malignancy": ("diameter_mm", "mal_bool"),
}


def write_part(part: str, folder: Path, params: PhantomParams, workers: int) -> None:
    """Write "labels" (the CSV files of all subsets) or "subsetN" (its scans) into a folder, made if need be.

    The same seed gives the same bytes whatever the number of processes and the order of the parts.
    Raises InputError for a part that the phantom does not have.
    """
    subsets = [f"subset{number}" for number in range(params.subsets)]
    if part not in ("labels", *subsets):
        raise InputError(
            f"fetch.parts: the phantom has no {part}; phantom.subsets gives it {', '.join(subsets)}, labels"
        )
    folder.mkdir(parents=True, exist_ok=True)
    orders = sorted(plan_orders(params), key=lambda order: order.series_uid)
    if part == "labels":
        _write_labels(folder, orders, list(spread(partial(_plan_labels, params=params), orders, workers)))
    else:
        mine = [order for order in orders if part == f"subset{order.subset}"]
        list(spread(partial(_write_scan, folder=folder, params=params), mine, workers))


def _plan_labels(order: Order, params: PhantomParams) -> dict[str, list[Row]]:
    """One scan's rows of each CSV file."""
    keep_freed_memory()
    plan = plan_scan(order, params)
    annotations = _findings(plan, plan.nodules)
    malignant = [nodule.is_malignant for nodule in plan.nodules]
    return {
        "annotations": annotations,
        "candidates": _rows(plan, plan.candidates_xyz, plan.is_nodule.astype(int).tolist()),
        "annotations_excluded": _findings(plan, plan.excluded),
        "annotations_with_malignancy": [(*row, flag) for row, flag in zip(annotations, malignant, strict=True)],
    }


def _findings(plan: ScanPlan, lesions: Sequence[Lesion]) -> list[Row]:
    points = np.array([lesion.centre_xyz for lesion in lesions])
    return _rows(plan, points, [lesion.annotated_mm for lesion in lesions])


def _rows(plan: ScanPlan, points_xyz: Array, last: Sequence[float]) -> list[Row]:
    places = plan.patient_xyz(points_xyz.reshape(-1, 3)).tolist()
    return [(plan.order.series_uid, *place, value) for place, value in zip(places, last, strict=True)]


def _write_labels(folder: Path, orders: Sequence[Order], labels: Sequence[dict[str, list[Row]]]) -> None:
    for name, columns in LABELS.items():
        with (folder / f"{name}.csv").open("w", encoding="ascii", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["seriesuid", "coordX", "coordY", "coordZ", *columns])
            for scan in labels:
                writer.writerows(scan[name])
    uids = "".join(f"{order.series_uid}\n" for order in orders)
    (folder / "seriesuids.csv").write_text(uids, encoding="ascii", newline="\n")


def _write_scan(order: Order, folder: Path, params: PhantomParams) -> None:
    keep_freed_memory()
    plan = plan_scan(order, params)
    write_metaimage(folder / f"{order.series_uid}.mhd", render(plan, params.seed), plan.lattice.grid)
