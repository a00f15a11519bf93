"""Smooth fields on a coarse grid: signed distances and densities, in millimetres and HU."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Array = npt.NDArray[Any]
STEP_MM = 3.0  # of the coarse grid; surfaces are signed distances, so their interpolation stays smooth


@dataclass(frozen=True)
class CoarseGrid:
    """A regular grid over the thorax; arrays over it have the order z, y, x."""

    start_xyz: Array
    shape_zyx: tuple[int, int, int]

    @classmethod
    def covering(cls, low_xyz: Array, high_xyz: Array) -> "CoarseGrid":
        """The grid from one corner to the other, one step wider on each side."""
        low, high = np.asarray(low_xyz, float) - STEP_MM, np.asarray(high_xyz, float) + STEP_MM
        x, y, z = (np.ceil((high - low) / STEP_MM).astype(int) + 1).tolist()
        return cls(low, (z, y, x))

    def axes(self) -> tuple[Array, Array, Array]:
        """Coordinates x, y, z [mm], shaped so that they broadcast over a field."""
        z, y, x = (np.arange(n, dtype=np.float32) * np.float32(STEP_MM) for n in self.shape_zyx)
        x0, y0, z0 = self.start_xyz.astype(np.float32)
        return (x + x0)[None, None, :], (y + y0)[None, :, None], (z + z0)[:, None, None]

    def value_at(self, field: Array, points_xyz: Array) -> Array:
        """The field at (n, 3) points, linearly interpolated; beyond the grid its border's value."""
        index = ((np.asarray(points_xyz) - self.start_xyz) / STEP_MM)[:, ::-1].T
        return np.asarray(ndimage.map_coordinates(field, index, order=1, mode="nearest"))

    def gradient_at(self, field: Array, points_xyz: Array) -> Array:
        """The field's gradient at (n, 3) points per millimetre, by central differences."""
        columns = []
        for axis in range(3):
            offset = np.zeros(3)
            offset[axis] = STEP_MM
            rise = self.value_at(field, points_xyz + offset) - self.value_at(field, points_xyz - offset)
            columns.append(rise / (2 * STEP_MM))
        return np.stack(columns, axis=1)

    def points_in(self, rng: np.random.Generator, mask: Array, count: int) -> Array:
        """So many random points (count, 3) within the cells where the mask holds."""
        cells = np.argwhere(mask)
        chosen = cells[rng.integers(len(cells), size=count)][:, ::-1]
        return np.asarray(self.start_xyz + STEP_MM * (chosen + rng.uniform(-0.5, 0.5, (count, 3))))

    def texture(self, rng: np.random.Generator, scale_mm: float) -> Array:
        """Random field of unit variance that varies over about `scale_mm`."""
        every = max(scale_mm / STEP_MM, 1.0)
        seeds = [int(np.ceil(n / every)) + 3 for n in self.shape_zyx]
        noise = rng.standard_normal(seeds, dtype=np.float32)
        for axis, length in enumerate(self.shape_zyx):
            noise = interpolate_axis(noise, axis, 0.5 + np.arange(length) / every)
        return np.asarray(noise / noise.std())


def interpolate_axis(field: Array, axis: int, positions: Array) -> Array:
    """Linear interpolation along one axis at fractional indices, clamped at the ends; float32."""
    last = field.shape[axis] - 1
    positions = np.clip(positions, 0, last)
    low = np.minimum(positions.astype(np.intp), max(last - 1, 0))
    weight = (positions - low).astype(np.float32)
    shape = [1] * field.ndim
    shape[axis] = len(positions)
    below = field.take(low, axis)
    above = field.take(np.minimum(low + 1, last), axis)
    above -= below
    above *= weight.reshape(shape)
    above += below
    return np.asarray(above)


def distance_to_level(value: Array) -> Array:
    """Turn any smooth field that is negative inside into about the signed distance [mm] to its zero level."""
    squared, *others = (np.square(rise, out=rise) for rise in np.gradient(value, STEP_MM))
    for other in others:
        squared += other
    slope = np.sqrt(squared, out=squared)
    return np.asarray(value / np.maximum(slope, 1e-3, out=slope), dtype=np.float32)


def union(*distances: Array, rounding_mm: float = 3.0) -> Array:
    """The union of signed distances (negative inside), its inner corners rounded."""
    result = distances[0]
    for other in distances[1:]:
        gap = result - other
        blend = np.clip(0.5 - 0.5 * gap / rounding_mm, 0, 1)
        gap *= blend  # in place: these fields are a third of what planning a scan takes
        gap += other
        gap -= rounding_mm * blend * (1 - blend)
        result = gap
    return np.asarray(result)


def intersection(*distances: Array, rounding_mm: float = 3.0) -> Array:
    """The intersection of signed distances (negative inside), its outer corners rounded."""
    return -union(*(-d for d in distances), rounding_mm=rounding_mm)
