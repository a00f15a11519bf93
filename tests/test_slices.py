"""Volumes of a few slices, 2 mm apart unless a test moves one."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from lunaops.errors import InputError
from lunaops.geometry import xyz_from_irc
from lunaops.sources.slices import Slice, stack

SAGITTAL = np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]], float)  # columns: step to the next column, row, slice
FEET_FIRST = np.diag([-1.0, 1.0, -1.0])


def slices(heights=(0, 2, 4, 6, 8), direction=None) -> list[Slice]:
    axes = np.eye(3) if direction is None else direction
    return [
        Slice(
            path=Path(f"at{number}.dcm"),
            series_uid="1.2.3",
            patient_id="",
            shape_rc=(4, 5),
            spacing_rc=(0.7, 0.5),
            position_xyz=tuple(np.array([1.0, 2.0, 3.0]) + axes[:, 2] * height),
            orientation=(*axes[:, 0], *axes[:, 1]),
        )
        for number, height in enumerate(heights)
    ]


def names(found: list[Slice]) -> list[str]:
    return [one.path.stem for one in found]


def refused(found: list[Slice]) -> str:
    with pytest.raises(InputError, match=r"^series 1\.2\.3: .*, or move the series out of the folder$") as raised:
        stack(found)
    return str(raised.value)


def test_a_regular_series_is_a_grid() -> None:
    ordered, grid = stack(slices())
    assert names(ordered) == ["at0", "at1", "at2", "at3", "at4"]
    assert (grid.shape_irc, grid.spacing_xyz, grid.origin_xyz) == ((5, 4, 5), (0.5, 0.7, 2.0), (1.0, 2.0, 3.0))
    assert np.array_equal(grid.direction, np.eye(3))


@pytest.mark.parametrize("direction", [np.eye(3), SAGITTAL, FEET_FIRST], ids=["axial", "sagittal", "feet first"])
@given(order=st.permutations(range(5)))
def test_the_place_orders_the_slices_and_not_the_file(direction, order) -> None:
    files = slices(direction=direction)
    assert stack([files[at] for at in order]) == stack(files)
    assert names(stack(files)[0]) == ["at0", "at1", "at2", "at3", "at4"]


def test_the_same_slices_make_the_same_grid_whichever_file_came_first() -> None:
    files = slices()
    files[4] = replace(files[4], orientation=(1.0, 5e-5, 0.0, -5e-5, 1.0, 0.0))  # as rounding makes them differ
    assert stack(files) == stack(files[::-1])


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_every_voxel_is_where_its_slice_says_on_any_grid(seed: int, backwards: bool) -> None:
    direction = Rotation.random(random_state=seed).as_matrix()
    files = slices(heights=(8, 6, 4, 2, 0) if backwards else (0, 2, 4, 6, 8), direction=direction)
    ordered, grid = stack(files)
    for index, one in enumerate(ordered):
        row, column = np.reshape(one.orientation, (2, 3))[::-1] * np.array([[3 * 0.7], [2 * 0.5]])
        np.testing.assert_allclose(xyz_from_irc([index, 3, 2], grid), one.position_xyz + row + column, atol=1e-9)


def test_positions_that_the_scanner_rounded_are_regular() -> None:
    _, grid = stack(slices(heights=np.round(0.625 * np.arange(200), 1)))
    assert grid.spacing_xyz[2] == pytest.approx(0.625, abs=1e-3)


@pytest.mark.parametrize(
    ("heights", "message"),
    [
        ((0, 2, 6, 8), "1 slice(s) are missing: 2 mm lie between two, but more between at1.dcm and at2.dcm (after (1"),
        ((0, 6, 8), "2 slice(s) are missing: 2 mm lie between two, but more between at0.dcm and at1.dcm"),
        (
            (0, 2, 6, 8, 12, 14),
            "2 slice(s) are missing: 2 mm lie between two, but more between at1.dcm and at2.dcm; and",
        ),
        (range(0, 40, 4), None),
        ((0, 2, 4, 5.5, 7.5), "slices at uneven distances, 1.5 to 2 mm; at2.dcm lies 0.25 mm from its place"),
        ((0, 2, 4, 8.7, 10.7), "slices at uneven distances, 2 to 4.7 mm"),
        ((0, 2, 4, 4, 6), "1 slice(s) share the place of another, as at2.dcm and at3.dcm at (1, 2, 7) mm"),
        ((0, 0, 0), "2 slice(s) share the place of another"),
    ],
)
def test_places_that_are_no_regular_grid_are_named(heights, message: str | None) -> None:
    files = slices(heights)
    if message is None:
        assert stack(files)[1].spacing_xyz[2] == 4
    else:
        assert message in refused(files)


@given(gone=st.integers(1, 10), seed=st.integers(0, 2**32 - 1))
def test_any_one_missing_slice_is_found_on_any_grid(gone: int, seed: int) -> None:
    files = slices(np.round(np.arange(12) * 0.625, 1), Rotation.random(random_state=seed).as_matrix())
    del files[gone]
    assert f"1 slice(s) are missing: 0.6 mm lie between two, but more between at{gone - 1}.dcm" in refused(files)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape_rc": (4, 6)}, "mixed image sizes: (4, 5) in at0.dcm, (4, 6) in at3.dcm"),
        ({"spacing_rc": (0.7, 0.6)}, "mixed pixel spacings: (0.7, 0.5) in at0.dcm, (0.7, 0.6) in at3.dcm"),
        (
            {"orientation": (1, 0, 0, 0, 0, -1)},
            "mixed orientations: (1, 0, 0, 0, 1, 0) in at0.dcm, (1, 0, 0, 0, 0, -1)",
        ),
    ],
)
def test_slices_of_two_kinds_are_refused_by_name(change, message: str) -> None:
    files = slices()
    files[3] = replace(files[3], **change)
    assert message in refused(files)


def test_a_tilted_gantry_is_refused_with_its_angle() -> None:
    tilt = Rotation.from_euler("x", 15, degrees=True).as_matrix()
    files = [
        replace(one, orientation=(*tilt[:, 0], *tilt[:, 1]), position_xyz=(0.0, 0.0, 2.0 * number))
        for number, one in enumerate(slices())
    ]
    assert "square behind each other (a tilted gantry?): at4.dcm is 2.07 mm aside, 15 degrees" in refused(files)


def test_a_slice_beside_the_others_is_refused() -> None:
    files = slices()
    files[2] = replace(files[2], position_xyz=(1.3, 2.0, 7.0))
    assert re.search(r"at2\.dcm is 0\.3 mm aside", refused(files))
