"""Candidates and their crops -> batches for the device."""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lunaops.crops import CropReader
from lunaops.errors import InputError

_AHEAD = 2  # batches for each thread that are ready or under way


class Batch(NamedTuple):
    """`hu` (N, 1, slices, rows, columns) int16; `is_positive` (N,) int64; `row` (N,) of the data set's table."""

    hu: Tensor
    is_positive: Tensor
    row: Tensor


class CropDataset(Dataset[Batch]):
    """The candidates of some splits, or of one series, or some by id, with their crops; gathers a batch at a time.

    `candidates` are all, as the crops' rows go by them; one whose `label` is NA is left out. Raises InputError for a
    series or an id that the table lacks; a split may be empty.
    """

    def __init__(
        self,
        candidates: pd.DataFrame,
        crops: CropReader,
        *,
        label: str = "is_nodule",
        splits: Sequence[str] = ("train", "val", "test"),
        series_uid: str | None = None,
        candidate_ids: Collection[int] | None = None,
    ) -> None:
        chosen = candidates["split"].isin(splits) & candidates[label].notna()
        if series_uid is not None:
            chosen &= _of_series(candidates, series_uid)
        if candidate_ids is not None:
            chosen &= _by_id(candidates, candidate_ids)
        row_in_block = candidates.groupby("series_uid", sort=False).cumcount()
        self.table = candidates[chosen].reset_index(drop=True).astype({label: bool})
        self.crops = crops
        self.label = label
        self.is_positive: NDArray[np.int64] = self.table[label].to_numpy(np.int64)
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
        return self.gathered(indices)

    def gathered(self, indices: Sequence[int], *, pin: bool = False) -> Batch:
        """The crops at `indices`, copied once, out of the memory maps into one tensor, page-locked if `pin`."""
        index_a = np.asarray(indices, np.int64)
        shape = (len(index_a), 1, *self.crops.manifest.geometry.size_irc)
        if pin:
            hu = torch.empty(shape, dtype=torch.int16, pin_memory=True)
        else:
            hu = torch.from_numpy(np.empty(shape, np.int16))  # numpy asks for huge pages
        places = zip(self._series_of[index_a].tolist(), self._row_in_block[index_a].tolist(), strict=True)
        crops = [self.crops.crop(self._series[series], row) for series, row in places]
        if crops:  # in one go: threads that copy wait less for the interpreter's lock
            np.stack(crops, out=hu.numpy()[:, 0])
        is_positive, row = torch.from_numpy(self.is_positive[index_a]), torch.from_numpy(index_a)
        return Batch(hu, is_positive.pin_memory(), row.pin_memory()) if pin else Batch(hu, is_positive, row)


def _of_series(candidates: pd.DataFrame, series_uid: str) -> "pd.Series[bool]":
    found = candidates["series_uid"] == series_uid
    if not found.any():
        raise InputError(f"the table of candidates has none of series {series_uid}")
    return found


def _by_id(candidates: pd.DataFrame, candidate_ids: Collection[int]) -> "pd.Series[bool]":
    missing = sorted(set(candidate_ids) - set(candidates["candidate_id"]))
    if missing:
        raise InputError(f"the table of candidates lacks {len(missing)} of the ids asked for, the first {missing[0]}")
    return candidates["candidate_id"].isin(candidate_ids)


class Order(Protocol):
    """Which samples are in which batch; it may change from one iteration to the next."""

    def __len__(self) -> int:
        """The number of batches."""

    def __iter__(self) -> Iterator[list[int]]:
        """The samples of one batch after another."""


class Batches:
    """Batches of crops in some order, to be iterated again and again.

    `num_workers` threads gather them ahead (0: none, each as it is asked for); `pin` puts them into page-locked memory
    for a GPU.

    Threads rather than a DataLoader's processes: gathering is copying, which holds no interpreter lock, while a batch
    from a process travels through fresh shared memory at several times the cost of the copy (benchmarks/README.md),
    and each process maps the blocks and checks the crops for itself. `CropDataset` works in a DataLoader all the same.
    """

    def __init__(self, dataset: CropDataset, order: Order, *, num_workers: int, pin: bool) -> None:
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
        return self._dataset.gathered(indices, pin=self._pin)
