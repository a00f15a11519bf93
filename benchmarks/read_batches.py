"""Warm random reading into batches: ours against the obvious cache, no cache and a plain copy, in turns.

    python -m benchmarks.read_batches [--folder FOLDER] [--scans 4] [--rounds 5]

Batches of 64 crops of all scans in one random order, the same for all. The plain copy takes the same crops out of one
array in memory. No cache: the scan is read for each crop, as it is when crops come in random order. "The first time"
is a process's first pass, which also opens the blocks and holds each crop against its digest. Where a batch is dropped
before the next is made, the next gets its memory, which is in the processor's cache; two threads have five batches
ready or under way, so compare them with five that are kept. The processor's time is that of this process, so of the
DataLoader only what receiving costs.
"""

import argparse
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from benchmarks.build_cache import GEOMETRY
from benchmarks.luna_like import make_candidates, write_scans
from benchmarks.plain_cache import cut, memoized, read_scan
from lunaops.crop_building import build_blocks
from lunaops.crops import CropReader, Manifest
from lunaops.dataset import Batch, Batches, CropDataset
from lunaops.memory import keep_freed_memory
from lunaops.sampling import EpochSampler

BATCH = 64
NO_CACHE = 12  # crops; each takes as long as reading a scan

Rates = tuple[float, float]  # crops a second, microseconds of the processor a crop


def measured(batches: Iterator[int]) -> Rates:
    """Of batches that say how many crops they have."""
    before, started = time.process_time(), time.perf_counter()
    count = sum(batches)
    seconds = time.perf_counter() - started
    worked = time.process_time() - before
    return count / seconds, 1e6 * worked / count


def main() -> None:
    """Print the medians of the rounds and the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure; else the temporary folder")
    parser.add_argument("--scans", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    keep_freed_memory()  # as training does
    torch.set_num_threads(1)  # one core in every variant; several would wait for each other in a loop
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        scans = write_scans(folder / "raw", options.scans, distinct=2)
        table = make_candidates(scans)
        variants = make_variants(folder, scans, table)
        results: dict[str, list[Rates]] = {name: [] for name in variants}
        for _ in range(options.rounds):
            for name, variant in variants.items():
                results[name].append(variant())
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in results.items()
    }
    obvious, plain = medians["obvious cache"], medians["plain copy"]
    print("| variant | crops/s | of obvious | of a plain copy | processor us a crop |")
    print("|---|---|---|---|---|")
    for name, (rate, worked) in medians.items():
        print(f"| {name} | {rate:.0f} | {rate / obvious[0]:.2f} | {rate / plain[0]:.2f} | {worked:.1f} |")


def make_variants(folder: Path, scans: pd.DataFrame, table: pd.DataFrame) -> dict[str, Callable[[], Rates]]:
    """Both caches filled and read once; what to measure, by name."""
    raw = folder / "raw"
    blocks = build_blocks(scans, table, raw=raw, geometry=GEOMETRY, folder=folder / "ours", workers=0)
    manifest = Manifest(GEOMETRY, tuple(blocks))
    crop = memoized(folder / "obvious")
    asked = [(raw / f"subset0/{uid}.mhd", (x, y, z)) for uid, x, y, z in table[["series_uid", *"xyz"]].to_numpy()]
    for path, xyz in asked:
        crop(path, xyz)
    sampler = EpochSampler(np.ones(len(table), np.int64), samples=0, batch_size=BATCH, balance=0, seed=1)
    orders = list(sampler)
    dataset = CropDataset(table, CropReader(manifest, table, raw, folder / "ours"))
    big = np.concatenate([dataset[index].hu.numpy()[0] for index in range(len(table))])

    def obvious() -> Iterator[int]:
        for order in orders:
            yield len(torch.stack([torch.from_numpy(crop(*asked[index])) for index in order]))

    def plain_copy() -> Iterator[int]:
        for order in orders:
            hu = torch.empty((len(order), *GEOMETRY.size_irc), dtype=torch.int16)
            np.take(big, order, axis=0, out=hu.numpy(), mode="clip")
            yield len(hu)

    def plain_copy_in_threads() -> Iterator[int]:
        def copy(orders: list[list[int]]) -> None:
            hu = np.empty((BATCH, *GEOMETRY.size_irc), np.int16)
            for order in orders:
                np.take(big, order, axis=0, out=hu[: len(order)], mode="clip")

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(copy, (orders[0::2], orders[1::2])))
        yield len(table)

    def no_cache() -> Iterator[int]:
        for index in range(NO_CACHE):
            read_scan.cache_clear()
            yield len(torch.from_numpy(cut(*asked[index]))[None])

    def the_first_time() -> Iterator[int]:
        anew = CropDataset(table, CropReader(manifest, table, raw, folder / "ours"))
        for batch in Batches(anew, sampler, num_workers=0, pin=False):
            yield len(batch.hu)

    def kept_alive() -> Iterator[int]:
        alive: deque[Batch] = deque(maxlen=5)
        for batch in Batches(dataset, sampler, num_workers=0, pin=False):
            alive.append(batch)
            yield len(batch.hu)

    loaders = {workers: Batches(dataset, sampler, num_workers=workers, pin=False) for workers in (0, 1, 2)}
    processes = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=1,
        collate_fn=as_it_is,
        multiprocessing_context="spawn",
        persistent_workers=True,
    )
    loaded: list[Iterable[Batch]] = [*loaders.values(), processes]
    for loader in loaded:
        assert sum(len(batch.hu) for batch in loader) == len(table)
    return {
        "no cache": lambda: measured(no_cache()),
        "obvious cache": lambda: measured(obvious()),
        "plain copy": lambda: measured(plain_copy()),
        "plain copy, 2 threads, each into one place": lambda: measured(plain_copy_in_threads()),
        "ours, the first time": lambda: measured(the_first_time()),
        "ours": lambda: measured(len(batch.hu) for batch in loaders[0]),
        "ours, the last five batches kept": lambda: measured(kept_alive()),
        "ours, 1 thread": lambda: measured(len(batch.hu) for batch in loaders[1]),
        "ours, 2 threads": lambda: measured(len(batch.hu) for batch in loaders[2]),
        "ours in a DataLoader, 1 process": lambda: measured(len(batch.hu) for batch in processes),
    }


def as_it_is(batch: Any) -> Batch:
    """A batch is whole as CropDataset gathers it."""
    assert isinstance(batch, Batch)
    return batch


if __name__ == "__main__":
    main()
