"""Scans and candidates of LUNA16's size, made up: what they show does not matter here, how many bytes they are does."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

SHAPE_IRC = (250, 512, 512)
SPACING_XYZ = (0.7, 0.7, 1.25)
CANDIDATES_PER_SCAN = 620  # of LUNA16: 551,065 in 888 scans
NUM_SCANS, NUM_CANDIDATES = 888, 551_065
HEADER = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = -179 -179 -312
CenterOfRotation = 0 0 0
ElementSpacing = {spacing}
DimSize = {size}
ElementType = MET_SHORT
ElementDataFile = {raw}
"""


def write_scans(raw: Path, count: int, *, distinct: int) -> pd.DataFrame:
    """`count` scans below `raw`, `distinct` of them with bytes of their own and the others hard links to these."""
    folder = raw / "subset0"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(16)
    slab = rng.normal(-500, 500, (10, *SHAPE_IRC[1:])).astype(np.int16)
    for number in range(count):
        path = folder / f"1.{number}.raw"
        if number < distinct:
            with path.open("wb") as file:
                for part in range(SHAPE_IRC[0] // len(slab)):
                    file.write(np.roll(slab, 977 * (number + 7 * part)).data)
            os.utime(path, (1e9, 1e9))  # so old that its time of change can be trusted
        else:
            path.hardlink_to(folder / f"1.{number % distinct}.raw")
        spacing, size = (" ".join(map(str, values)) for values in (SPACING_XYZ, SHAPE_IRC[::-1]))
        path.with_suffix(".mhd").write_text(HEADER.format(spacing=spacing, size=size, raw=path.name))
    uids = [f"1.{number}" for number in range(count)]
    return pd.DataFrame({"series_uid": uids, "path": [f"subset0/{uid}.mhd" for uid in uids]})


def make_candidates(scans: pd.DataFrame, per_scan: int = CANDIDATES_PER_SCAN) -> pd.DataFrame:
    """Candidates spread evenly over two ellipsoids, the lungs, of each scan; some crops reach over the border."""
    rng = np.random.default_rng(17)
    tables = []
    for series_uid in scans["series_uid"]:
        ball = rng.normal(size=(per_scan, 3))
        ball *= rng.uniform(size=(per_scan, 1)) ** (1 / 3) / np.linalg.norm(ball, axis=1, keepdims=True)
        center = np.where(rng.uniform(size=(per_scan, 1)) < 0.5, [-85.0, 0, 0], [85.0, 0, 0])
        xyz = center + ball * [60, 95, 150]
        tables.append(pd.DataFrame(xyz, columns=["x", "y", "z"]).assign(series_uid=series_uid))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(candidate_id=range(len(table)), split="train", is_nodule=table.index % 400 == 0)
