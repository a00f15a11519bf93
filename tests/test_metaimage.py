from pathlib import Path

import numpy as np
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from lunaops.ct import read_ct, read_grid
from lunaops.geometry import Grid
from lunaops.sources.metaimage import write_metaimage

EYE = tuple(map(tuple, np.eye(3)))
HU = np.arange(-12, 12, dtype=np.int16).reshape(2, 3, 4)


def test_a_written_scan_is_luna16_s_text_and_bytes(tmp_path: Path) -> None:
    write_metaimage(tmp_path / "1.2.mhd", HU, Grid((2, 3, 4), (0.5, 0.75, 2.0), (-1.25, 1e-5, -0.0), EYE))
    assert (tmp_path / "1.2.mhd").read_text().splitlines() == [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = False",
        "TransformMatrix = 1 0 0 0 1 0 0 0 1",
        "Offset = -1.25 0.00001 0",
        "CenterOfRotation = 0 0 0",
        "ElementSpacing = 0.5 0.75 2",
        "DimSize = 4 3 2",
        "ElementType = MET_SHORT",
        "ElementDataFile = 1.2.raw",
    ]
    assert (tmp_path / "1.2.raw").read_bytes() == HU.astype("<i2").tobytes()


def test_slices_of_any_layout_become_the_same_bytes(tmp_path: Path) -> None:
    grid = Grid((2, 3, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), EYE)
    write_metaimage(tmp_path / "1.mhd", (one for one in np.asfortranarray(HU).astype(">i2")), grid)
    assert read_ct(tmp_path / "1.mhd", (-32768, 32767)).hu.tolist() == HU.tolist()


@given(seed=st.integers(0, 2**32 - 1), numbers=st.lists(st.floats(0.3, 600), min_size=6, max_size=6))
def test_any_grid_is_read_back_by_us_and_by_simpleitk(tmp_path_factory, seed: int, numbers: list[float]) -> None:
    path = tmp_path_factory.mktemp("scan") / "1.mhd"
    direction = Rotation.random(random_state=seed).as_matrix()
    grid = Grid((2, 3, 4), tuple(numbers[:3]), tuple(numbers[3:]), tuple(map(tuple, direction)))
    write_metaimage(path, HU, grid)
    image, back = sitk.ReadImage(str(path)), read_grid(path)
    for got in (image.GetSpacing(), back.spacing_xyz):
        np.testing.assert_allclose(got, grid.spacing_xyz, rtol=1e-11)
    for got in (image.GetOrigin(), back.origin_xyz):
        np.testing.assert_allclose(got, grid.origin_xyz, rtol=1e-11)
    for got in (np.reshape(image.GetDirection(), (3, 3)), back.direction):
        np.testing.assert_allclose(got, direction, atol=1e-11)
