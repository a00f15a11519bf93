import io

import numpy as np
import pytest
from PIL import Image

from lunaops.geometry import Grid
from lunaops.html_report.crop_png import CROP_PNG_SIZE, PIXELS_PER_MM, SIDE_PIXELS, crop_png

UPRIGHT = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
FLIPPED = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))


def a_grid(spacing_xyz=(0.75, 0.75, 1.5), direction=UPRIGHT):
    return Grid((100, 100, 100), spacing_xyz, (0.0, 0.0, 0.0), direction)


def planes_of(volume):
    slices, rows, columns = (size // 2 for size in volume.shape)
    return {"transverse": volume[slices], "coronal": volume[:, rows], "sagittal": volume[:, :, columns]}


def a_volume():
    """Lung, a bright ball of 9 mm around the middle voxel, and a bright voxel 6 mm towards the head and the left."""
    volume = np.full((32, 48, 48), -1350, dtype=np.int16)
    index, row, column = np.indices(volume.shape) - np.array(volume.shape).reshape(3, 1, 1, 1) // 2
    volume[(1.5 * index) ** 2 + (0.75 * row) ** 2 + (0.75 * column) ** 2 < 4.5**2] = 150
    volume[16 + 4, 24, 24 + 8] = 150
    return volume


def squares(png):
    """Grey levels and opacity of the three planes."""
    image = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA")).astype(int)
    step = (image.shape[1] - SIDE_PIXELS) // 2
    return [image[:, start : start + SIDE_PIXELS] for start in (0, step, 2 * step)], image


def is_bright(square):
    return (square[..., :3] > 200).all(axis=-1)


def test_a_ball_is_as_wide_as_it_is_tall_whatever_the_spacing():
    planes, _ = squares(crop_png(planes_of(a_volume()), a_grid()))
    near = slice(SIDE_PIXELS // 2 - 20, SIDE_PIXELS // 2 + 20)  # 10 mm, without the bright voxel
    for square in planes:
        tall, wide = (np.ptp(place) / PIXELS_PER_MM for place in np.nonzero(is_bright(square)[near, near]))
        assert wide == pytest.approx(11 * 0.75, abs=0.5)
        assert tall == pytest.approx(wide, abs=1.5)  # a slice


def test_the_head_is_up_and_the_left_is_on_the_right():
    coronal = is_bright(squares(crop_png(planes_of(a_volume()), a_grid()))[0][1])
    middle = SIDE_PIXELS // 2
    assert coronal[middle - 6 * PIXELS_PER_MM, middle + 6 * PIXELS_PER_MM]
    assert not coronal[middle + 6 * PIXELS_PER_MM, middle + 6 * PIXELS_PER_MM]


def test_a_flipped_scan_gives_the_same_picture():
    volume = a_volume()[:, :47, :47]  # odd sizes, so that the middle voxel stays in the middle
    volume = np.roll(volume, -1, axis=(1, 2))
    upright = crop_png(planes_of(volume), a_grid())
    assert crop_png(planes_of(volume[:, ::-1, ::-1]), a_grid(direction=FLIPPED)) == upright


def test_black_where_the_crop_ends_clear_between_the_planes_and_marks_at_the_edges():
    volume = np.full((8, 16, 16), 150, dtype=np.int16)
    planes, image = squares(crop_png(planes_of(volume), a_grid()))
    assert (image.shape[1], image.shape[0]) == CROP_PNG_SIZE
    assert (image[:, SIDE_PIXELS + 2, 3] == 0).all() and (planes[0][..., 3] == 255).all()
    assert planes[0][20, 20].tolist() == [0, 0, 0, 255]
    assert planes[1][0, SIDE_PIXELS // 2].tolist() == [0xF0, 0xE4, 0x42, 255]
    assert planes[0][SIDE_PIXELS // 2, SIDE_PIXELS // 2].tolist() == [255, 255, 255, 255]


def test_the_bar_is_ten_millimetres_and_on_the_first_plane_alone():
    planes, _ = squares(crop_png(planes_of(np.full((32, 48, 48), -1350, dtype=np.int16)), a_grid()))
    assert [is_bright(square).any(axis=0).sum() for square in planes] == [10 * PIXELS_PER_MM, 0, 0]


def test_equal_crops_give_equal_bytes():
    assert crop_png(planes_of(a_volume()), a_grid()) == crop_png(planes_of(a_volume()), a_grid())
