"""What an evaluation leaves on disk: JSON and CSV for DVC, PNG for people."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lunaops import figures, scan_figures
from lunaops.detection import Detection
from lunaops.errors import InputError
from lunaops.evaluation import Evaluation
from lunaops.tables import grid_of
from lunaops.views import PLANES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pictures = dict[int, dict[str, NDArray[np.int16]]]  # candidate_id -> plane's name -> HU


@dataclass(frozen=True, eq=False)
class Gallery:
    """Candidates of one kind, the most telling first: rows of the predictions to show, of how many there are."""

    name: str
    title: str
    shown: pd.DataFrame
    total: int


def write_metrics(evaluation: Evaluation, path: Path) -> None:
    """Write JSON for `dvc metrics`: split -> metric -> number with six decimals, null where undefined.

    threshold_rule, which says how the threshold came about, is the one text among them.
    """
    numbers: dict[str, float | str | None] = {"threshold_rule": evaluation.params.threshold_rule}
    for name, value in evaluation.metrics.items():
        numbers[name] = None if math.isnan(value) else round(value, 6)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({evaluation.params.split: numbers}, indent=1) + "\n", encoding="utf-8")


def write_tables(evaluation: Evaluation, folder: Path) -> None:
    """Write the CSVs that `dvc plots` draws and people sort.

    The curves by their corners, bands, subsets and scans, actual and predicted class, the comparison if there is one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in _tables(evaluation).items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")


def write_pictures(evaluation: Evaluation, pictures: Pictures, scans: pd.DataFrame, folder: Path) -> None:
    """Write the PNGs for people: curves, counts and galleries; `pictures` as `read_gallery` gives them."""
    for name, figure in charts(evaluation):
        figures.write_figure(figure, folder / f"{name}.png")
    for name, figure in gallery_figures(evaluation, pictures, scans):
        figures.write_figure(figure, folder / f"{name}.png")


def galleries(evaluation: Evaluation, pictures: Pictures) -> list[Gallery]:
    """False positives, false negatives and true positives at the threshold.

    Only candidates whose pictures predict kept, of a nodule only one, at most `evaluate.gallery` of each kind.
    """
    return [
        Gallery(name, title, rows[rows["candidate_id"].isin(list(pictures))].head(evaluation.params.gallery), len(rows))
        for name, (title, rows) in _kinds(evaluation).items()
    ]


def gallery_figures(evaluation: Evaluation, pictures: Pictures, scans: pd.DataFrame) -> Iterator[tuple[str, "Figure"]]:
    """The galleries as figures; the title says of how many."""
    grids = {row["series_uid"]: grid_of(row) for row in scans.to_dict("records")}

    def crop_of(row: Any) -> scan_figures.GalleryCrop:
        return scan_figures.GalleryCrop(pictures[row.candidate_id], grids[row.series_uid], _caption(row))

    for gallery in galleries(evaluation, pictures):
        crops = [crop_of(row) for row in gallery.shown.itertuples()]
        title = f"{gallery.title}: {len(crops)} of {gallery.total}"
        yield gallery.name, scan_figures.gallery_figure(crops, title=title)


def read_gallery(path: Path) -> Pictures:
    """Read the crops' central planes that predict wrote. Raises InputError if they are not there or not whole."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the predict stage, or `dvc pull` it")
    with np.load(path) as arrays:
        missing = sorted({"candidate_id", *PLANES} - set(arrays.files))
        if missing:
            raise InputError(f"{path}: lacks {', '.join(missing)}; run the predict stage again")
        ids, planes = arrays["candidate_id"].tolist(), {plane: arrays[plane] for plane in PLANES}
    return {
        candidate_id: {plane: images[row] for plane, images in planes.items()} for row, candidate_id in enumerate(ids)
    }


def _tables(evaluation: Evaluation) -> dict[str, pd.DataFrame]:
    curve, pr, comparison = evaluation.roc, evaluation.precision_recall, evaluation.comparison
    names = np.array(evaluation.task.classes)
    called = evaluation.predictions["score"] >= evaluation.threshold
    tables = {
        "roc": _curve_table(
            false_positive_rate=curve.false_positive_rate,
            true_positive_rate=curve.true_positive_rate,
            threshold=curve.threshold,
        ),
        "precision_recall": _curve_table(recall=pr.recall, precision=pr.precision, threshold=pr.threshold),
        "confusion": pd.DataFrame(
            {
                "actual": names[evaluation.label.to_numpy(dtype=int)],
                "predicted": names[called.to_numpy(dtype=int)],
            }
        ),
        "reliability": evaluation.reliability,
    }
    if evaluation.detection is not None:
        tables |= _detection_tables(evaluation.detection)
    if comparison is not None:
        tables["comparison"] = pd.DataFrame(
            [{"metric": name, **asdict(of)} for name, of in comparison.differences.items()]
        )
    return tables


def _detection_tables(detection: Detection) -> dict[str, pd.DataFrame]:
    result, bands = detection.froc, detection.bands
    return {
        "froc": _curve_table(
            fps_per_scan=result.fps_per_scan, sensitivity=result.sensitivity, threshold=result.threshold
        ),
        "diameter_bands": bands.assign(band=[f"{b.low_mm:g} to {b.high_mm:g} mm" for b in bands.itertuples()]),
        "scans": detection.scans,
        "subsets": detection.subsets,
    }


def _curve_table(threshold: NDArray[np.float64], **xy: NDArray[np.float64]) -> pd.DataFrame:
    """The curve's points, without those on a straight line between their neighbours; no threshold where infinite."""
    x, y = (np.diff(values) for values in xy.values())
    is_corner = np.abs(x[:-1] * y[1:] - x[1:] * y[:-1]) > 1e-12
    keep = np.concatenate([[True], is_corner, [True]]) if len(threshold) > 2 else np.ones(len(threshold), dtype=bool)
    return pd.DataFrame({**xy, "threshold": threshold}).replace(np.inf, np.nan)[keep]


