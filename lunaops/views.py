"""Planes of a volume as a radiologist hangs them, whatever way its voxels run.

Patient axes are LPS, as in LUNA16: x grows to the patient's left, y to the back, z to the head. Transverse planes
show the front up and the patient's right on the left; coronal ones the head up, right on the left; sagittal ones
the head up, front on the left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray

PLANES = ("transverse", "coronal", "sagittal")
EDGES = {"transverse": "APRL", "coronal": "HFRL", "sagittal": "HFAP"}  # top, bottom, left, right


@dataclass(frozen=True)
class Hanging:
    """How to turn an (I, R, C) array so that its axes run to the patient's head, back and left.

    `axes[k]` is the array's axis that lies nearest to the patient's k-th (z, y, x), `is_flipped[k]` whether it runs
    the other way, `degrees_off` the largest angle between two that were matched: 0 unless the scan is oblique.
    """

    axes: tuple[int, int, int]
    is_flipped: tuple[bool, bool, bool]
    degrees_off: float


@dataclass(frozen=True, eq=False)
class View:
    """One plane, ready to show: `image` rows run down, columns right; `center` is the point of interest.

    `pixel_mm` and `center` (a pixel, fractions allowed) are (down, right); `depth_mm` is how far the plane lies
    from the point, towards the head, back or left.
    """

    plane: str
    image: NDArray[np.int16]
    pixel_mm: tuple[float, float]
    center: tuple[float, float]
    depth_mm: float

    @property
    def extent_mm(self) -> tuple[float, float, float, float]:
        """Edges left, right, bottom, top in mm from the centre, rightwards and downwards positive."""
        (tall, wide), (down, right) = self.image.shape, self.center
        mm_down, mm_right = self.pixel_mm
        left, top = (-0.5 - right) * mm_right, (-0.5 - down) * mm_down
        return left, left + wide * mm_right, top + tall * mm_down, top


def hanging(direction: ArrayLike) -> Hanging:
    """The hanging for a direction matrix whose columns are the steps to the next column, row, slice (as ITK's).

    Of an oblique one each axis goes with the patient's axis that it is nearest to.
    """
    zyx_by_irc = np.asarray(direction, dtype=np.float64)[::-1, ::-1]
    zyx_by_irc = zyx_by_irc / np.linalg.norm(zyx_by_irc, axis=0)
    axes = max(permutations(range(3)), key=lambda axes: np.abs(zyx_by_irc[range(3), axes]).sum())
    cosines = zyx_by_irc[range(3), axes]
    degrees_off = float(np.degrees(np.arccos(np.clip(np.abs(cosines).min(), 0, 1))))
    first, second, third = axes
    return Hanging((first, second, third), tuple((cosines < 0).tolist()), degrees_off)


def orthogonal_views(
    hu: NDArray[np.int16], center_irc: ArrayLike, spacing_xyz: Sequence[float], how: Hanging
) -> dict[str, View]:
    """The transverse, coronal and sagittal plane through the voxel nearest to `center_irc`, by name."""
    turned = _turned(hu, center_irc, spacing_xyz, how)
    return {plane: _cut(*turned, plane) for plane in PLANES}


def transverse_views(
    hu: NDArray[np.int16], center_irc: ArrayLike, spacing_xyz: Sequence[float], how: Hanging, offsets: Sequence[int]
) -> list[View | None]:
    """Transverse planes so many slices towards the head from the centre's; None where the scan has no such slice."""
    turned = _turned(hu, center_irc, spacing_xyz, how)
    num_slices, middle = len(turned[0]), round(turned[1][0])
    return [_cut(*turned, "transverse", offset) if 0 <= middle + offset < num_slices else None for offset in offsets]


def crop_views(planes: Mapping[str, NDArray[np.int16]], spacing_xyz: Sequence[float], how: Hanging) -> dict[str, View]:
    """Hang the three central planes of a crop, cut along its voxels, by what they show of the patient.

    `planes` holds transverse (R, C), coronal (I, C) and sagittal (I, R), named as if slices were transverse. The
    crop's centre is the voxel at its shape // 2.
    """
    views = {}
    for across, name in enumerate(PLANES):
        slab = np.expand_dims(planes[name], across)
        center = [size // 2 for size in slab.shape]
        plane = PLANES[how.axes.index(across)]
        views[plane] = _cut(*_turned(slab, center, spacing_xyz, how), plane)
    return {plane: views[plane] for plane in PLANES}


def _turned(
    hu: NDArray[np.int16], center_irc: ArrayLike, spacing_xyz: Sequence[float], how: Hanging
) -> tuple[NDArray[np.int16], tuple[float, ...], tuple[float, ...]]:
    """Volume, centre and spacing in the order head, back, left; the volume shares its memory with `hu`."""
    volume = hu.transpose(how.axes)[tuple(slice(None, None, -1 if flip else 1) for flip in how.is_flipped)]
    center = np.asarray(center_irc, dtype=np.float64)[list(how.axes)]
    center = np.where(how.is_flipped, np.asarray(volume.shape) - 1 - center, center)
    spacing = np.asarray(spacing_xyz, dtype=np.float64)[::-1][list(how.axes)]
    return volume, tuple(center.tolist()), tuple(spacing.tolist())


def _cut(
    volume: NDArray[np.int16], center: tuple[float, ...], spacing: tuple[float, ...], plane: str, offset: int = 0
) -> View:
    across = PLANES.index(plane)
    index = round(center[across]) + offset
    image = np.moveaxis(volume, across, 0)[index]
    down, right = (axis for axis in range(3) if axis != across)
    place = center[down]
    if plane != "transverse":  # z grows upwards, rows run down
        image, place = image[::-1], len(image) - 1 - place
    depth_mm = (index - center[across]) * spacing[across]
    return View(plane, image, (spacing[down], spacing[right]), (place, center[right]), depth_mm)
