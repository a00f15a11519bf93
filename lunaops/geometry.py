"""Voxel index, row, column <-> patient millimetres, for any direction matrix.

A scan's grid follows ITK: xyz = direction @ (cri * spacing_xyz) + origin, where cri is the voxel's column, row,
index, that is its irc reversed, and whole numbers are voxel centres.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """Where a scan's voxels lie: shape in voxels, spacing and origin in mm, direction's columns the axes."""

    shape_irc: tuple[int, int, int]
    spacing_xyz: tuple[float, float, float]
    origin_xyz: tuple[float, float, float]
    direction: tuple[tuple[float, float, float], ...]

    @property
    def axes_xyz(self) -> NDArray[np.float64]:
        """(3, 3): column k is the step in mm to the next column, row, slice for k = 0, 1, 2."""
        axes: NDArray[np.float64] = np.asarray(self.direction) * np.asarray(self.spacing_xyz)
        return axes


def xyz_from_irc(points_irc: ArrayLike, grid: Grid) -> Points:
    """Patient millimetres of voxel coordinates, (n, 3) or (3,), fractions allowed."""
    cri = np.asarray(points_irc, dtype=np.float64)[..., ::-1]
    xyz: Points = cri @ grid.axes_xyz.T + np.asarray(grid.origin_xyz)
    return xyz


def irc_from_xyz(points_xyz: ArrayLike, grid: Grid) -> Points:
    """Voxel coordinates of patient millimetres, (n, 3) or (3,), not rounded; the inverse of `xyz_from_irc`."""
    offset = np.asarray(points_xyz, dtype=np.float64) - np.asarray(grid.origin_xyz)
    cri: Points = np.linalg.solve(grid.axes_xyz, offset.reshape(-1, 3).T).T.reshape(offset.shape)
    return cri[..., ::-1]


def is_inside(points_irc: ArrayLike, grid: Grid) -> NDArray[np.bool_]:
    """Whether the voxel nearest to each point exists, (n,) for points (n, 3)."""
    nearest = np.rint(np.asarray(points_irc))
    inside: Any = (nearest >= 0) & (nearest < np.asarray(grid.shape_irc))
    return np.asarray(inside.all(axis=-1))
