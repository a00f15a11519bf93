"""The page's sections of pictures, data and code."""

from typing import Any

from lunaops import report
from lunaops.geometry import Grid
from lunaops.html_report.crop_png import CROP_PNG_SIZE, crop_png
from lunaops.html_report.digits import decimal
from lunaops.html_report.material import Material
from lunaops.html_report.page import Picture, PictureRow, Section, Table, Text
from lunaops.scan_figures import CROP_FIELD_MM, LUNG_HU, OBLIQUE_DEGREES
from lunaops.tables import XYZ, grid_of
from lunaops.task import Task
from lunaops.views import hanging

COUNTED = {  # in data.json -> the column's heading
    "scans": "Scans",
    "scans_without_nodules": "without a nodule",
    "nodules": "Nodules",
    "candidates": "Candidates",
    "positives": "of a nodule",
    "negatives": "of none",
}


def galleries(material: Material) -> Section:
    """The worst false positives, the misses, and the best of what was found."""
    grids = {row["series_uid"]: grid_of(row) for row in material.scans.to_dict("records")}

    def picture(row: Any) -> Picture:
        grid = grids[row.series_uid]
        png, seen = crop_png(material.pictures[row.candidate_id], grid), _seen(row, material.evaluation.task)
        return Picture(png, CROP_PNG_SIZE, seen, _facts(row, grid))

    rows = []
    for gallery in report.galleries(material.evaluation, material.pictures):
        pictures = [picture(row) for row in gallery.shown.itertuples()]
        rows.append(PictureRow(f"{gallery.title}: {len(pictures)} of {gallery.total:,}", pictures))
    detection = material.evaluation.detection
    never = detection.froc.false_negatives if detection else 0
    unseen = [Text(f"Nodules that no candidate marks, so that none can be shown: {never:,}.")] if never else []
    return Section("galleries", "Worst and best", [Text(_how_to_look()), *unseen, *rows])


def data(material: Material) -> Section:
    """What each split holds, what was left out, and the files that were evaluated."""
    evaluated, left_out = material.evaluation.params.split, material.data["left_out"]
    rows = [
        [
            f"{split} (evaluated)" if split == evaluated else split,
            *(f"{counts[name]:,}" for name in COUNTED),
            _median_mm(counts),
        ]
        for split, counts in material.data["splits"].items()
    ]
    lost = [
        f"{name.replace('_', ' ')} {count:,}" for name, count in left_out.items() if isinstance(count, int) and count
    ]
    strategy = str(material.data["strategy"])
    leaks = (
        " A scan has candidates in several splits, so the numbers flatter." if strategy == "candidate_stride" else ""
    )
    said = f"Split by {strategy.replace('_', ' ')}.{leaks} Left out of the labels: {', '.join(lost) or 'nothing'}."
    return Section(
        "data",
        "The data",
        [
            Table("What each split holds", ["Split", *COUNTED.values(), "Median diameter [mm]"], rows),
            Text(said),
            _pairs("What was evaluated", ("Table", "md5, as in dvc.lock"), material.origin.digests),
        ],
    )


def code(material: Material) -> Section:
    """Which training run, which commit, which versions, which settings."""
    origin, run = material.origin, material.origin.training_run
    changes = " and changes that are not committed" if origin.is_dirty else ""
    said = {
        "Training run": run.name,
        "its tag lunaops.journal_id in MLflow": run.journal_id or "none",
        "Evaluated by": f"commit {origin.commit}{changes}" if origin.commit else "code outside a git repository",
        "Versions": ", ".join(f"{name} {version}" for name, version in origin.versions.items()),
    }
    params = material.evaluation.params.model_dump(mode="json", by_alias=True)
    settings = {name: _setting(value) for name, value in params.items()}
    return Section(
        "code",
        "The code",
        [
            _pairs("Which code", ("What", "Which"), said),
            _pairs(
                "Settings, section evaluate of params.yaml",
                ("Parameter", "Value"),
                settings,
            ),
        ],
    )


def _how_to_look() -> str:
    low, high = LUNG_HU
    return (
        f"Each candidate in three planes, {CROP_FIELD_MM:g} mm wide, in the lung window ({low} to {high} HU): "
        "transverse (front up, the patient's right on the left), coronal (head up, right on the left), sagittal "
        "(head up, front on the left). Yellow marks point at it; the bar is 10 mm. To see it in its scan: "
        "python -m lunaops show SERIES --candidate N."
    )


def _seen(candidate: Any, task: Task) -> str:
    kind = task.classes[int(getattr(candidate, task.label))].capitalize()
    size = f", of {candidate.diameter_mm:.1f} mm" if candidate.diameter_mm > 0 else ""
    return f"{kind}{size}, scored {candidate.score:.3f}: candidate {candidate.candidate_id} in three planes"


def _facts(candidate: Any, grid: Grid) -> list[tuple[str, str]]:
    size = f"{candidate.diameter_mm:.1f} mm" if candidate.diameter_mm > 0 else "unknown"
    tilt = hanging(grid.direction).degrees_off
    place = ", ".join(decimal(getattr(candidate, axis), 1) for axis in XYZ)
    return [
        ("Score", decimal(candidate.score)),
        *([("Diameter", size)] if candidate.is_nodule else []),
        ("Candidate", str(candidate.candidate_id)),
        ("x, y, z", f"{place} mm"),
        ("Series", candidate.series_uid),
        *([("Planes", f"along the voxels, {tilt:.0f}° off the patient's axes")] if tilt >= OBLIQUE_DEGREES else []),
    ]


def _median_mm(counts: dict[str, Any]) -> str:
    percentiles = counts["diameter_mm_percentiles"]
    return decimal(percentiles["50"], 1) if percentiles else "none"


def _pairs(caption: str, columns: tuple[str, str], pairs: Any) -> Table:
    return Table(caption, columns, list(pairs.items()), text_columns=2)


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_setting, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)
