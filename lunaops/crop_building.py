"""Filling the crop cache: which scans' crops it lacks, and processes that cut them."""

import logging
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lunaops.cores import num_cores, spread
from lunaops.crop_store import CropCache, file_name
from lunaops.crops import Block, Geometry, block_key, centers_by_series, cut_crops
from lunaops.ct import ScanReader, raw_path, scan_digest

logger = logging.getLogger(__name__)

_SETTLED_SECONDS = 2.0  # the coarsest time stamp of a file system (FAT): what was written later may change unseen


class _Job(NamedTuple):
    series_uid: str
    path: str
    centers_xyz: NDArray[np.float64]


def build_blocks(
    scans: pd.DataFrame, candidates: pd.DataFrame, *, raw: Path, geometry: Geometry, folder: Path, workers: int
) -> Iterator[Block]:
    """Cut the crops of every scan that the cache at `folder` lacks; yields each scan with candidates, in order.

    `workers` processes cut (0: one a core); each holds one scan. A scan that the cache has met before, by its path,
    inode, size and time of change, is not read to know its digest, and a block that is there with its whole size is
    not read either: readers hold each crop against its digest, and `cache verify` all of them.
    """
    centers = centers_by_series(candidates)
    jobs = [
        _Job(series_uid, path, centers[series_uid])
        for series_uid, path in zip(scans["series_uid"], scans["path"], strict=True)
        if series_uid in centers
    ]
    with _Builder(raw, geometry, folder) as builder:
        why = "a build was killed" if builder.cache.entries() else "the index was lost, or the first build was killed"
        swept = builder.cache.sweep()
        if swept.files:
            logger.info("removed %s: %s", swept, why)
        there = {job.series_uid: block for job in jobs if (block := builder.known(job)) is not None}
    built = _build([job for job in jobs if job.series_uid not in there], raw, geometry, folder, workers)
    num_cut = 0
    for job in jobs:
        block, was_cut = (there[job.series_uid], False) if job.series_uid in there else next(built)
        num_cut += was_cut
        yield block
    logger.info("crops: %d scans cut, %d were there already, in %s", num_cut, len(jobs) - num_cut, folder)


def _build(jobs: list[_Job], raw: Path, geometry: Geometry, folder: Path, workers: int) -> Iterator[tuple[Block, bool]]:
    workers = min(workers or num_cores(), len(jobs))
    if workers <= 1:
        with _Builder(raw, geometry, folder) as builder:
            yield from map(builder.build, jobs)
        return
    yield from spread(
        _build_in_worker,
        jobs,
        workers,
        start=partial(_start_worker, raw, geometry, folder),
        mend="lower crop.workers and run again; what was cut is kept",
    )


class _Builder:
    """What a process needs to cut one scan after another: its memory and its place in the cache."""

    def __init__(self, raw: Path, geometry: Geometry, folder: Path) -> None:
        self.cache = CropCache(folder)
        self._raw = raw
        self._geometry = geometry
        self._reader = ScanReader()

    def __enter__(self) -> "_Builder":
        return self

    def __exit__(self, *_: object) -> None:
        self.cache.__exit__()

    def known(self, job: _Job) -> Block | None:
        """The job's block, if the cache has it and can tell without reading the scan."""
        path = self._raw / job.path
        if not raw_path(path).is_file():
            return None
        voxels = self.cache.recall(file_name("voxels", raw_path(path)))
        return self._found(job, self._key(job, voxels)) if voxels else None

    def build(self, job: _Job) -> tuple[Block, bool]:
        """The job's block, and whether it had to be cut."""
        path = self._raw / job.path
        started = time.time()
        ct, voxels = self._reader.read(path)
        self._remember(raw_path(path), voxels, started)
        key = self._key(job, voxels)
        found = self._found(job, key)
        if found is not None:
            return found, False
        count = len(job.centers_xyz)
        digest = self.cache.put(key, lambda: cut_crops(ct, job.centers_xyz, self._geometry), count)
        return Block(job.series_uid, job.path, key, count, digest), True

    def _key(self, job: _Job, voxels: str) -> str:
        return block_key(job.series_uid, scan_digest(self._raw / job.path, voxels), job.centers_xyz, self._geometry)

    def _found(self, job: _Job, key: str) -> Block | None:
        entry = self.cache.entry(key, len(job.centers_xyz), self._geometry.crop_bytes)
        return None if entry is None else Block(job.series_uid, job.path, key, len(job.centers_xyz), entry.digest)

    def _remember(self, voxels_path: Path, voxels: str, started: float) -> None:
        if voxels_path.stat().st_mtime < started - _SETTLED_SECONDS:
            self.cache.remember(file_name("voxels", voxels_path), voxels)


_worker: _Builder  # of a process of the pool


def _start_worker(raw: Path, geometry: Geometry, folder: Path) -> None:
    global _worker  # noqa: PLW0603 — a pool's initializer has no other way to hand over
    _worker = _Builder(raw, geometry, folder)


def _build_in_worker(job: _Job) -> tuple[Block, bool]:
    return _worker.build(job)
