"""merge-annotations at LUNA16's size, row for row against the two rules as they are written down."""

import csv
import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from lunaops.candidates import merge_annotations
from lunaops.geometry import Grid
from lunaops.labels import read_labels
from lunaops.params import MergeParams, SplitParams
from lunaops.tables import Scan

LOW_MM, SIDE = -2000.0, 4001
HEADER = "seriesuid,coordX,coordY,coordZ"


def write_labels(real: Path, folder: Path, num_candidates: int) -> None:
    """The real annotations, some twice and some overlapping, and candidates around them and anywhere."""
    rng = np.random.default_rng(7)
    annotations = list(csv.reader((real / "annotations.csv").open()))[1:]
    for uid, x, y, z, diameter in annotations[:300]:  # overlap the one before; the first in the file's order counts
        annotations.append([uid, repr(float(x) + 1), y, z, repr(float(diameter) * 1.5)])
    annotations += annotations[:5]
    candidates = []
    for uid, *numbers in annotations:
        x, y, z, diameter = map(float, numbers)
        for reach in (diameter * 0.25, diameter / 2):  # on the edge of the box and of the ball, and a float beside it
            for edge in (x + reach, x - reach):
                candidates += [(uid, value, y, z) for value in (edge, np.nextafter(edge, x), np.nextafter(edge, 9e9))]
        near = np.array([x, y, z]) + rng.uniform(-0.6, 0.6, (20, 3)) * diameter
        candidates += [(uid, *place) for place in near.tolist()]
    uids = (real / "seriesuids.csv").read_text().split()
    count = num_candidates - len(candidates)
    places = rng.uniform([-200, -200, -500], [200, 200, 200], (count, 3)).round(6).tolist()
    candidates += [(uids[pick], *place) for pick, place in zip(rng.integers(0, 888, count), places, strict=True)]
    candidates[-1000:] = candidates[:1000]  # repeated
    order = rng.permutation(len(candidates))
    with (folder / "annotations.csv").open("w") as file:
        file.write(f"{HEADER},diameter_mm\r\n" + "".join(",".join(row) + "\r\n" for row in annotations))
    with (folder / "candidates.csv").open("w") as file:
        file.write(f"{HEADER},class\n")
        file.writelines(",".join(map(str, candidates[row])) + f",{int(row % 400 == 0)}\n" for row in order)


def scans_of(real: Path) -> list[Scan]:
    """All but subset 9, on a grid of millimetres; of subset 8 it ends 200 mm below z = 0."""
    scans = []
    for number, uids in json.loads((real / "subset_to_uids.json").read_text()).items():
        slices = SIDE if number != "8" else 1801
        grid = Grid((slices, SIDE, SIDE), (1.0,) * 3, (LOW_MM,) * 3, ((1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0)))
        scans += [Scan(uid, f"subset{number}", f"{uid}.mhd", grid) for uid in uids if number != "9"]
    return scans


def by_loops(folder: Path, scans: list[Scan]) -> list[tuple]:
    """The candidates in the book's order, one at a time: the box rule of the book, LUNA16's hit rule."""
    slices = {scan.series_uid: scan.grid.shape_irc[0] for scan in scans}

    def rows(name: str) -> list[tuple]:
        read = [(row[0], *map(float, row[1:])) for row in list(csv.reader((folder / name).open()))[1:]]
        kept = dict.fromkeys(row for row in read if row[0] in slices)
        return [
            row
            for row in kept
            if all(0 <= round(c - LOW_MM) < n for c, n in zip(row[1:4], (SIDE, SIDE, slices[row[0]]), strict=True))
        ]

    nodules = defaultdict(list)
    for nodule_id, (uid, *numbers) in enumerate(sorted(rows("annotations.csv"), key=lambda row: row[0])):
        nodules[uid].append((nodule_id, *numbers))
    found = []
    candidates = rows("candidates.csv")
    both = {row[:4] for row in candidates if row[4] == 1}
    for uid, x, y, z, label in candidates:
        if label == 0 and (uid, x, y, z) in both:
            continue
        diameter_mm, nodule, nearest = 0.0, -1, math.inf
        for nodule_id, nx, ny, nz, diameter in nodules[uid]:
            dx, dy, dz = abs(x - nx), abs(y - ny), abs(z - nz)
            edge = diameter * 0.25
            if diameter_mm == 0.0 and dx <= edge and dy <= edge and dz <= edge:
                diameter_mm = diameter
            squared = dx * dx + dy * dy + dz * dz
            if squared < (diameter / 2) ** 2 and squared < nearest:
                nodule, nearest = nodule_id, squared
        found.append((label == 1, diameter_mm, uid, x, y, z, nodule))
    return sorted(found, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("num_candidates", [551_065, pytest.param(754_975, marks=pytest.mark.long)])
def test_every_row_of_a_full_merge_is_what_the_rules_say(tmp_path: Path, slabs: Path, num_candidates: int) -> None:
    real = slabs.parent / "luna16-labels"
    write_labels(real, tmp_path, num_candidates)
    scans = scans_of(real)
    split = SplitParams(
        strategy="k_fold", val=(), test=(), fold=8, folds=(8,), seed=1, val_share=0.1, test_share=0.1, val_stride=10
    )
    labels = read_labels(tmp_path, "candidates")
    assert len(labels.candidates) == num_candidates
    tables = merge_annotations(scans, labels, merge=MergeParams(box_fraction=0.25), split=split)
    columns = ["is_nodule", "diameter_mm", "series_uid", "x", "y", "z", "nodule_id"]
    got = list(zip(*(tables.candidates[name].tolist() for name in columns), strict=True))
    wanted = by_loops(tmp_path, scans)
    assert len(got) == len(wanted)
    assert got == wanted
    assert tables.facts["left_out"]["duplicate_nodules"] == 5
    assert tables.facts["left_out"]["candidates_outside_scan"] > 1000
    assert sum(row[1] > 0 for row in got) > 5_000
    assert sum(row[6] >= 0 for row in got) > 10_000
