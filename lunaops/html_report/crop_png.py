"""Crops as small PNG images, for a page that lays them out itself."""

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lunaops.geometry import Grid
from lunaops.scan_figures import CROP_FIELD_MM, LUNG_HU
from lunaops.views import View, crop_views, hanging

PIXELS_PER_MM = 4
SIDE_PIXELS = round(CROP_FIELD_MM * PIXELS_PER_MM)  # of one plane
_GAP, _MARK = 8, 7  # pixels between planes; pixels of the marks at their edges
_BAR_MM = 10
CROP_PNG_SIZE = (3 * SIDE_PIXELS + 2 * _GAP, SIDE_PIXELS)  # pixels: wide, tall
_CLEAR, _WHITE, _YELLOW = 253, 254, 255  # of the palette; those below are greys
_GREYS = [grey * 255 // (_CLEAR - 1) for grey in range(_CLEAR)]
_PALETTE = [level for grey in [*_GREYS, 0, 255] for level in (grey, grey, grey)] + [0xF0, 0xE4, 0x42]


def crop_png(planes: Mapping[str, NDArray[np.int16]], grid: Grid) -> bytes:
    """The transverse, coronal and sagittal plane side by side, hung upright, on one scale, in the lung window.

    `planes` are HU as predict stores them: (R, C), (I, C), (I, R). Each square shows CROP_FIELD_MM around the
    candidate, black where the crop ends; marks at its edges point at the candidate, and the first has a bar of 10 mm.
    """
    views = crop_views(planes, grid.spacing_xyz, hanging(grid.direction)).values()
    squares = [_square(view) for view in views]
    squares[0][-_MARK - 2 : -_MARK, _MARK : _MARK + _BAR_MM * PIXELS_PER_MM] = _WHITE
    gap = np.full((SIDE_PIXELS, _GAP), _CLEAR, dtype=np.uint8)
    image = Image.fromarray(np.hstack([squares[0], gap, squares[1], gap, squares[2]]))
    image.putpalette(_PALETTE)  # what were grey levels are places in it
    png = io.BytesIO()
    image.save(png, format="PNG", optimize=True, transparency=_CLEAR)
    return png.getvalue()


def _square(view: View) -> NDArray[np.uint8]:
    """The view's nearest voxel at every pixel of the square, as grey levels, and the marks."""
    mm = (np.arange(SIDE_PIXELS) + 0.5) / PIXELS_PER_MM - CROP_FIELD_MM / 2
    rows, columns = (
        np.floor(mm / size + middle + 0.5).astype(int) for size, middle in zip(view.pixel_mm, view.center, strict=True)
    )
    tall, wide = view.image.shape
    is_inside = ((rows >= 0) & (rows < tall))[:, None] & ((columns >= 0) & (columns < wide))
    hu = view.image[np.ix_(rows.clip(0, tall - 1), columns.clip(0, wide - 1))]
    low, high = LUNG_HU
    grey = ((hu - float(low)) / (high - low)).clip(0, 1) * (_CLEAR - 1)
    square = np.where(is_inside, grey.round(), 0).astype(np.uint8)
    middle = slice(SIDE_PIXELS // 2 - 1, SIDE_PIXELS // 2 + 1)
    for edge in (slice(0, _MARK), slice(-_MARK, None)):
        square[edge, middle] = square[middle, edge] = _YELLOW
    return square
