"""One scan: Hounsfield units and the grid that they lie on; crops are cut out of it."""

import math
import os
import sys
import zlib
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

_CHUNK_BYTES = 1 << 20  # read and digested in turn: it is still in the processor's cache
_PLAIN = {  # headers of these fields and values alone leave the voxels as they lie in the .raw; None: any value
    **dict.fromkeys(["ObjectType", "NDims", "ElementType", "ElementDataFile", "AnatomicalOrientation"]),
    **dict.fromkeys(["DimSize", "ElementSpacing", "ElementSize", "TransformMatrix", "Rotation", "Orientation"]),
    **dict.fromkeys(["Offset", "Position", "Origin", "CenterOfRotation"]),
    "BinaryData": "true",
    "BinaryDataByteOrderMSB": "false",
    "ElementByteOrderMSB": "false",
    "CompressedData": "false",
    "HeaderSize": "0",
}


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
    ct, _ = ScanReader().read(path)
    np.clip(ct.hu, *hu_range, out=ct.hu)
    return ct


class ScanReader:
    """Reads one scan after another into the same memory, and each file once, its digest included.

    LUNA16's files are plain: their voxels are what lies in the .raw, and reading them so takes half the time of
    SimpleITK's reader, which copies. Big-endian or otherwise uncommon files are left to SimpleITK.
    """

    def __init__(self) -> None:
        self._memory: HuArray = np.empty(0, np.int16)

    def read(self, path: Path) -> tuple[Ct, str]:
        """The scan at `path`, its HU as they are stored, and `raw_digest`; valid until the next scan is read.

        Raises InputError as `read_grid` does, and where the voxels cannot be read.
        """
        grid = read_grid(path)
        if not _is_plain(path, grid):
            is_packed = _header(path).get("CompressedData", "False").lower() == "true"
            read = _inflate if is_packed else _read_by_itk
            return Ct(path.stem, read(path).reshape(grid.shape_irc), grid), raw_digest(path)
        count = math.prod(grid.shape_irc)
        if len(self._memory) < count:
            self._memory = np.empty(count, np.int16)
        hu = self._memory[:count]
        return Ct(path.stem, hu.reshape(grid.shape_irc), grid), _read_digested(raw_path(path), hu)


def raw_digest(path: Path) -> str:
    """xxh3_128 of the file that holds the voxels of the .mhd at `path`. It guards against accidents only."""
    digest, voxels = xxhash.xxh3_128(), raw_path(path)
    try:
        with voxels.open("rb") as raw:
            while chunk := raw.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"{voxels}: voxels cannot be read: {error.strerror}; fetch the scan again") from error
    return digest.hexdigest()


def scan_digest(path: Path, voxels: str) -> str:
    """xxh3_128 of all that a crop of the scan at `path` depends on: its grid, the file's layout, `raw_digest`."""
    header = _header(path)
    layout = [
        header.get(name) for name in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB", "HeaderSize", "CompressedData")
    ]
    return xxhash.xxh3_128_hexdigest(repr((read_grid(path), layout, voxels)).encode())


def cut_crop(ct: Ct, center_irc: NDArray[np.float64], crop: HuArray, pad_hu: int) -> None:
    """Fill `crop` (slices, rows, columns) from the scan, the voxel nearest to `center_irc` at its shape // 2.

    What lies outside the scan becomes `pad_hu`: the window is never shifted, so the centre stays the centre.
    """
    start = [round(c) - size // 2 for c, size in zip(center_irc.tolist(), crop.shape, strict=True)]
    stop = [low + size for low, size in zip(start, crop.shape, strict=True)]
    inner = [slice(max(low, 0), min(high, size)) for low, high, size in zip(start, stop, ct.hu.shape, strict=True)]
    if any(window.start >= window.stop for window in inner):
        crop.fill(pad_hu)
        return
    place = tuple(slice(part.start - low, part.stop - low) for part, low in zip(inner, start, strict=True))
    filled = crop[place]
    if filled.size < crop.size:
        crop.fill(pad_hu)
    filled[...] = ct.hu[tuple(inner)]


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


def _is_plain(path: Path, grid: Grid) -> bool:
    """Whether the .raw is exactly the voxels as this machine holds them; unknown fields count as a no."""
    header = _header(path)
    known = all(name in _PLAIN and _PLAIN[name] in (None, value.lower()) for name, value in header.items())
    exact = raw_path(path).stat().st_size == 2 * math.prod(grid.shape_irc)
    return known and exact and "BinaryData" in header and sys.byteorder == "little"


def _read_digested(raw: Path, hu: HuArray) -> str:
    """Fill `hu` from the file and digest it on the way."""
    digest = xxhash.xxh3_128()
    rest = hu.data.cast("B")
    try:
        with raw.open("rb", buffering=0) as file:
            while rest and (got := file.readinto(rest[:_CHUNK_BYTES])):
                digest.update(rest[:got])
                rest = rest[got:]
    except OSError as error:
        raise InputError(f"{raw}: voxels cannot be read: {error.strerror}; fetch the scan again") from error
    if rest:
        raise InputError(f"{raw}: became {len(rest)} bytes shorter while it was read; fetch the scan again")
    return digest.hexdigest()


def _inflate(path: Path) -> HuArray:
    """The voxels of a compressed scan; where they are damaged SimpleITK gives what was in memory, and no error."""
    header, raw = _header(path), raw_path(path)
    wanted = 2 * math.prod(read_grid(path).shape_irc)
    unpacking = zlib.decompressobj(zlib.MAX_WBITS | 32)  # zlib or gzip, as its header says
    try:
        voxels = unpacking.decompress(raw.read_bytes()[max(int(header.get("HeaderSize", "0")), 0) :], wanted + 1)
    except (OSError, zlib.error) as error:
        raise InputError(f"{raw}: voxels cannot be read: {error}; fetch the scan again") from error
    if len(voxels) != wanted:
        got = f"{len(voxels)} bytes" if len(voxels) < wanted else "more"
        raise InputError(f"{raw}: unpacks to {got}, its header wants {wanted}; fetch the scan again")
    is_big = any(header.get(f"{key}ByteOrderMSB", "").lower() == "true" for key in ("BinaryData", "Element"))
    return np.frombuffer(voxels, ">i2" if is_big else "<i2").astype(np.int16)


def _read_by_itk(path: Path) -> HuArray:
    try:
        hu: HuArray = sitk.GetArrayFromImage(_reader(path).Execute())
    except RuntimeError as error:
        raise InputError(f"{path}: voxels cannot be read: {_reason(error)}; fetch the scan again") from error
    return hu


def _reason(error: RuntimeError) -> str:
    return str(error).strip().splitlines()[-1].strip()
