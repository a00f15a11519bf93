"""One scan: Hounsfield units and the grid that they lie on; crops are cut out of it."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import xxhash
from numpy.typing import NDArray

from lunaops.errors import InputError
from lunaops.geometry import Grid
from lunaops.mhd import check_header, check_size, parse_header

HuArray = NDArray[np.int16]


@dataclass(frozen=True)
class Ct:
    """A scan: `hu` is int16, (slices, rows, columns), clipped to the range that it was read with."""

    series_uid: str
    hu: HuArray
    grid: Grid


def read_grid(path: Path) -> Grid:
    """The grid of the .mhd at `path`, from its header alone.

    Raises InputError where the header cannot be read, is not 3-D or not MET_SHORT, or its .raw is missing or has
    another size.
    """
    check_header(path, _header(path))
    reader = _reader(path)
    columns, rows, slices = reader.GetSize()
    d = reader.GetDirection()
    if abs(np.linalg.det(np.reshape(d, (3, 3)))) < 1e-6:
        raise InputError(f"{path}: TransformMatrix is singular: {d}; fetch the scan again")
    return Grid(
        shape_irc=(slices, rows, columns),
        spacing_xyz=reader.GetSpacing(),
        origin_xyz=reader.GetOrigin(),
        direction=(tuple(d[0:3]), tuple(d[3:6]), tuple(d[6:9])),
    )


def read_ct(path: Path, hu_range: tuple[int, int]) -> Ct:
    """Read the scan at `path`, its HU clipped to `hu_range`: what is outside carries no meaning for lungs.

    Raises InputError as `read_grid` does, and where the voxels cannot be read.
    """
    grid = read_grid(path)
    try:
        image = _reader(path).Execute()
    except RuntimeError as error:
        raise InputError(f"{path}: voxels cannot be read: {_reason(error)}; fetch the scan again") from error
    return Ct(path.stem, np.clip(sitk.GetArrayViewFromImage(image), *hu_range), grid)


def cut_crop(ct: Ct, center_irc: NDArray[np.float64], crop: HuArray, pad_hu: int) -> None:
    """Fill `crop` (slices, rows, columns) from the scan, the voxel nearest to `center_irc` at its shape // 2.

    What lies outside the scan becomes `pad_hu`: the window is never shifted, so the centre stays the centre.
    """
    start = np.rint(center_irc).astype(int) - np.asarray(crop.shape) // 2
    stop = start + crop.shape
    low, high = np.maximum(start, 0), np.minimum(stop, ct.hu.shape)
    if np.any(start < 0) or np.any(stop > ct.hu.shape):
        crop.fill(pad_hu)
    if np.all(low < high):
        crop[_window(low - start, high - start)] = ct.hu[_window(low, high)]


def raw_digest(path: Path) -> str:
    """xxh3_128 of the scan at `path`, its grid, then its voxels. It guards against accidents only."""
    header = _header(path)
    layout = [
        header.get(name) for name in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB", "HeaderSize", "CompressedData")
    ]
    digest = xxhash.xxh3_128(repr((read_grid(path), layout)).encode())
    with raw_path(path).open("rb") as raw:
        while block := raw.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def raw_path(path: Path) -> Path:
    """The file that holds the voxels of the .mhd at `path`, named by its ElementDataFile."""
    return path.parent / _header(path).get("ElementDataFile", f"{path.stem}.raw")


def _header(path: Path) -> dict[str, str]:
    try:
        text = os.fsdecode(path.read_bytes()[:65536])
    except OSError as error:
        raise InputError(f"{path}: scan cannot be read: {error.strerror}; fetch it again") from error
    return parse_header(path, text)


def _reader(path: Path) -> sitk.ImageFileReader:
    header = _header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path}: not a readable .mhd header: {_reason(error)}; fetch it again") from error
    raw = raw_path(path)
    if not raw.is_file():
        raise InputError(f"{path}: its voxels {raw} are missing; fetch the scan again")
    check_size(raw, header, raw.stat().st_size)
    return reader


def _reason(error: RuntimeError) -> str:
    return str(error).strip().splitlines()[-1].strip()


def _window(low: NDArray[np.int_], high: NDArray[np.int_]) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
