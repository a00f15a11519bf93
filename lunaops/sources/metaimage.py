"""A scan as MetaImage: a text header, and raw little-endian int16 beside it, as LUNA16's files are."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lunaops.geometry import Grid

_DECIMALS = 12  # of a millimetre or a cosine: what is finer is noise of the arithmetic


def write_metaimage(path: Path, slices: Iterable[NDArray[np.int16]], grid: Grid) -> None:
    """Write a scan at `path`, a .mhd, its voxels (rows, columns) slice by slice into the .raw of the same name.

    The header comes last: where it is, its voxels are. An array (slices, rows, columns) does for `slices`.
    """
    with path.with_suffix(".raw").open("wb") as raw:
        for hu in slices:
            raw.write(np.ascontiguousarray(hu, dtype="<i2").data)
        assert raw.tell() == 2 * np.prod(grid.shape_irc)
    header = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": _text(np.transpose(grid.direction)),  # MetaImage says one axis after the other
        "Offset": _text(grid.origin_xyz),
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": _text(grid.spacing_xyz),
        "DimSize": _text(grid.shape_irc[::-1]),
        "ElementType": "MET_SHORT",
        "ElementDataFile": f"{path.stem}.raw",
    }
    path.write_text("".join(f"{key} = {value}\n" for key, value in header.items()), encoding="ascii", newline="\n")


def _text(numbers: ArrayLike) -> str:
    rounded = np.round(np.ravel(np.asarray(numbers, dtype=np.float64)), _DECIMALS) + 0.0  # -0.0 becomes 0
    return " ".join(np.format_float_positional(number, trim="-") for number in rounded)
