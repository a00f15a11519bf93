"""Model and candidates -> the predictions table, and the pictures that the galleries need."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from lunaops.crops import CropReader
from lunaops.dataset import Batches, CropDataset
from lunaops.device import place_model
from lunaops.errors import InputError
from lunaops.memory import keep_freed_memory
from lunaops.model import LunaModel
from lunaops.progress import progress
from lunaops.sampling import TableSampler
from lunaops.scoring import score_batches

COLUMNS = ["candidate_id", "series_uid", "split", "x", "y", "z", "is_nodule", "nodule_id", "diameter_mm"]


def predict_candidates(
    model: LunaModel, dataset: CropDataset, *, batch_size: int, device: torch.device
) -> pd.DataFrame:
    """Score every candidate of `dataset`: the columns of data/predictions.parquet, in the data set's order.

    A label other than is_nodule is one column more. Raises InputError where the model was made for
    crops of another size.
    """
    size = dataset.crops.manifest.geometry.size_irc
    if model.crop_size_irc != size:
        raise InputError(f"the model takes crops of {model.crop_size_irc}, the cache holds {size}: train again")
    keep_freed_memory()
    place_model(model, device)
    sampler = TableSampler(len(dataset), batch_size=batch_size)
    batches = Batches(dataset, sampler, num_workers=0, pin=device.type == "cuda")
    scored = score_batches(model, progress(batches, label="predict", unit="batches"), device)
    assert np.array_equal(scored.row, np.arange(len(dataset)))
    columns = list(dict.fromkeys([*COLUMNS, dataset.label]))
    return dataset.table[columns].assign(score=scored.score.astype(np.float64), loss=scored.loss.astype(np.float64))


def choose_gallery(predictions: pd.DataFrame, label: str, size: int) -> NDArray[np.int64]:
    """Candidate ids, sorted, of each split's `size` highest negatives, lowest positives and highest positives."""
    chosen: set[int] = set()
    for _, of_split in predictions.groupby("split"):
        positives, negatives = of_split[of_split[label]], of_split[~of_split[label]]
        for extremes in (
            negatives.nlargest(size, "score"),
            positives.nsmallest(size, "score"),
            positives.nlargest(size, "score"),
        ):
            chosen.update(extremes["candidate_id"])
    return np.array(sorted(chosen), np.int64)


def write_gallery(candidate_ids: NDArray[np.int64], candidates: pd.DataFrame, crops: CropReader, path: Path) -> None:
    """Write the three central planes of these candidates' crops, as evaluate has no scan.

    Arrays of gallery.npz, row for row: candidate_id (k,); in HU transverse (k, rows, columns), coronal (k, slices,
    columns), sagittal (k, slices, rows).
    """
    slices, rows, columns = crops.manifest.geometry.size_irc
    place = candidates.groupby("series_uid", sort=False).cumcount()
    table = pd.DataFrame({"series_uid": candidates["series_uid"], "place": place}).set_axis(candidates["candidate_id"])
    planes = [
        (crop[slices // 2], crop[:, rows // 2], crop[:, :, columns // 2])
        for crop in (crops.crop(str(s), p) for s, p in table.loc[candidate_ids].itertuples(index=False))
    ]
    shapes = ((rows, columns), (slices, columns), (slices, rows))
    transverse, coronal, sagittal = (
        np.array([plane[axis] for plane in planes], np.int16).reshape(len(planes), *shapes[axis]) for axis in range(3)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        candidate_id=candidate_ids,
        transverse=transverse,
        coronal=coronal,
        sagittal=sagittal,
    )
