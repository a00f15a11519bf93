import pickle
import threading
from pathlib import Path

import cropping
import numpy as np
import pandas as pd
import pytest
import torch
from cropping import build, write_raw
from torch.utils.data import DataLoader

from lunaops.crops import Block, CropReader, Geometry, Manifest
from lunaops.dataset import Batch, Batches, CropDataset
from lunaops.errors import InputError
from lunaops.sampling import TableSampler

SIZE = (2, 3, 4)


class FilledCrops(CropReader):
    """Crops whose every voxel says which series and which row of its block they are: 100 * series + row."""

    def __init__(self) -> None:
        blocks = tuple(Block(uid, "", "", 2, "") for uid in ("1", "2"))
        super().__init__(Manifest(Geometry(SIZE, (-1000, 1000), -1000), blocks), CANDIDATES, None, None)

    def crop(self, series_uid: str, row: int) -> np.ndarray:
        return np.full(SIZE, 100 * int(series_uid) + row, np.int16)


CANDIDATES = pd.DataFrame(
    {
        "candidate_id": [10, 11, 12, 13],
        "series_uid": ["2", "1", "1", "2"],
        "split": ["val", "train", "val", "val"],
        "is_nodule": [True, True, False, False],
        "x": 0.0,
        "y": 0.0,
        "z": 0.0,
    }
)


def test_a_candidate_has_its_own_crop_also_where_its_series_is_in_two_splits() -> None:
    dataset = CropDataset(CANDIDATES, FilledCrops(), splits=["val"])
    batch = dataset.__getitems__([2, 0, 1])
    assert batch.hu[:, 0, 0, 0, 0].tolist() == [201, 200, 101]
    assert batch.is_positive.tolist() == [0, 1, 0]
    assert batch.row.tolist() == [2, 0, 1]


def test_a_batch_is_int16_with_one_channel() -> None:
    batch = CropDataset(CANDIDATES, FilledCrops())[0]
    assert (batch.hu.shape, batch.hu.dtype, batch.is_positive.dtype) == ((1, 1, *SIZE), torch.int16, torch.int64)


def test_a_share_of_a_batch_may_be_empty() -> None:
    batch = CropDataset(CANDIDATES, FilledCrops()).__getitems__([])
    assert (batch.hu.shape, batch.is_positive.shape, batch.row.shape) == ((0, 1, *SIZE), (0,), (0,))


def test_a_candidate_without_a_label_is_left_out_and_the_others_keep_their_crops() -> None:
    table = CANDIDATES.assign(is_malignant=pd.array([None, True, None, False], "boolean"))
    dataset = CropDataset(table, FilledCrops(), label="is_malignant")
    batch = dataset.__getitems__([0, 1])
    assert (batch.hu[:, 0, 0, 0, 0].tolist(), batch.is_positive.tolist()) == ([100, 201], [1, 0])
    assert dataset.table["is_malignant"].dtype == bool


def test_one_series_can_be_asked_for() -> None:
    dataset = CropDataset(CANDIDATES, FilledCrops(), series_uid="1")
    assert dataset.table["series_uid"].tolist() == ["1", "1"]


def test_candidates_can_be_asked_for_and_keep_their_own_crops() -> None:
    dataset = CropDataset(CANDIDATES, FilledCrops(), candidate_ids=[13, 11])
    assert dataset.table["candidate_id"].tolist() == [11, 13]
    assert dataset.__getitems__([0, 1]).hu[:, 0, 0, 0, 0].tolist() == [100, 201]
    assert len(CropDataset(CANDIDATES, FilledCrops(), splits=["train"], candidate_ids=[10])) == 0


def test_a_series_or_candidates_that_the_table_lacks_are_named() -> None:
    with pytest.raises(InputError, match="has none of series nope"):
        CropDataset(CANDIDATES, FilledCrops(), series_uid="nope")
    with pytest.raises(InputError, match="lacks 2 of the ids asked for, the first 14"):
        CropDataset(CANDIDATES, FilledCrops(), candidate_ids=[15, 11, 14])


def test_the_table_does_not_travel_to_workers() -> None:
    dataset = CropDataset(CANDIDATES, FilledCrops())
    sent = pickle.loads(pickle.dumps(dataset))
    assert (len(sent.table), len(sent)) == (0, 4)
    assert sent[3].hu.flatten()[0] == dataset[3].hu.flatten()[0] == 201


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_are_the_same_with_any_number_of_workers(workers: int, batch_size: int) -> None:
    order = TableSampler(len(CANDIDATES), batch_size=batch_size)
    batches = Batches(CropDataset(CANDIDATES, FilledCrops()), order, num_workers=workers, pin=False)
    for _ in range(2):  # epochs
        got = list(batches)
        assert len(got) == len(batches)
        assert torch.cat([batch.row for batch in got]).tolist() == [0, 1, 2, 3]
        assert torch.cat([batch.hu[:, 0, 0, 0, 0] for batch in got]).tolist() == [200, 100, 101, 201]


def test_a_loop_that_stops_early_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    for _ in Batches(CropDataset(CANDIDATES, FilledCrops()), [[0], [1], [2], [3]], num_workers=2, pin=False):
        break
    assert threading.active_count() == before


class LostCrops(FilledCrops):
    def crop(self, series_uid: str, row: int) -> np.ndarray:
        raise InputError(f"crops of {series_uid} are lost")


@pytest.mark.parametrize("workers", [0, 2])
def test_what_goes_wrong_in_a_worker_is_said(workers: int) -> None:
    with pytest.raises(InputError, match="crops of 2 are lost"):
        list(Batches(CropDataset(CANDIDATES, LostCrops()), [[0], [1], [2], [3]], num_workers=workers, pin=False))


def as_it_is(batch: Batch) -> Batch:
    return batch


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_the_data_set_gathers_real_crops_in_a_dataloaders_processes(tmp_path: Path, start: str) -> None:
    raw = write_raw(tmp_path / "raw")
    table = cropping.CANDIDATES.assign(split="train", is_nodule=False)
    dataset = CropDataset(table, CropReader(build(raw, tmp_path / "cache"), table, raw, tmp_path / "cache"))
    here = dataset.__getitems__([2, 0, 1]).hu.tolist()  # the maps are open before a process is forked
    loader = DataLoader(
        dataset,
        batch_sampler=[[2], [0, 1]],
        num_workers=2,
        collate_fn=as_it_is,
        multiprocessing_context=start,
        persistent_workers=True,
    )
    for _ in range(2):
        assert torch.cat([batch.hu for batch in loader]).tolist() == here
