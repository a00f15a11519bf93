"""The crops of a scan's candidates: how they are cut, the manifest that names them, and reading them.

A block is (n, slices, rows, columns) of HU as int16, the crops of one scan in the order of its rows in
candidates.parquet. The cache keeps it under a key that names everything its content depends on, so an old crop is never
returned: other content has another key. It is a true cache: what is missing or damaged is cut again, with a line in the
log. data/crops.json, the manifest, is what DVC tracks.
"""

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xxhash
from numpy.typing import NDArray

from lunaops.crop_block import StoredBlock
from lunaops.crop_store import CropCache
from lunaops.ct import Ct, HuArray, ScanReader, cut_crop, scan_digest
from lunaops.errors import InputError
from lunaops.geometry import irc_from_xyz

logger = logging.getLogger(__name__)

CUTTING_VERSION = 1  # raise it when cutting gives other voxels for the same input
_CHUNK_BYTES = 1 << 20  # cut, clipped, digested and written in turn: it never leaves the processor's cache


@dataclass(frozen=True)
class Geometry:
    """What a crop is: its size in voxels, the HU range that it is clipped to, the HU of what lies outside."""

    size_irc: tuple[int, int, int]
    hu_range: tuple[int, int]
    pad_hu: int

    @property
    def crop_bytes(self) -> int:
        """The size of a crop."""
        return 2 * math.prod(self.size_irc)


@dataclass(frozen=True)
class Block:
    """One scan's crops as the manifest names them; `path` is relative to the folder of the raw data."""

    series_uid: str
    path: str
    key: str
    crops: int
    digest: str


@dataclass(frozen=True)
class Manifest:
    """data/crops.json."""

    geometry: Geometry
    blocks: tuple[Block, ...]


