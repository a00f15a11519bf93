"""The slices of a DICOM series as one volume: put in order, held to one regular grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lunaops.errors import InputError
from lunaops.geometry import Grid

OFF_GRID_MM = 0.1  # a slice may lie so far from its place; scanners round positions, the coarsest to 0.1 mm
_ALIKE = 1e-4  # spacings in mm and cosines may differ so: less than 0.1 mm over a slice
_SAME_PLACE_MM = 0.01
_SHOWN = 3  # places that a message names


@dataclass(frozen=True)
class Slice:
    """One CT image of a series: where its voxels lie. Spacing and shape are said as (between) rows, columns."""

    path: Path
    series_uid: str
    patient_id: str
    shape_rc: tuple[int, int]
    spacing_rc: tuple[float, ...]
    position_xyz: tuple[float, ...]  # of the first voxel
    orientation: tuple[float, ...]  # the cosines along a row, then along a column


def stack(slices: Sequence[Slice]) -> tuple[list[Slice], Grid]:
    """The slices, two or more of one series, by their place along their normal, and the grid of their voxels.

    Neither file names nor instance numbers count. Raises InputError naming the series, files and places where
    sizes, spacings or orientations are mixed, two slices share a place, some are missing in between, or one lies more
    than OFF_GRID_MM off the regular grid, as with a tilted gantry. What is missing at an end cannot be seen.
    """
    for part, name in (("shape_rc", "image sizes"), ("spacing_rc", "pixel spacings"), ("orientation", "orientations")):
        _check_alike(slices, part, name)
    normal = _axes(slices[0])[2]
    slices = sorted(slices, key=lambda one: float(np.dot(one.position_xyz, normal)))
    axes = _axes(slices[0])  # of the first in space: whichever file came first must not matter
    heights = np.array([one.position_xyz for one in slices]) @ axes[2]
    _check_places(slices, heights)
    distance = float(heights[-1] - heights[0]) / (len(slices) - 1)
    _check_regular(slices, heights, distance)
    _check_straight(slices, heights, axes[2])
    down, right = slices[0].spacing_rc
    x, y, z = slices[0].position_xyz
    direction = tuple((float(row[0]), float(row[1]), float(row[2])) for row in axes.T)
    return slices, Grid((len(slices), *slices[0].shape_rc), (right, down, distance), (x, y, z), direction)


def _check_alike(slices: Sequence[Slice], part: str, name: str) -> None:
    first = getattr(slices[0], part)
    for one in slices[1:]:
        other = getattr(one, part)
        if not np.allclose(first, other, rtol=0, atol=_ALIKE):
            raise _refusal(
                slices,
                f"mixed {name}: {_words(first)} in {slices[0].path}, {_words(other)} in {one.path}; keep one kind",
            )


def _axes(one: Slice) -> NDArray[np.float64]:
    """(3, 3): rows are the unit steps to the next column, row, slice in patient coordinates."""
    along_row, along_column = np.reshape(one.orientation, (2, 3))
    along_row = along_row / np.linalg.norm(along_row)
    along_column = along_column - along_row * (along_row @ along_column)
    along_column = along_column / np.linalg.norm(along_column)
    return np.stack([along_row, along_column, np.cross(along_row, along_column)])


def _check_places(slices: Sequence[Slice], heights: NDArray[np.float64]) -> None:
    twice = np.flatnonzero(np.diff(heights) < _SAME_PLACE_MM)
    if len(twice):
        one, other = slices[twice[0]], slices[twice[0] + 1]
        raise _refusal(
            slices,
            f"{len(twice)} slice(s) share the place of another, as {one.path} and {other.path} at "
            f"{_words(one.position_xyz)} mm; keep one of each",
        )


def _check_regular(slices: Sequence[Slice], heights: NDArray[np.float64], distance: float) -> None:
    off = heights - heights[0] - distance * np.arange(len(slices))
    if np.abs(off).max() <= OFF_GRID_MM:
        return
    gaps = np.diff(heights)
    usual = float(np.median(gaps[gaps < 1.5 * gaps.min()]))
    steps = gaps / usual
    holes: list[int] = np.flatnonzero(steps > 1.5).tolist()
    if holes and np.abs(gaps - np.rint(steps) * usual).max() <= 2 * OFF_GRID_MM:
        missing = int(np.rint(steps[holes]).sum()) - len(holes)
        places = _listed([f"{slices[at].path.name} and {slices[at + 1].path.name}" for at in holes], "; and ")
        at = _listed([f"{_words(slices[at].position_xyz)}" for at in holes], "; ")
        raise _refusal(
            slices,
            f"{missing} slice(s) are missing: {usual:.4g} mm lie between two, but more between {places} "
            f"(after {at} mm); bring the missing files",
        )
    worst = int(np.abs(off).argmax())
    raise _refusal(
        slices,
        f"slices at uneven distances, {gaps.min():.4g} to {gaps.max():.4g} mm; {slices[worst].path.name} lies "
        f"{abs(off[worst]):.3g} mm from its place on a regular grid, {OFF_GRID_MM} mm are allowed; resample it",
    )


def _check_straight(slices: Sequence[Slice], heights: NDArray[np.float64], normal: NDArray[np.float64]) -> None:
    positions = np.array([one.position_xyz for one in slices])
    aside = np.linalg.norm(positions - positions[0] - np.outer(heights - heights[0], normal), axis=1)
    if aside.max() > OFF_GRID_MM:
        worst = int(aside.argmax())
        degrees = np.degrees(np.arctan2(aside[worst], heights[worst] - heights[0]))
        raise _refusal(
            slices,
            f"slices do not lie square behind each other (a tilted gantry?): {slices[worst].path.name} is "
            f"{aside[worst]:.3g} mm aside, {degrees:.3g} degrees; {OFF_GRID_MM} mm are allowed; resample it",
        )


def _refusal(slices: Sequence[Slice], reason: str) -> InputError:
    return InputError(f"series {slices[0].series_uid}: {reason}, or move the series out of the folder")


def _words(numbers: Sequence[float]) -> str:
    return f"({', '.join(f'{number:.6g}' for number in numbers)})"


def _listed(places: Sequence[str], between: str) -> str:
    more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    return between.join(places[:_SHOWN]) + more
