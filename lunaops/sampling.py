"""Which samples are in which batch: balanced training epochs, whole tables, shares of several processes."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lunaops.errors import InputError

Indices = NDArray[np.int64]


class EpochSampler:
    """Batches of indices; `epoch` chooses which. Deterministic: epoch k is the same, whatever came before it.

    Of every batch this gives the share of `rank` among `world_size` processes: samples rank, rank + world_size ... of
    it, none where the last batch is that short. The batches before `first_step` are passed over.
    """

    def __init__(
        self,
        is_positive: Indices,
        *,
        samples: int,
        batch_size: int,
        balance: float,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.epoch = 0
        self.first_step = 0
        self.samples = samples or len(is_positive)
        self._is_positive = is_positive
        self._batch_size = batch_size
        self._balance = balance
        self._seed = seed
        self._rank = rank
        self._world_size = world_size

    def __len__(self) -> int:
        return math.ceil(self.samples / self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = draw_epoch(
            self._is_positive, epoch=self.epoch, samples=self.samples, balance=self._balance, seed=self._seed
        )
        for start in range(self.first_step * self._batch_size, len(order), self._batch_size):
            yield order[start : start + self._batch_size][self._rank :: self._world_size].tolist()


class TableSampler:
    """Batches of all indices of a table in its order, of each the share of `rank` as `EpochSampler` gives it."""

    def __init__(self, length: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self._length = length
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size

    def __len__(self) -> int:
        return math.ceil(self._length / self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, self._length, self._batch_size):
            stop = min(start + self._batch_size, self._length)
            yield list(range(start + self._rank, stop, self._world_size))


def draw_epoch(is_positive: Indices, *, epoch: int, samples: int, balance: float, seed: int) -> Indices:
    """The indices of an epoch's samples, (samples,), shuffled.

    `balance` negatives are drawn for each positive (0: samples as they come). Each class is walked through in a
    shuffled order, epoch after epoch, and shuffled anew when all of it has been used: so every sample of a class is
    used equally often, give or take one.

    Raises InputError where a class that must be drawn has no sample.
    """
    if balance == 0:
        return _walk(np.arange(len(is_positive)), epoch * samples, samples, [seed, 2])
    positives, negatives = np.flatnonzero(is_positive == 1), np.flatnonzero(is_positive == 0)
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
