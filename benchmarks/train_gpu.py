"""Training on a GPU: what precision, memory format, torch.compile and batch size give, in one call of five minutes.

    python -m benchmarks.train_gpu [--minutes 5] [--scans 8] [--workers 8] [--device cuda]

Data are made on the spot: scans of LUNA16's size, cut into the crop cache. Two tables come out. Compute only: forward,
backward and step on one batch that stays on the device. End to end: fit(), from the cache's memory maps through the
loader's threads, page-locked memory and augmentation to the step, its second epoch; with the share of it that the
device waited for data, the peak of its memory, and an epoch of LUNA16's 495,958 training samples. What does not fit in
memory, or in the minutes, is said and left out.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.build_cache import GEOMETRY
from benchmarks.luna_like import SPACING_XYZ, make_candidates, write_scans
from lunaops import folding
from lunaops.crop_building import build_blocks
from lunaops.crops import CropReader, Manifest
from lunaops.dataset import CropDataset
from lunaops.model import LunaModel
from lunaops.params import AugmentParams, Precision, TrainParams, read_params
from lunaops.precision import autocast, set_determinism, set_tf32
from lunaops.training import fit
from lunaops.training_state import TrainingState

LUNA16_EPOCH = 495_958
STEPS = 20  # timed; on the device nothing is waited for until the last of them
AUGMENT = AugmentParams(flip=True, offset_mm=2.0, scale=0.1, rotate_degrees=180.0, noise_hu=15.0)


class Variant(NamedTuple):
    """One way to compute."""

    precision: Precision
    layout: Literal["folded", "3-D, channels last", "3-D, contiguous"]
    compiled: bool
    batch_size: int

    def __str__(self) -> str:
        return f"{self.precision} | {self.layout}{', compiled' if self.compiled else ''} | {self.batch_size}"


def variants(batch_sizes: list[int]) -> list[Variant]:
    """All of them; what tells most, and soonest, comes first. In fp32 the blocks are never folded."""
    kinds: list[Variant] = [
        Variant("bf16", "folded", False, 0),
        Variant("bf16", "3-D, channels last", False, 0),
        Variant("bf16", "3-D, contiguous", False, 0),
        Variant("bf16", "folded", True, 0),
        Variant("tf32", "folded", False, 0),
        Variant("tf32", "3-D, channels last", False, 0),
        Variant("fp32", "3-D, channels last", False, 0),
        Variant("fp32", "3-D, contiguous", False, 0),
        Variant("tf32", "folded", True, 0),
        Variant("bf16", "3-D, channels last", True, 0),
    ]
    return [kind._replace(batch_size=size) for size in batch_sizes for kind in kinds]


def compute_only(variant: Variant, device: torch.device) -> tuple[float, float]:
    """Samples a second, and the peak of the device's memory in GiB."""
    set_tf32(variant.precision)
    set_determinism(False)
    torch.compiler.reset()
    model = LunaModel(generator=torch.Generator().manual_seed(0)).to(device).train()
    hu = torch.randint(-1000, 1000, (variant.batch_size, 1, *GEOMETRY.size_irc), device=device).float()
    if variant.layout != "3-D, contiguous":
        model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    labels = torch.randint(0, 2, (variant.batch_size,), device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=device.type == "cuda")
    network = torch.compile(model) if variant.compiled else model

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(variant.precision, device):
            logits, _ = network(hu)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    def steps(count: int) -> None:
        for _ in range(count):
            step()

    with peak_of(device) as peak, patch.object(folding, "pays", lambda *_: variant.layout == "folded"):
        steps(3)
        seconds = timed(device, lambda: steps(STEPS))
    return STEPS * variant.batch_size / seconds, peak()


def end_to_end(
    crops: CropDataset, params: TrainParams, augment: AugmentParams, device: torch.device
) -> tuple[float, float, float]:
    """Samples a second and the share of the time that data were waited for, in the second epoch; peak memory in GiB."""
    state = TrainingState(LunaModel(generator=torch.Generator().manual_seed(0)), params, device)
    spacing = np.tile(SPACING_XYZ[::-1], (len(crops), 1))
    few = CropDataset(crops.table, crops.crops, candidate_ids=range(params.batch_size))
    with peak_of(device) as peak:
        *_, last = fit(state, crops, few, spacing_irc=spacing, params=params, augment=augment)
    return last.speed["train/samples_per_second"], last.speed["train/data_wait_share"], peak()


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds until the device has done it."""
    wait_for(device)
    started = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - started


def wait_for(device: torch.device) -> None:
    """Until the device has nothing more to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def peak_of(device: torch.device) -> Iterator[Callable[[], float]]:
    """The most memory that tensors took within, in GiB; NaN where the device does not tell."""
    if device.type != "cuda":
        yield lambda: float("nan")
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    yield lambda: torch.cuda.max_memory_allocated(device) / 2**30


