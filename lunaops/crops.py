"""The crop cache: every candidate of a scan cut out once, kept as one int16 block, memory-mapped by readers.

A block is (n, slices, rows, columns) of HU, its crops in the order of the scan's rows in candidates.parquet. diskcache
stores it as a file, under a key that names everything its content depends on, so an old crop is never returned: other
content has another key. Nothing in it is pickled. It is a true cache: what is missing or damaged is cut again, with a
line in the log. data/crops.json, the manifest, is what DVC tracks.
"""

import json
import logging
import math
import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import diskcache
import numpy as np
import pandas as pd
import platformdirs
import xxhash
from numpy.typing import NDArray

from lunaops.cores import num_cores
from lunaops.ct import HuArray, cut_crop, raw_digest, read_ct
from lunaops.errors import InputError
from lunaops.geometry import irc_from_xyz

logger = logging.getLogger(__name__)

CUTTING_VERSION = 1  # raise it when cutting gives other voxels for the same input


@dataclass(frozen=True)
class Geometry:
    """What a crop is: its size in voxels, the HU range that it is clipped to, the HU of what lies outside."""

    size_irc: tuple[int, int, int]
    hu_range: tuple[int, int]
    pad_hu: int


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


def cache_folder() -> Path:
    """Where crops are kept: LUNAOPS_CACHE_DIR, or the user's cache folder by the system's convention."""
    chosen = os.environ.get("LUNAOPS_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("lunaops") / "crops"


class _UnpickledDisk(diskcache.Disk):  # type: ignore[misc]
    """diskcache's files without its pickles: reading one runs code (CVE-2025-69872)."""

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
        if mode not in (diskcache.core.MODE_RAW, diskcache.core.MODE_BINARY):
            raise InputError(f"{self._directory}: holds a pickled entry, which no version of lunaops wrote: remove it")
        return super().fetch(mode, filename, value, read)


class CropCache:
    """Blocks of crops by key, in a folder that any number of processes may share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._cache = diskcache.Cache(str(folder), disk=_UnpickledDisk, eviction_policy="none", size_limit=2**62)
        except (OSError, sqlite3.Error) as error:
            raise InputError(f"{folder}: no crop cache can be kept there: {error}; set LUNAOPS_CACHE_DIR") from error

    def __enter__(self) -> "CropCache":
        return self

    def __exit__(self, *_: object) -> None:
        self._cache.close()

    def put(self, key: str, block: HuArray) -> None:
        """Keep `block` and its digest under `key`, replacing what was there. Raises InputError on a full disk."""
        try:
            self._cache.set(key, _Stream(block), read=True, tag=digest_of(block))
        except (OSError, sqlite3.Error) as error:
            raise InputError(f"{self.folder}: a block of crops cannot be written: {error}; make room there") from error

    def get(self, key: str, shape: tuple[int, ...]) -> tuple[HuArray, str] | None:
        """The block kept under `key`, memory-mapped and read-only, and its digest; None where there is none.

        The whole block is read once to hold it against its digest: one that is damaged counts as missing, with a
        warning.
        """
        file, digest = self._cache.get(key, default=None, read=True, tag=True)
        if file is None:
            return None
        with file:
            fits = os.fstat(file.fileno()).st_size == 2 * math.prod(shape)
            block: HuArray | None = np.memmap(file, np.int16, "r", shape=shape) if fits else None
        if block is not None and digest_of(block) == digest:
            return block, digest
        logger.warning("a block of crops in %s is damaged and will be cut again: %s", self.folder, key)
        return None


class _Stream:
    """What diskcache reads a file's bytes from, without a copy of the block."""

    def __init__(self, block: HuArray) -> None:
        self._rest = block.reshape(-1).data.cast("B")

    def read(self, size: int) -> memoryview:
        chunk, self._rest = self._rest[:size], self._rest[size:]
        return chunk


def build_blocks(
    scans: pd.DataFrame, candidates: pd.DataFrame, *, raw: Path, geometry: Geometry, folder: Path, workers: int
) -> Iterator[Block]:
    """Cut the crops of every scan that the cache lacks; yields the entry of each scan with candidates, in order.

    `workers` processes cut (0: one a core); each holds one scan and one block. The cache is at `folder`.
    """
    centers = centers_by_series(candidates)
    jobs = [
        (series_uid, path, centers[series_uid])
        for series_uid, path in zip(scans["series_uid"], scans["path"], strict=True)
        if series_uid in centers
    ]
    build = partial(_build_block, raw=raw, geometry=geometry, folder=folder)
    workers = min(workers or num_cores(), len(jobs))
    if workers <= 1:
        yield from map(build, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(build, jobs)


def centers_by_series(candidates: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """The candidates' centres in mm, (n, 3), by series, in the order of the table."""
    return {
        str(series_uid): rows[["x", "y", "z"]].to_numpy(np.float64)
        for series_uid, rows in candidates.groupby("series_uid", sort=False)
    }


def cut_block(path: Path, centers_xyz: NDArray[np.float64], geometry: Geometry) -> HuArray:
    """All crops of the scan at `path`: (n, slices, rows, columns), one around each centre."""
    ct = read_ct(path, geometry.hu_range)
    block = np.empty((len(centers_xyz), *geometry.size_irc), np.int16)
    for crop, center_irc in zip(block, irc_from_xyz(centers_xyz, ct.grid), strict=True):
        cut_crop(ct, center_irc, crop, geometry.pad_hu)
    return block


def block_key(series_uid: str, scan_digest: str, centers_xyz: NDArray[np.float64], geometry: Geometry) -> str:
    """The name of a block: everything that its content depends on."""
    return json.dumps(
        [
            f"crops v{CUTTING_VERSION}",
            series_uid,
            scan_digest,
            xxhash.xxh3_128_hexdigest(np.ascontiguousarray(centers_xyz, "<f8").tobytes()),
            geometry.size_irc,
            geometry.hu_range,
            geometry.pad_hu,
        ],
        separators=(",", ":"),
    )


class CropReader:
    """The crops that a manifest names, for reading; opens each scan's block when it is first asked for.

    A block that the cache lacks, or whose content is not the manifest's, is cut again from the scan below `raw`.
    It may be sent to another process, which opens its own maps.
    """

    def __init__(self, manifest: Manifest, candidates: pd.DataFrame, raw: Path, folder: Path) -> None:
        self.manifest = manifest
        self.raw = raw
        self.folder = folder
        self._blocks = {block.series_uid: block for block in manifest.blocks}
        self._centers = centers_by_series(candidates)
        self._cache: CropCache | None = None
        self._opened: dict[str, HuArray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None, "_opened": {}}

    def block(self, series_uid: str) -> HuArray:
        """The crops of a series, (n, slices, rows, columns), read-only.

        Raises InputError where it must be cut again and the scan is not there or is not the manifest's.
        """
        if series_uid not in self._opened:
            self._opened[series_uid] = self._open(self._entry(series_uid))
        return self._opened[series_uid]

    def _entry(self, series_uid: str) -> Block:
        if series_uid not in self._blocks:
            raise InputError(f"crops.json lacks series {series_uid}; run `dvc repro build-cache`")
        return self._blocks[series_uid]

    def _open(self, entry: Block) -> HuArray:
        if self._cache is None:
            self._cache = CropCache(self.folder)
        shape = (entry.crops, *self.manifest.geometry.size_irc)
        found = self._cache.get(entry.key, shape)
        if found is None or found[1] != entry.digest:
            logger.warning("crops of %s are not in %s: cutting them", entry.series_uid, self.folder)
            self._cache.put(entry.key, self._cut(entry))
            found = self._cache.get(entry.key, shape)
            assert found is not None
        return found[0]

    def _cut(self, entry: Block) -> HuArray:
        path = self.raw / entry.path
        part = Path(entry.path).parts[0]
        if not path.is_file():
            raise InputError(
                f"crops of series {entry.series_uid} are not in {self.folder} and its scan {path} is not there: "
                f"run `dvc pull {self.raw / part}`, or `dvc repro fetch-subsets@{part}`"
            )
        block = cut_block(path, self._centers[entry.series_uid], self.manifest.geometry)
        if digest_of(block) != entry.digest:
            raise InputError(
                f"{path} or its candidates are not those that crops.json was made from: run `dvc repro build-cache`"
            )
        return block


def digest_of(block: HuArray) -> str:
    """xxh3_128 of a block's bytes."""
    return xxhash.xxh3_128_hexdigest(block.reshape(-1).data)


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write crops.json: what was cut and how, and the totals."""
    crops = sum(block.crops for block in manifest.blocks)
    size = 2 * crops * math.prod(manifest.geometry.size_irc)
    tree = {
        "geometry": asdict(manifest.geometry),
        "totals": {"scans": len(manifest.blocks), "crops": crops, "bytes": size},
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


def _build_block(job: tuple[str, str, NDArray[np.float64]], *, raw: Path, geometry: Geometry, folder: Path) -> Block:
    series_uid, path, centers_xyz = job
    key = block_key(series_uid, raw_digest(raw / path), centers_xyz, geometry)
    with CropCache(folder) as cache:
        found = cache.get(key, (len(centers_xyz), *geometry.size_irc))
        if found is not None:
            return Block(series_uid, path, key, len(centers_xyz), found[1])
        block = cut_block(raw / path, centers_xyz, geometry)
        cache.put(key, block)
        return Block(series_uid, path, key, len(centers_xyz), digest_of(block))