def charts(evaluation: Evaluation) -> Iterator[tuple[str, "Figure"]]:
    """The curves and counts as figures, by name."""
    numbers, task, detection = evaluation.metrics, evaluation.task, evaluation.detection
    named: Any = {"threshold": evaluation.threshold, "classes": task.classes}
    by_size = evaluation.roc_by_diameter
    yield (
        "roc",
        figures.roc_figure(
            evaluation.roc,
            roc_auc=numbers["roc_auc"],
            baseline=None if by_size is None else (f"diameter: {numbers['by_diameter/roc_auc']:.3f}", by_size),
        ),
    )
    yield (
        "precision_recall",
        figures.precision_recall_figure(
            evaluation.precision_recall,
            average_precision=numbers["average_precision"],
            prevalence=float(evaluation.label.mean()),
        ),
    )
    if detection is not None:
        yield "froc", figures.froc_figure(detection.froc, detection.intervals)
        yield "diameter_bands", figures.bands_figure(detection.bands, threshold=evaluation.threshold)
    yield (
        "reliability",
        figures.reliability_figure(evaluation.reliability, positives=task.positives, ece=numbers["ece"]),
    )
    yield "confusion", figures.confusion_figure(numbers, **named)
    yield "scores", figures.histogram_figure(evaluation.label, evaluation.predictions["score"], **named)


def _kinds(evaluation: Evaluation) -> dict[str, tuple[str, pd.DataFrame]]:
    """For each gallery its title and its candidates, the most telling first."""
    task, threshold = evaluation.task, evaluation.threshold
    ranked = evaluation.predictions.sort_values(["score", "candidate_id"], ascending=[False, True])
    is_positive, is_called = ranked[task.label], ranked["score"] >= threshold
    found = set(ranked["nodule_id"][is_called]) - {-1}
    is_missed = is_positive & ~is_called & ~ranked["nodule_id"].isin(found)
    negatives, positives = (name[0].upper() + name[1:] for name in (task.negatives, task.positives))
    return {
        "false_positives": (
            f"{negatives} scored at least {threshold:.3g}, highest first",
            _one_a_nodule(ranked[is_called & ~is_positive]),
        ),
        "false_negatives": (
            f"{positives} with no score from {threshold:.3g} on, lowest first",
            _one_a_nodule(ranked[is_missed][::-1]),
        ),
        "true_positives": (
            f"{positives} scored at least {threshold:.3g}, highest first",
            _one_a_nodule(ranked[is_called & is_positive]),
        ),
    }


def _one_a_nodule(ranked: pd.DataFrame) -> pd.DataFrame:
    """Each nodule's first candidate, and those that are matched to no annotated nodule."""
    return ranked[~ranked["nodule_id"].duplicated() | (ranked["nodule_id"] < 0)]


def _caption(candidate: Any) -> str:
    size = f"{candidate.diameter_mm:.1f} mm" if candidate.diameter_mm > 0 else "diameter unknown"
    about = f"{size}, score {candidate.score:.3f}" if candidate.is_nodule else f"score {candidate.score:.3f}"
    return (
        f"…{candidate.series_uid[-12:]}, candidate {candidate.candidate_id}, {about}\n"
        f"x {candidate.x:.1f}, y {candidate.y:.1f}, z {candidate.z:.1f} mm"
    )
