"""Volumes of three voxels that differ: one towards the head, one towards the back, one towards the left."""

from itertools import permutations, product

import numpy as np
import pytest

from lunaops.geometry import Grid, irc_from_xyz
from lunaops.views import crop_views, hanging, orthogonal_views, transverse_views

HEAD, BACK, LEFT = 3, 2, 1
SHAPE_ZYX, SPACING_XYZ = (5, 7, 9), (0.5, 0.7, 2.0)
EVERY_AXIS_ALIGNED = [(order, signs) for order in permutations(range(3)) for signs in product([1, -1], repeat=3)]


def patient():
    """Head, back and left of the middle are marked, in patient order (z, y, x)."""
    volume = np.zeros(SHAPE_ZYX, dtype=np.int16)
    volume[4, 3, 4], volume[2, 6, 4], volume[2, 3, 8] = HEAD, BACK, LEFT
    return volume


def stored(order, signs):
    """The patient as a scan with other axes holds it: columns, rows, slices step along xyz[order], with these signs."""
    direction = np.zeros((3, 3))
    direction[list(order), range(3)] = signs
    irc_axes = [2 - axis for axis in reversed(order)]  # the patient's array axis that slices, rows, columns run along
    flips = tuple(slice(None, None, sign) for sign in reversed(signs))
    volume = patient().transpose(irc_axes)[flips]
    spacing = tuple(np.array(SPACING_XYZ)[list(order)].tolist())
    return volume, spacing, direction


def center_irc(volume):
    return [(size - 1) / 2 for size in volume.shape]


@pytest.mark.parametrize(("order", "signs"), EVERY_AXIS_ALIGNED)
def test_any_way_of_storing_is_hung_the_same(order, signs):
    volume, spacing, direction = stored(order, signs)
    how = hanging(direction)
    assert how.degrees_off == 0
    views = orthogonal_views(volume, center_irc(volume), spacing, how)
    transverse, coronal, sagittal = (views[name] for name in ("transverse", "coronal", "sagittal"))
    assert transverse.image.shape == (7, 9) and transverse.pixel_mm == (0.7, 0.5)
    assert transverse.image[-1, 4] == BACK and transverse.image[3, -1] == LEFT  # front up, right of patient left
    assert coronal.image.shape == (5, 9) and coronal.pixel_mm == (2.0, 0.5)
    assert coronal.image[0, 4] == HEAD and coronal.image[2, -1] == LEFT
    assert sagittal.image.shape == (5, 7) and sagittal.pixel_mm == (2.0, 0.7)
    assert sagittal.image[0, 3] == HEAD and sagittal.image[2, -1] == BACK


@pytest.mark.parametrize(("order", "signs"), EVERY_AXIS_ALIGNED)
def test_the_planes_of_a_crop_are_hung_as_the_crop_itself(order, signs):
    crop, spacing, direction = stored(order, signs)
    middle = [size // 2 for size in crop.shape]
    planes = {
        "transverse": crop[middle[0]],
        "coronal": crop[:, middle[1]],
        "sagittal": crop[:, :, middle[2]],
    }
    whole = orthogonal_views(crop, middle, spacing, hanging(direction))
    for name, view in crop_views(planes, spacing, hanging(direction)).items():
        np.testing.assert_array_equal(view.image, whole[name].image)
        assert (view.pixel_mm, view.center) == (whole[name].pixel_mm, whole[name].center)


@pytest.mark.parametrize("flip", [1, -1])
def test_the_centre_of_an_even_crop_stays_on_its_voxel(flip):
    crop = np.zeros((4, 6, 8), dtype=np.int16)
    crop[2, 3, 4] = 9
    planes = {"transverse": crop[2], "coronal": crop[:, 3], "sagittal": crop[:, :, 4]}
    for view in crop_views(planes, SPACING_XYZ, hanging(np.diag([flip, flip, flip]))).values():
        down, right = view.center
        assert view.image[int(down), int(right)] == 9


def test_the_centre_follows_the_point_in_the_patient():
    grid = Grid((5, 7, 9), SPACING_XYZ, (10.0, 20.0, 30.0), ((-1, 0, 0), (0, -1, 0), (0, 0, 1)))
    hu = np.zeros(grid.shape_irc, dtype=np.int16)
    hu[1, 2, 3] = 9
    point = (10.0 - 3 * 0.5, 20.0 - 2 * 0.7, 30.0 + 1 * 2.0)
    views = orthogonal_views(hu, irc_from_xyz(np.array(point), grid), SPACING_XYZ, hanging(grid.direction))
    for view in views.values():
        down, right = view.center
        assert view.image[round(down), round(right)] == 9
    assert views["transverse"].center == pytest.approx((7 - 1 - 2, 9 - 1 - 3))


def test_the_extent_is_in_millimetres_from_the_centre():
    view = orthogonal_views(patient(), [2, 3, 4], SPACING_XYZ, hanging(np.eye(3)))["coronal"]
    assert view.extent_mm == pytest.approx((-2.25, 2.25, 5.0, -5.0))
    edge = orthogonal_views(patient(), [0, 3, 0], SPACING_XYZ, hanging(np.eye(3)))["coronal"]
    assert edge.extent_mm == pytest.approx((-0.25, 4.25, 1.0, -9.0))  # the feet are below


def test_slices_go_towards_the_head_also_where_the_scan_runs_to_the_feet():
    volume, spacing, direction = stored((0, 1, 2), (1, 1, -1))
    slices = transverse_views(volume, center_irc(volume), spacing, hanging(direction), [-3, 0, 2])
    assert slices[0] is None
    assert slices[1].depth_mm == 0 and slices[2].depth_mm == pytest.approx(4.0)
    assert slices[2].image[3, 4] == HEAD


def test_neighbouring_slices_follow_one_another_at_half_a_voxel():
    for middle in (1.5, 2.5):
        slices = transverse_views(patient(), [middle, 3, 4], SPACING_XYZ, hanging(np.eye(3)), [-1, 0, 1])
        depths = [view.depth_mm for view in slices]
        assert np.diff(depths) == pytest.approx([2.0, 2.0])


@pytest.mark.parametrize("degrees", [5, 40, -30])
def test_an_oblique_scan_is_hung_by_its_nearest_axes(degrees):
    turn = np.radians(degrees)
    direction = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    how = hanging(direction)
    assert how.axes == (0, 1, 2) and how.is_flipped == (False, False, False)
    assert how.degrees_off == pytest.approx(abs(degrees))


def test_no_axis_is_taken_twice_at_45_degrees():
    half = np.sqrt(0.5)
    how = hanging([[half, -half, 0], [half, half, 0], [0, 0, 1]])
    assert sorted(how.axes) == [0, 1, 2]
