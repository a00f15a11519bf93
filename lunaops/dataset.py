"""Candidates and their crops -> batches for the device; balanced sampling."""

import math
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lunaops.crops import CropReader
from lunaops.errors import InputError

Indices = NDArray[np.int64]

_AHEAD = 2  # batches for each thread that are ready or under way


class Batch(NamedTuple):
    """`hu` (N, 1, slices, rows, columns) int16; `is_nodule` (N,) int64; `row` (N,) of the data set's table."""

    hu: Tensor
    is_nodule: Tensor
    row: Tensor


class CropDataset(Dataset[Batch]):
    """The candidates of some splits, or of one series, or some by id, with their crops; gathers a batch at a time."""

    def __init__(
        self,
        candidates: pd.DataFrame,
        crops: CropReader,
        *,
        splits: Sequence[str] = ("train", "val", "test"),
        series_uid: str | None = None,
        candidate_ids: Collection[int] | None = None,
    ) -> None:
        chosen = candidates["split"].isin(splits)
        if series_uid is not None:
            chosen &= candidates["series_uid"] == series_uid
        if candidate_ids is not None:
            chosen &= candidates["candidate_id"].isin(candidate_ids)
        row_in_block = candidates.groupby("series_uid", sort=False).cumcount()
        self.table = candidates[chosen].reset_index(drop=True)
        self.crops = crops
        self.is_nodule: NDArray[np.int64] = self.table["is_nodule"].to_numpy(np.int64)
        self._series_of, series = pd.factorize(self.table["series_uid"])
        self._series: list[str] = series.tolist()
        self._row_in_block = row_in_block[chosen].to_numpy()

    def __getstate__(self) -> dict[str, Any]:
        """A worker gathers crops: LUNA16's table of candidates stays where it is."""
        return {**self.__dict__, "table": self.table.iloc[:0]}

    def __len__(self) -> int:
        return len(self._row_in_block)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The crops at `indices`, copied once, out of the memory maps into one tensor."""
        index_a = np.asarray(indices, np.int64)
        hu = torch.empty((len(index_a), 1, *self.crops.manifest.geometry.size_irc), dtype=torch.int16)
        places = zip(self._series_of[index_a].tolist(), self._row_in_block[index_a].tolist(), strict=True)
        for target, (series, row) in zip(hu.numpy(), places, strict=True):
            target[0] = self.crops.crop(self._series[series], row)
        return Batch(hu, torch.from_numpy(self.is_nodule[index_a]), torch.from_numpy(index_a))


class EpochSampler:
    """Batches of indices; `epoch` chooses which. Deterministic: epoch k is the same, whatever came before it."""

    def __init__(self, is_nodule: Indices, *, samples: int, batch_size: int, balance: float, seed: int) -> None:
        self.epoch = 0
        self._is_nodule = is_nodule
        self._samples = samples or len(is_nodule)
        self._batch_size = batch_size
        self._balance = balance
        self._seed = seed

    def __len__(self) -> int:
        return math.ceil(self._samples / self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = draw_epoch(
            self._is_nodule, epoch=self.epoch, samples=self._samples, balance=self._balance, seed=self._seed
        )
        for start in range(0, len(order), self._batch_size):
            yield order[start : start + self._batch_size].tolist()


def draw_epoch(is_nodule: Indices, *, epoch: int, samples: int, balance: float, seed: int) -> Indices:
    """The indices of an epoch's samples, (samples,), shuffled.

    `balance` negatives are drawn for each positive (0: samples as they come). Each class is walked through in a
    shuffled order, epoch after epoch, and shuffled anew when all of it has been used: so every sample of a class is
    used equally often, give or take one.

    Raises InputError where a class that must be drawn has no sample.
    """
    if balance == 0:
        return _walk(np.arange(len(is_nodule)), epoch * samples, samples, [seed, 2])
    positives, negatives = np.flatnonzero(is_nodule == 1), np.flatnonzero(is_nodule == 0)
    for name, rows in (("positive", positives), ("negative", negatives)):
        if len(rows) == 0:
            raise InputError(
                f"the train split has no {name} candidate to balance with: see split, or set train.balance: 0"
            )
    num_positives = round(samples / (1 + balance))
    num_negatives = samples - num_positives
    drawn = np.concatenate(
        [
            _walk(positives, epoch * num_positives, num_positives, [seed, 1]),
            _walk(negatives, epoch * num_negatives, num_negatives, [seed, 0]),
        ]
    )
    return np.random.default_rng([seed, 3, epoch]).permutation(drawn)


def _walk(items: Indices, start: int, count: int, seed: list[int]) -> Indices:
    """Items `start` to `start + count` of an endless sequence of shuffled passes over `items`."""
    first, end = start // len(items), math.ceil((start + count) / len(items))
    passes = [np.random.default_rng([*seed, number]).permutation(items) for number in range(first, end)]
    offset = start - first * len(items)
    return np.concatenate([items[:0], *passes])[offset : offset + count]


def load_batches(
    dataset: CropDataset, sampler: EpochSampler | None = None, *, batch_size: int = 1, num_workers: int, pin: bool
) -> "Batches":
    """Batches in the order of `sampler`, or else all of the data set in its own order by `batch_size`.

    `num_workers` threads gather them ahead (0: none, each as it is asked for); `pin` puts them into page-locked memory
    for a GPU.
    """
    order = sampler or [
        list(range(start, min(start + batch_size, len(dataset)))) for start in range(0, len(dataset), batch_size)
    ]
    return Batches(dataset, order, num_workers=num_workers, pin=pin)


class Batches:
    """Batches of crops, to be iterated again and again.

    Threads rather than a DataLoader's processes: gathering is copying, which holds no interpreter lock, while a batch
    from a process travels through fresh shared memory at several times the cost of the copy (benchmarks/README.md),
    and each process maps the blocks and checks the crops for itself. `CropDataset` works in a DataLoader all the same.
    """

    def __init__(
        self, dataset: CropDataset, order: EpochSampler | list[list[int]], *, num_workers: int, pin: bool
    ) -> None:
        self._dataset = dataset
        self._order = order
        self._num_workers = num_workers
        self._pin = pin

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Batch]:
        if self._num_workers == 0:
            yield from map(self._gathered, self._order)
            return
        ahead: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self._num_workers) as pool:
            try:
                for indices in self._order:
                    ahead.append(pool.submit(self._gathered, indices))
                    if len(ahead) > _AHEAD * self._num_workers:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)  # also where the consumer stops early

    def _gathered(self, indices: list[int]) -> Batch:
        batch = self._dataset.__getitems__(indices)
        return Batch(*(column.pin_memory() for column in batch)) if self._pin else batch