def make_crops(folder: Path, num_scans: int) -> CropDataset:
    """Scans of LUNA16's size with its number of candidates, half of them called nodules."""
    scans = write_scans(folder / "raw", num_scans, distinct=min(num_scans, 2))
    table = make_candidates(scans)
    table["is_nodule"] = table.index % 2 == 0
    blocks = build_blocks(scans, table, raw=folder / "raw", geometry=GEOMETRY, folder=folder / "crops", workers=0)
    return CropDataset(table, CropReader(Manifest(GEOMETRY, tuple(blocks)), table, folder / "raw", folder / "crops"))


def main() -> None:
    """Print both tables; the rows that there was time for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--scans", type=int, default=8)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--samples", type=int, default=100_000, help="of an epoch, end to end")
    parser.add_argument("--batch-sizes", default="256,1024,64")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    device = torch.device(options.device)
    sizes = [int(size) for size in options.batch_sizes.split(",")]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(f"{name}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}\n")
    with tempfile.TemporaryDirectory() as folder:
        crops = make_crops(Path(folder), options.scans)
        tell_end_to_end(crops, device, options.workers, options.samples, end - 20 * options.minutes)
    tell_compute_only(device, sizes, end)


def tell_end_to_end(crops: CropDataset, device: torch.device, workers: int, samples: int, end: float) -> None:
    """The first table; slow formats get fewer samples."""
    print("| end to end | batch | threads | samples/s | waiting for data | peak GiB | LUNA16 epoch, s |")
    print("|---|---|---|---|---|---|---|")
    tree = read_params(Path("params.yaml")).train.model_dump()
    off = AUGMENT.model_copy(update=dict.fromkeys(("offset_mm", "scale", "rotate_degrees", "noise_hu"), 0.0))
    rows: list[tuple[Precision, bool, int, int, AugmentParams]] = [
        ("bf16", False, 256, workers, AUGMENT),
        ("bf16", False, 256, workers, off),
        ("bf16", False, 1024, workers, AUGMENT),
        ("bf16", True, 256, workers, AUGMENT),
        ("bf16", True, 1024, workers, AUGMENT),
        ("bf16", False, 256, 0, off),
        ("tf32", False, 256, workers, AUGMENT),
        ("fp32", False, 256, workers, AUGMENT),
    ]
    for precision, compiled, batch_size, num_workers, augment in rows:
        what = "mirrored" if augment is off else "all augmentation"
        row = f"{precision}{', compiled' if compiled else ''}, {what} | {batch_size} | {num_workers}"
        if time.monotonic() > end:
            print(f"| {row} | no time left | | | |")
            continue
        changed = {
            "epochs": 2,
            "samples_per_epoch": samples // 8 if precision == "fp32" else samples,
            "batch_size": batch_size,
            "precision": precision,
            "compile": compiled,
            "num_workers": num_workers,
            "device": device.type,
        }
        rate, waited, peak = end_to_end(crops, TrainParams(**tree | changed), augment, device)
        print(f"| {row} | {rate:.0f} | {waited:.1%} | {peak:.2f} | {LUNA16_EPOCH / rate:.0f} |", flush=True)


def tell_compute_only(device: torch.device, batch_sizes: list[int], end: float) -> None:
    """The second table."""
    print("\n| compute only: precision | layout | batch | samples/s | peak GiB |\n|---|---|---|---|---|")
    for variant in variants(batch_sizes):
        if time.monotonic() > end:
            print(f"| {variant} | no time left | |")
            continue
        try:
            rate, peak = compute_only(variant, device)
            print(f"| {variant} | {rate:.0f} | {peak:.2f} |", flush=True)
        except torch.OutOfMemoryError:
            print(f"| {variant} | does not fit | |", flush=True)


if __name__ == "__main__":
    main()
