"""An epoch of training end to end on this CPU: the plain loop against ours, in turns, each in a process of its own.

    python -m benchmarks.train_loop [--samples 256] [--rounds 3]

Plain: a crop at a time out of the same cache, varied on its own as the book has it, collated by the DataLoader;
contiguous float32, the metrics' numbers fetched batch by batch. Ours: fit(), its validation not counted. Both warm.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks.augment import FLIP, NOISY, OFF, plain
from benchmarks.build_cache import GEOMETRY
from benchmarks.luna_like import make_candidates, write_scans
from lunaops.crop_building import build_blocks
from lunaops.crops import CropReader, Manifest
from lunaops.dataset import CropDataset
from lunaops.model import LunaModel
from lunaops.params import AugmentParams, TrainParams, read_params
from lunaops.training import fit
from lunaops.training_state import TrainingState

AUGMENTS = {"no augmentation": OFF, "mirrored (the default)": FLIP, "mirrored, moved, scaled, turned, noise": NOISY}
BATCH = 32


class OneByOne(Dataset[tuple[Tensor, int]]):
    """The crops of a data set in HU, one at a time, varied."""

    def __init__(self, crops: CropDataset, augment: AugmentParams) -> None:
        self._crops = crops
        self._augment = augment

    def __len__(self) -> int:
        return len(self._crops)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        batch = self._crops[index]
        return plain(batch.hu, self._augment)[0], int(batch.is_positive[0])


def make_crops(folder: Path) -> CropDataset:
    """The candidates of one scan of LUNA16's size, half of them called nodules."""
    scans = write_scans(folder / "raw", 1, distinct=1)
    table = make_candidates(scans)
    table["is_nodule"] = table.index % 2 == 0
    blocks = build_blocks(scans, table, raw=folder / "raw", geometry=GEOMETRY, folder=folder / "crops", workers=1)
    return CropDataset(table, CropReader(Manifest(GEOMETRY, tuple(blocks)), table, folder / "raw", folder / "crops"))


def plain_epoch(crops: CropDataset, augment: AugmentParams, samples: int) -> float:
    """Samples a second after the first batches."""
    model: nn.Module = LunaModel(generator=torch.Generator().manual_seed(0)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    loader = DataLoader(OneByOne(crops, augment), batch_size=BATCH, shuffle=True)
    numbers = np.zeros((3, len(crops)))

    def steps() -> Iterator[int]:
        for batch, (hu, label) in enumerate(loader):
            optimizer.zero_grad()
            logits, probability = model(hu)
            loss = F.cross_entropy(logits, label, reduction="none")
            loss.mean().backward()
            optimizer.step()
            place = slice(batch * BATCH, batch * BATCH + len(label))
            numbers[:, place] = label.numpy(), probability[:, 1].detach().numpy(), loss.detach().numpy()
            yield len(label)

    return rate_of(steps(), samples)


def our_epoch(crops: CropDataset, augment: AugmentParams, samples: int) -> float:
    """Samples a second of the second epoch: the first is there to warm up."""
    tree = read_params(Path("params.yaml")).train.model_dump()
    params = TrainParams(**tree | {"epochs": 2, "samples_per_epoch": samples, "batch_size": BATCH})
    state = TrainingState(LunaModel(generator=torch.Generator().manual_seed(0)), params, torch.device("cpu"))
    spacing = np.tile([1.25, 0.7, 0.7], (len(crops), 1))
    few = CropDataset(crops.table, crops.crops, candidate_ids=range(BATCH))
    *_, last = fit(state, crops, few, spacing_irc=spacing, params=params, augment=augment)
    return last.speed["train/samples_per_second"]


def rate_of(steps: Iterator[int], samples: int) -> float:
    """Samples a second over so many samples, two batches left out."""
    list(islice(steps, 2))
    started = perf_counter()
    count = sum(islice(steps, samples // BATCH))
    return count / (perf_counter() - started)


def main() -> None:
    """Print a row for each augmentation."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=["plain", "ours"], help="measure one side only, and print its rate")
    parser.add_argument("--augment", choices=list(AUGMENTS), help="with --side")
    options = parser.parse_args()
    if options.side:
        with tempfile.TemporaryDirectory() as folder:
            epoch = plain_epoch if options.side == "plain" else our_epoch
            print(epoch(make_crops(Path(folder)), AUGMENTS[options.augment], options.samples))
        return
    print("| training, crops/s | plain | ours | times plain |\n|---|---|---|---|")
    for augment in AUGMENTS:
        rates: dict[str, list[float]] = {"plain": [], "ours": []}
        for _ in range(options.rounds):
            for side, of_side in rates.items():
                call = [sys.executable, "-m", "benchmarks.train_loop", "--side", side, "--augment", augment]
                done = subprocess.run([*call, "--samples", str(options.samples)], capture_output=True, check=True)
                of_side.append(float(done.stdout))
        there, ours = (statistics.median(of_side) for of_side in rates.values())
        print(f"| {augment} | {there:.1f} | {ours:.1f} | {ours / there:.1f} |", flush=True)


if __name__ == "__main__":
    main()
