import numpy as np
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from lunaops.geometry import Grid, irc_from_xyz, is_inside, xyz_from_irc

mm = st.floats(-500, 500)
spacing = st.floats(0.4, 3.0)
angle = st.integers(-180_000, 180_000).map(lambda number: number / 1000)  # ITK's inverse is NaN near 1e-310 degrees


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    turned = Rotation.from_euler("xyz", [draw(angle), draw(angle), draw(angle)], degrees=True).as_matrix()
    flips = np.diag([draw(st.sampled_from([-1, 1])) for _ in range(3)])
    return Grid(
        (40, 50, 60),
        (draw(spacing), draw(spacing), draw(spacing)),
        (draw(mm), draw(mm), draw(mm)),
        tuple(map(tuple, turned @ flips)),
    )


points_irc = st.lists(st.tuples(*[st.floats(-100, 600)] * 3), min_size=1, max_size=5)
points_xyz = st.lists(st.tuples(*[mm] * 3), min_size=1, max_size=5)


def image_of(grid: Grid) -> sitk.Image:
    image = sitk.Image([60, 50, 40], sitk.sitkInt16)
    image.SetSpacing(grid.spacing_xyz)
    image.SetOrigin(grid.origin_xyz)
    image.SetDirection(np.ravel(grid.direction).tolist())
    return image


@given(grids(), points_irc)
def test_millimetres_equal_simpleitk_s_on_any_grid(grid: Grid, points: list[tuple[float, ...]]) -> None:
    image = image_of(grid)
    wanted = [image.TransformContinuousIndexToPhysicalPoint(point[::-1]) for point in points]
    np.testing.assert_allclose(xyz_from_irc(points, grid), wanted, rtol=0, atol=1e-6)


@given(grids(), points_xyz)
def test_voxels_equal_simpleitk_s_on_any_grid(grid: Grid, points: list[tuple[float, ...]]) -> None:
    image = image_of(grid)
    wanted = [image.TransformPhysicalPointToContinuousIndex(point)[::-1] for point in points]
    np.testing.assert_allclose(irc_from_xyz(points, grid), wanted, rtol=0, atol=1e-6)


@given(grids(), points_irc, points_xyz)
def test_there_and_back_is_the_same_point(
    grid: Grid, irc: list[tuple[float, ...]], xyz: list[tuple[float, ...]]
) -> None:
    np.testing.assert_allclose(irc_from_xyz(xyz_from_irc(irc, grid), grid), irc, rtol=0, atol=1e-6)
    np.testing.assert_allclose(xyz_from_irc(irc_from_xyz(xyz, grid), grid), xyz, rtol=0, atol=1e-6)


def test_many_points_are_each_the_one_that_they_are_alone() -> None:
    turned = Rotation.from_euler("xyz", [20, -15, 30], degrees=True).as_matrix()
    grid = Grid((40, 50, 60), (0.7, 0.8, 2.5), (-100.0, -200.0, -300.0), tuple(map(tuple, turned)))
    points = np.random.default_rng(1).uniform(-300, 300, (1000, 3))
    for convert in (xyz_from_irc, irc_from_xyz):
        alone = [convert(point, grid) for point in points]
        np.testing.assert_allclose(convert(points, grid), alone, rtol=0, atol=1e-9)


def test_a_flipped_scan_counts_columns_and_rows_backwards() -> None:
    grid = Grid((10, 10, 10), (0.5, 0.5, 2.0), (100.0, 50.0, -20.0), ((-1, 0, 0), (0, -1, 0), (0, 0, 1)))
    assert irc_from_xyz([99.0, 47.0, -14.0], grid).tolist() == [3.0, 6.0, 2.0]


def test_one_point_without_a_list_round_it() -> None:
    grid = Grid((4, 4, 4), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0), tuple(map(tuple, np.eye(3))))
    assert xyz_from_irc([1, 1, 1], grid).tolist() == [1.0, 2.0, 3.0]


def test_inside_means_that_the_nearest_voxel_exists() -> None:
    grid = Grid((2, 3, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(map(tuple, np.eye(3))))
    points = [[0, 0, 0], [1.4, 2.4, 3.4], [1.6, 0, 0], [0, -0.6, 0], [0, 0, 4]]
    assert is_inside(points, grid).tolist() == [True, True, False, False, False]
