"""Filling the crop cache: ours against the obvious design and against the floor, in turns, each in a new process.

    python -m benchmarks.build_cache [--folder FOLDER] [--scans 24] [--rounds 3]

The floor reads the scans and writes as many bytes as the blocks have, and does nothing else; it is the best of three
times in a row, since a virtual machine's first writes into memory that its host took back take four times as long (its
processor time is of all three). The obvious design gets
eight of the scans. Workers are measured once a third of the scans is done: to start them takes a second or two, in
which the first process works on. The scans have just been read in every variant, so they come from memory; nothing
waits for the disk to have written. On a busy machine look at the processor's time, which is all processes' together;
that of workers counts their start.
"""

import argparse
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.luna_like import make_candidates, write_scans
from benchmarks.plain_cache import memoized
from lunaops.cores import num_cores
from lunaops.crop_building import build_blocks
from lunaops.crops import Geometry

GEOMETRY = Geometry((32, 48, 48), (-1000, 1000), -1000)


def obvious(raw: Path, scans: pd.DataFrame, candidates: pd.DataFrame, cache: Path) -> float:
    """Every crop of eight scans, one after another, asked for once; seconds a scan."""
    scans = scans.head(8)
    crop = memoized(cache)
    xyz = {uid: rows[["x", "y", "z"]].to_numpy().tolist() for uid, rows in candidates.groupby("series_uid")}
    started = time.perf_counter()
    for uid, path in scans[["series_uid", "path"]].itertuples(index=False):
        for point in xyz[uid]:
            crop(raw / path, tuple(point))
    return (time.perf_counter() - started) / len(scans)


def ours(raw: Path, scans: pd.DataFrame, candidates: pd.DataFrame, cache: Path, workers: int = 1) -> float:
    """Seconds a scan; with workers, of the last two thirds of the scans."""
    blocks = build_blocks(scans, candidates, raw=raw, geometry=GEOMETRY, folder=cache, workers=workers)
    started = time.perf_counter()
    unmeasured = len(scans) // 3 if workers > 1 else 0
    for done, _ in enumerate(blocks, start=1):
        if done == unmeasured:
            started = time.perf_counter()
    return (time.perf_counter() - started) / (len(scans) - unmeasured)


def on_all_cores(raw: Path, scans: pd.DataFrame, candidates: pd.DataFrame, cache: Path) -> float:
    """As `ours`, with a worker on every core."""
    return ours(raw, scans, candidates, cache, workers=num_cores())


def floor(raw: Path, scans: pd.DataFrame, candidates: pd.DataFrame, cache: Path) -> float:
    """The bytes alone; seconds a scan, the best of three times."""
    counts = candidates["series_uid"].value_counts()
    chunk = np.zeros(1 << 20, np.uint8)
    voxels = np.zeros((raw / scans["path"].iloc[0]).with_suffix(".raw").stat().st_size, np.uint8)

    def once() -> float:
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir()
        started = time.perf_counter()
        for uid, path in scans[["series_uid", "path"]].itertuples(index=False):
            with (raw / path).with_suffix(".raw").open("rb", buffering=0) as file:
                file.readinto(voxels.data)
            with (cache / uid).open("wb", buffering=0) as file:
                for _ in range(int(counts[uid]) * GEOMETRY.crop_bytes // len(chunk)):
                    file.write(chunk.data)
        return (time.perf_counter() - started) / len(scans)

    return min(once() for _ in range(3))


VARIANTS: dict[str, Callable[[Path, pd.DataFrame, pd.DataFrame, Path], float]] = {
    "obvious design": obvious,
    "ours, one process": ours,
    "ours, nothing to do": ours,
    "ours, a worker a core": on_all_cores,
    "floor": floor,
}


def run(name: str, raw: Path, scans: pd.DataFrame, candidates: pd.DataFrame, cache: Path) -> tuple[float, ...]:
    """A scan's seconds, processor seconds and MB on the disk; peak MB of the process or of its largest worker."""
    before = os.times()
    seconds = VARIANTS[name](raw, scans, candidates, cache)
    worked = sum(os.times()[:4]) - sum(before[:4])
    size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    count = min(8, len(scans)) if name == "obvious design" else len(scans)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return seconds, worked / count, size / count / 1e6, peak * 1024 / 1e6


def main() -> None:
    """Print the medians of the rounds and the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure; else the temporary folder")
    parser.add_argument("--scans", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    results: dict[str, list[tuple[float, ...]]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        scans = write_scans(folder / "raw", options.scans, distinct=2)
        candidates = make_candidates(scans)
        for _ in range(options.rounds):
            for name, of_name in results.items():
                os.sync()  # else a variant waits for what the ones before it wrote
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
                    cache = folder / ("ours, one process" if name == "ours, nothing to do" else name)
                    job = fresh.submit(run, name, folder / "raw", scans, candidates, cache)
                    of_name.append(job.result())
                if name != "ours, one process":  # which leaves nothing to do
                    shutil.rmtree(cache)
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in results.items()
    }
    plain = medians["obvious design"]
    print("| variant | ms a scan | as quick | processor ms a scan | as quick | MB a scan | peak memory, MB |")
    print("|---|---|---|---|---|---|---|")
    for name, (seconds, worked, size, peak) in medians.items():
        print(
            f"| {name} | {1e3 * seconds:.0f} | {plain[0] / seconds:.1f} x | {1e3 * worked:.0f} | "
            f"{plain[1] / worked:.1f} x | {size:.0f} | {peak:.0f} |"
        )


if __name__ == "__main__":
    main()
