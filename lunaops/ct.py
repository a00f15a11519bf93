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
    reader = _reader(path)
    if reader.GetDimension() != 3:
        raise InputError(f"{path}: wanted a 3-D scan, got {reader.GetDimension()} dimensions")
    _check_numbers(path)
    columns, rows, slices = reader.GetSize()
    _check_size(path, columns * rows * slices)
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
    pairs = (line.partition("=") for line in text.splitlines())
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def _check_numbers(path: Path) -> None:
    """Raise InputError where the grid is not said or is none: SimpleITK would take 0 or 1 in silence."""
    header = _header(path)
    for names, lowest in ((("Offset", "Position", "Origin"), -np.inf), (("ElementSpacing", "ElementSize"), 0.0)):
        text = next((header[name] for name in names if name in header), None)
        try:
            numbers = [float(word) for word in (text or "").split()]
        except ValueError:
            numbers = []
        if len(numbers) != 3 or not all(np.isfinite(n) and n > lowest for n in numbers):
            wanted = "3 numbers" if lowest < 0 else "3 positive numbers"
            raise InputError(f"{path}: {names[0]} must be {wanted}, got {text!r}; fetch the scan again")


def _check_size(path: Path, num_voxels: int) -> None:
    """Raise InputError where the voxels and the header are not of one scan: SimpleITK would read what is too long."""
    header, raw = _header(path), raw_path(path)
    before, packed = header.get("HeaderSize", "0"), header.get("CompressedDataSize", "")
    if header.get("CompressedData", "False").lower() != "true":
        wanted = 2 * num_voxels + (int(before) if before.isdecimal() else 0)
        may_be_longer = before == "-1"  # the voxels end the file, whatever is before them
    elif packed.isdecimal():
        wanted, may_be_longer = int(packed), False
    else:
        return
    got = raw.stat().st_size
    if got < wanted or (got > wanted and not may_be_longer):
        wrong = "short" if got < wanted else "long"
        raise InputError(f"{raw}: too {wrong}: {got} bytes, its header wants {wanted}; fetch the scan again")


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
    if reader.GetPixelID() != sitk.sitkInt16:
        raise InputError(
            f"{path}: wanted ElementType MET_SHORT (int16 HU, as in LUNA16), got {header.get('ElementType')}"
        )
    return reader


def _reason(error: RuntimeError) -> str:
    return str(error).strip().splitlines()[-1].strip()


def _window(low: NDArray[np.int_], high: NDArray[np.int_]) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