def centers_by_series(candidates: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """The candidates' centres in mm, (n, 3), by series, in the order of the table."""
    return {
        str(series_uid): rows[["x", "y", "z"]].to_numpy(np.float64)
        for series_uid, rows in candidates.groupby("series_uid", sort=False)
    }


def cut_crops(ct: Ct, centers_xyz: NDArray[np.float64], geometry: Geometry) -> Iterator[HuArray]:
    """The crops around the centres, (k, slices, rows, columns) at a time, in the same memory every time.

    Crops are clipped, not the scan: they are fewer voxels (0.7 of a LUNA16 scan's) and just at hand.
    """
    per_chunk = max(1, _CHUNK_BYTES // geometry.crop_bytes)
    chunk = np.empty((per_chunk, *geometry.size_irc), np.int16)
    centers_irc = irc_from_xyz(centers_xyz, ct.grid)
    for start in range(0, len(centers_irc), per_chunk):
        of_chunk = centers_irc[start : start + per_chunk]
        for crop, center_irc in zip(chunk, of_chunk, strict=False):
            cut_crop(ct, center_irc, crop, geometry.pad_hu)
            np.clip(crop, *geometry.hu_range, out=crop)
        yield chunk[: len(of_chunk)]


def block_key(series_uid: str, scan: str, centers_xyz: NDArray[np.float64], geometry: Geometry) -> str:
    """The name of a block: everything that its content depends on; `scan` is the digest of the scan."""
    return json.dumps(
        [
            f"crops v{CUTTING_VERSION}, digested one by one",
            series_uid,
            scan,
            xxhash.xxh3_128_hexdigest(np.ascontiguousarray(centers_xyz, "<f8").tobytes()),
            geometry.size_irc,
            geometry.hu_range,
            geometry.pad_hu,
        ],
        separators=(",", ":"),
    )


class CropReader:
    """The crops that a manifest names, for reading; opens each scan's block when it is first asked for.

    A crop that the cache lacks or that is damaged is cut again, with its block, from the scan below `raw`. It may be
    sent to another process or forked: a process opens its own maps and holds no connection.
    """

    def __init__(self, manifest: Manifest, candidates: pd.DataFrame, raw: Path, folder: Path) -> None:
        self.manifest = manifest
        self.raw = raw
        self.folder = folder
        self._blocks = {block.series_uid: block for block in manifest.blocks}
        self._centers = centers_by_series(candidates)
        self._opened: dict[str, StoredBlock] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    def crop(self, series_uid: str, row: int) -> HuArray:
        """The crop of a series' candidate, by its row among them: (slices, rows, columns), read-only.

        Raises InputError where it must be cut again and the scan is not there or is not the manifest's.
        """
        block = self._opened.get(series_uid)
        if block is None:
            block = self._opened[series_uid] = self._open(self._entry(series_uid))
        if not (block.checked[row] or block.is_sound(row)):
            block = self._opened[series_uid] = self._healed(self._entry(series_uid), row)
        crop: HuArray = block.hu[row]
        return crop

    def _entry(self, series_uid: str) -> Block:
        if series_uid not in self._blocks:
            raise InputError(f"crops.json lacks series {series_uid}; run `dvc repro build-cache`")
        return self._blocks[series_uid]

    def _open(self, entry: Block) -> StoredBlock:
        return self._find(entry) or self._cut(entry, "not there")

    def _find(self, entry: Block) -> StoredBlock | None:
        """The entry's block, unless the cache has none or one of other content."""
        with CropCache(self.folder) as cache:
            found = cache.open(entry.key, (entry.crops, *self.manifest.geometry.size_irc))
        return found if found and found.digest == entry.digest else None

    def _healed(self, entry: Block, row: int) -> StoredBlock:
        """The entry's block with a sound crop at `row`: another process may have healed it since it was opened."""
        found = self._find(entry)
        return found if found and found.is_sound(row) else self._cut(entry, "damaged")

    def _cut(self, entry: Block, why: str) -> StoredBlock:
        logger.warning("crops of %s in %s are %s: cutting them", entry.series_uid, self.folder, why)
        path, centers_xyz, geometry = self.raw / entry.path, self._centers[entry.series_uid], self.manifest.geometry
        part = Path(entry.path).parts[0]
        if not path.is_file():
            raise InputError(
                f"crops of series {entry.series_uid} in {self.folder} are {why} and its scan {path} is not there: "
                f"run `dvc pull {self.raw / part}`, or `dvc repro fetch-subsets@{part}`"
            )
        ct, voxels = ScanReader().read(path)
        if block_key(entry.series_uid, scan_digest(path, voxels), centers_xyz, geometry) != entry.key:
            raise InputError(
                f"{path} or its candidates are not those that crops.json was made from: run `dvc repro build-cache`"
            )
        with CropCache(self.folder) as cache:
            cache.put(entry.key, lambda: cut_crops(ct, centers_xyz, geometry), entry.crops)
        block = self._find(entry)
        if block is None:
            raise InputError(
                f"crops.json is not of this lunaops, as {entry.series_uid} shows: run `dvc repro -f build-cache`"
            )
        return block


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write crops.json: what was cut and how, and the totals."""
    crops = sum(block.crops for block in manifest.blocks)
    tree = {
        "geometry": asdict(manifest.geometry),
        "totals": {"scans": len(manifest.blocks), "crops": crops, "bytes": crops * manifest.geometry.crop_bytes},
        "scans": [asdict(block) for block in manifest.blocks],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, indent=1) + "\n")


def read_manifest(path: Path) -> Manifest:
    """Read crops.json. Raises InputError where it is missing or not one."""
    try:
        tree = json.loads(path.read_text())
        geometry = tree["geometry"]
        return Manifest(
            Geometry(tuple(geometry["size_irc"]), tuple(geometry["hu_range"]), geometry["pad_hu"]),
            tuple(Block(**scan) for scan in tree["scans"]),
        )
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: no usable crop manifest ({error}); run `dvc repro build-cache`") from error
