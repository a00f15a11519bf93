from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lunaops.crops import Block, CropReader, Geometry, Manifest
from lunaops.dataset import CropDataset
from lunaops.errors import InputError
from lunaops.model import LunaModel
from lunaops.prediction import choose_gallery, predict_candidates, write_gallery

SIZE = (16, 18, 20)
CANDIDATES = pd.DataFrame(
    {
        "candidate_id": [0, 1, 2],
        "series_uid": ["b", "a", "b"],
        "split": ["test", "val", "test"],
        "x": 0.0,
        "y": 0.0,
        "z": 0.0,
        "is_nodule": [True, False, False],
        "nodule_id": [4, -1, -1],
        "diameter_mm": [5.0, 0.0, 0.0],
    }
)


class NumberedCrops(CropReader):
    """Series a has one crop, b two; a voxel is 1000 * series + 100 * row + a value that tells its place."""

    def __init__(self) -> None:
        blocks = (Block("a", "", "", 1, ""), Block("b", "", "", 2, ""))
        super().__init__(Manifest(Geometry(SIZE, (-1000, 1000), -1000), blocks), CANDIDATES, None, None)

    def crop(self, series_uid: str, row: int) -> np.ndarray:
        series = {"a": 1, "b": 2}[series_uid]
        i, r, c = np.ogrid[: SIZE[0], : SIZE[1], : SIZE[2]]
        return (1000 * series + 100 * row + i + r + c).astype(np.int16)


def test_predictions_have_the_designs_columns_and_one_row_a_candidate_of_the_splits() -> None:
    dataset = CropDataset(CANDIDATES, NumberedCrops(), splits=["test"])
    model = LunaModel(SIZE, generator=torch.Generator().manual_seed(0))
    model.head_linear.weight.data *= 1e-3
    table = predict_candidates(model, dataset, batch_size=1, device=torch.device("cpu"))
    assert list(table.columns) == (
        ["candidate_id", "series_uid", "split", "x", "y", "z", "is_nodule", "nodule_id", "diameter_mm", "score", "loss"]
    )
    assert table["candidate_id"].tolist() == [0, 2]
    with torch.inference_mode():
        wanted = model(dataset.__getitems__([0, 1]).hu.float())[1][:, 1].numpy()
    np.testing.assert_allclose(table["score"], wanted, rtol=1e-5)
    np.testing.assert_allclose(table["loss"], [-np.log(wanted[0]), -np.log(1 - wanted[1])], rtol=1e-4)


def test_a_model_for_other_crops_is_refused() -> None:
    dataset = CropDataset(CANDIDATES, NumberedCrops())
    with pytest.raises(InputError, match=r"the model takes crops of \(16, 16, 16\), the cache holds \(16, 18, 20\)"):
        predict_candidates(LunaModel((16, 16, 16)), dataset, batch_size=1, device=torch.device("cpu"))


def scored(*rows: tuple[str, bool, float]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["split", "is_nodule", "score"])
    return table.assign(candidate_id=table.index)


def test_the_gallery_has_the_extremes_of_each_split() -> None:
    table = scored(
        ("test", True, 0.9),
        ("test", True, 0.5),
        ("test", True, 0.1),
        ("test", False, 0.8),
        ("test", False, 0.2),
        ("val", False, 0.1),
    )
    assert choose_gallery(table, "is_nodule", 1).tolist() == [0, 2, 3, 5]
    assert choose_gallery(table, "is_nodule", 0).tolist() == []


def test_the_gallery_holds_the_planes_through_the_centre_row_for_row(tmp_path: Path) -> None:
    crops = NumberedCrops()
    write_gallery(np.array([2, 1]), CANDIDATES, crops, tmp_path / "deep" / "gallery.npz")
    with np.load(tmp_path / "deep" / "gallery.npz", allow_pickle=False) as gallery:
        assert gallery["candidate_id"].tolist() == [2, 1]
        for place, crop in enumerate((crops.crop("b", 1), crops.crop("a", 0))):
            np.testing.assert_array_equal(gallery["transverse"][place], crop[8])
            np.testing.assert_array_equal(gallery["coronal"][place], crop[:, 9])
            np.testing.assert_array_equal(gallery["sagittal"][place], crop[:, :, 10])


def test_equal_galleries_are_equal_bytes_and_an_empty_one_is_one(tmp_path: Path) -> None:
    for name, ids in (("a", [0]), ("b", [0]), ("empty", [])):
        write_gallery(np.array(ids, np.int64), CANDIDATES, NumberedCrops(), tmp_path / f"{name}.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "empty.npz") as gallery:
        assert gallery["coronal"].shape == (0, 16, 20)
