"""The phantom as a source: one part of the embedded data set in LUNA16's files."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from lunaops.cores import spread
from lunaops.errors import InputError
from lunaops.params import PhantomParams
from lunaops.phantom.fields import Array
from lunaops.phantom.lesions import Lesion
from lunaops.phantom.rendering import render
from lunaops.phantom.scans import Order, ScanPlan, plan_orders, plan_scan
from lunaops.sources.metaimage import write_metaimage

XYZ = ["coordX", "coordY", "coordZ"]


@dataclass(frozen=True)
class Labels:
    """One scan's rows of each CSV file."""

    annotations: pd.DataFrame
    candidates: pd.DataFrame
    annotations_excluded: pd.DataFrame
    annotations_with_malignancy: pd.DataFrame


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


def _plan_labels(order: Order, params: PhantomParams) -> Labels:
    plan = plan_scan(order, params)
    annotations = _findings(plan, plan.nodules)
    candidates = _points(plan, plan.candidates_xyz).assign(**{"class": plan.is_nodule.astype(int)})
    return Labels(
        annotations=annotations,
        candidates=candidates,
        annotations_excluded=_findings(plan, plan.excluded),
        annotations_with_malignancy=annotations.assign(
            mal_bool=pd.Series([nodule.is_malignant for nodule in plan.nodules], dtype=bool)  # also where there is none
        ),
    )


def _points(plan: ScanPlan, points_xyz: Array) -> pd.DataFrame:
    frame = pd.DataFrame(plan.patient_xyz(points_xyz.reshape(-1, 3)), columns=XYZ)
    frame.insert(0, "seriesuid", plan.order.series_uid)
    return frame


def _findings(plan: ScanPlan, lesions: Sequence[Lesion]) -> pd.DataFrame:
    points = np.array([lesion.centre_xyz for lesion in lesions])
    return _points(plan, points).assign(diameter_mm=[lesion.annotated_mm for lesion in lesions])


def _write_labels(folder: Path, orders: Sequence[Order], labels: Sequence[Labels]) -> None:
    for name in Labels.__dataclass_fields__:
        table = pd.concat([getattr(scan, name) for scan in labels], ignore_index=True)
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    uids = "".join(f"{order.series_uid}\n" for order in orders)
    (folder / "seriesuids.csv").write_text(uids, encoding="ascii", newline="\n")


def _write_scan(order: Order, folder: Path, params: PhantomParams) -> None:
    plan = plan_scan(order, params)
    write_metaimage(folder / f"{order.series_uid}.mhd", render(plan, params.seed), plan.lattice.grid)
