"""The crop cache at LUNA16's size, as far as the disk allows: scans of real size, many of them links to the same bytes.

    python -m benchmarks.full_scale [--folder FOLDER] [--scans 40] [--workers 0]

Builds the cache for so many scans with LUNA16's number of candidates each, builds it again, cuts other candidates for
three of them, reads every block at random and verifies all; then says what that makes of all 888 scans. `--scans 888`
is LUNA16 itself: 81 GB of crops, beside the few scans that are really there.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.build_cache import GEOMETRY
from benchmarks.luna_like import NUM_CANDIDATES, NUM_SCANS, make_candidates, write_scans
from lunaops.cores import num_cores
from lunaops.crop_block import Entry
from lunaops.crop_building import build_blocks
from lunaops.crop_store import CropCache
from lunaops.crops import CropReader, Manifest
from lunaops.dataset import Batches, CropDataset
from lunaops.progress import progress
from lunaops.sampling import EpochSampler

DISTINCT = 4
SPARE_BYTES = 2 << 30


def main() -> None:
    """Print a line for each step, with its projection."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure; else the temporary folder")
    parser.add_argument("--scans", type=int, default=40)
    parser.add_argument("--workers", type=int, default=0, help="0: one a core")
    options = parser.parse_args()
    per_scan = NUM_CANDIDATES // NUM_SCANS
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        room = shutil.disk_usage(folder).free - SPARE_BYTES - DISTINCT * 132 * 10**6
        count = min(options.scans, max(DISTINCT, room // (per_scan * GEOMETRY.crop_bytes)))
        scans = write_scans(folder / "raw", count, distinct=min(DISTINCT, count))
        table = make_candidates(scans, per_scan)
        workers = options.workers or num_cores()
        print(f"{count} scans, {len(table)} candidates, {workers} workers; of all {NUM_SCANS} scans that makes:")
        run_steps(folder, scans, table, workers)


def run_steps(folder: Path, scans: pd.DataFrame, table: pd.DataFrame, workers: int) -> None:
    """Build, build again, build other candidates, read, verify."""
    scale = NUM_SCANS / len(scans)
    raw, cache = folder / "raw", folder / "cache"
    peaks = [0.0]

    def build(candidates: pd.DataFrame) -> Manifest:
        blocks = build_blocks(scans, candidates, raw=raw, geometry=GEOMETRY, folder=cache, workers=workers)
        done = []
        for block in progress(blocks, total=len(scans), label="crops", unit="scans"):
            done.append(block)
            peaks.extend(peak_memory(child.pid) for child in active_children())
        return Manifest(GEOMETRY, tuple(done))

    manifest = timed("build", scale, lambda: build(table))
    size = sum(path.stat().st_size for path in cache.rglob("*.val"))
    index = sum(path.stat().st_size for path in cache.glob("cache.db*"))
    print(f"  on the disk {size / 1e9:.2f} GB, index {index / 1e3:.0f} kB: {size * scale / 1e9:.1f} GB")
    print(f"  peak memory of the largest worker {max(peaks):.0f} MB, whatever the number of scans")
    assert timed("build again, nothing to do", scale, lambda: build(table)) == manifest
    moved = table["x"].where(~table["series_uid"].isin(scans["series_uid"][:3]), table["x"] + 1)
    timed("build, other candidates for three scans", 1, lambda: build(table.assign(x=moved)))
    timed("read every block at random, the first time", scale, lambda: read(manifest, table, raw, cache))
    with CropCache(cache) as opened:
        entries = opened.entries()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        damaged = timed("verify", scale, lambda: sum(pool.map(Entry.num_damaged, entries)))
    assert damaged == 0


def read(manifest: Manifest, table: pd.DataFrame, raw: Path, cache: Path) -> None:
    """One pass over all candidates in random order."""
    dataset = CropDataset(table, CropReader(manifest, table, raw, cache))
    order = EpochSampler(np.ones(len(table), np.int64), samples=0, batch_size=64, balance=0, seed=1)
    assert sum(len(batch.hu) for batch in Batches(dataset, order, num_workers=0, pin=False)) == len(table)
    if Path("/proc/self/fd").is_dir():
        print(f"  {len(list(Path('/proc/self/fd').iterdir()))} files open in this process")


def peak_memory(pid: int | None) -> float:
    """The most memory that a process has had resident, in MB; 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) * 1024 / 1e6 for line in status.splitlines() if line.startswith("VmHWM"))


def timed(what: str, scale: float, step: Callable[[], Any]) -> Any:
    """Run a step and print how long it took and would take."""
    started = time.perf_counter()
    result = step()
    seconds = time.perf_counter() - started
    print(f"{what}: {seconds:.1f} s: {seconds * scale / 60:.1f} min", flush=True)
    return result


if __name__ == "__main__":
    main()
