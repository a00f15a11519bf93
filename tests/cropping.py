"""Two scans, three candidates and a crop cache small enough to see through."""

from pathlib import Path

import numpy as np
import pandas as pd
from conftest import write_scan

from lunaops.crop_building import build_blocks
from lunaops.crops import CropReader, Geometry, Manifest

GEOMETRY = Geometry((2, 4, 4), (-1000, 1000), -1000)
SCANS = pd.DataFrame({"series_uid": ["1", "2"], "path": ["subset0/1.mhd", "subset1/2.mhd"]})
CANDIDATES = pd.DataFrame({"series_uid": ["2", "1", "1"], "x": [3.0, 3, 0], "y": [3.0, 3, 0], "z": [3.0, 3, 0]})


def write_raw(folder: Path) -> Path:
    """Two scans of 6 x 6 x 6 voxels of 1 mm; a voxel's HU is its number (scan 2: less one)."""
    hu = np.arange(216).reshape(6, 6, 6)
    write_scan(folder / "subset0" / "1.mhd", hu)
    write_scan(folder / "subset1" / "2.mhd", hu - 1)
    return folder


def build(
    raw: Path,
    folder: Path,
    *,
    scans: pd.DataFrame = SCANS,
    candidates: pd.DataFrame = CANDIDATES,
    geometry: Geometry = GEOMETRY,
    workers: int = 1,
) -> Manifest:
    blocks = build_blocks(scans, candidates, raw=raw, geometry=geometry, folder=folder, workers=workers)
    return Manifest(geometry, tuple(blocks))


def crops_of(reader: CropReader, series_uid: str) -> list:
    """All crops of a series, as lists."""
    (entry,) = (block for block in reader.manifest.blocks if block.series_uid == series_uid)
    return [reader.crop(series_uid, row).tolist() for row in range(entry.crops)]


def blocks_on_disk(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.val"))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
