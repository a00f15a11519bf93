"""What a scan's .mhd header must say, checked before SimpleITK reads it: that takes 0 or 1 for what it cannot read."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from lunaops.errors import InputError
from lunaops.numerals import number_of

MAX_SIDE = 65536  # voxels
MAX_NAME = 255  # bytes of a file's name
MAX_LINE = 4096  # characters, a path's length; SimpleITK's reader has buffers of a fixed size
SPACING_MM = (1e-3, 1e3)
REACH_MM = 1e6  # a scan lies within a kilometre of its origin
DEFLATE_RATIO = 1032  # the most that zlib can unpack a byte to
_OFFSETS = ("Offset", "Position", "Origin")
_SPACINGS = ("ElementSpacing", "ElementSize")
_MATRICES = ("TransformMatrix", "Rotation", "Orientation")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def parse_header(path: Path, text: str) -> dict[str, str]:
    """The keys and values of a header's text up to ElementDataFile, its last key.

    Raises InputError where it is binary or says a key twice.
    """
    if _CONTROL.search(text.partition("ElementDataFile")[0]):
        raise InputError(f"{path}: not a readable .mhd header: it is binary; fetch it again")
    header: dict[str, str] = {}
    for line in text.split("\n"):
        key, equals, value = (part.strip() for part in line.partition("="))
        if equals and key in header:
            raise InputError(f"{path}: not a readable .mhd header: it says {_shown(key)} twice; fetch it again")
        if equals:
            header[key] = value
        if len(line) > MAX_LINE:
            raise InputError(f"{path}: not a readable .mhd header: a line of {len(line)} characters; fetch it again")
        if key == "ElementDataFile":
            if _CONTROL.search(value) or max(map(len, os.fsencode(value).split(b"/"))) > MAX_NAME:
                raise InputError(f"{path}: ElementDataFile is no file name: {_shown(value)}; fetch the scan again")
            break
    return header


def check_header(path: Path, header: Mapping[str, str]) -> None:
    """Raise InputError unless `header` describes one 3-D volume of int16 in a file of its own, on a sane grid."""

    def want(key: str, wanted: str, *, ok: bool) -> None:
        if not ok:
            raise InputError(f"{path}: {key} must be {wanted}, got {_shown(header.get(key))}; fetch the scan again")

    if "NDims" not in header or "ElementDataFile" not in header:
        missing = "NDims" if "NDims" not in header else "ElementDataFile"
        raise InputError(f"{path}: not a readable .mhd header: it lacks {missing}; fetch it again")
    want("NDims", "3", ok=header["NDims"] == "3")
    want("DimSize", f"3 whole numbers from 1 to {MAX_SIDE}", ok=_is_shape(header.get("DimSize", "")))
    want("ElementNumberOfChannels", "1", ok=header.get("ElementNumberOfChannels", "1") == "1")
    want("BinaryData", "True", ok=header.get("BinaryData", "True").lower() in ("true", "1"))
    for flag in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB", "CompressedData"):
        want(flag, "True or False", ok=header.get(flag, "False").lower() in ("true", "false"))
    want("HeaderSize", "a whole number", ok=bool(re.fullmatch(r"-1|[0-9]{1,15}", header.get("HeaderSize", "0"))))
    name = header["ElementDataFile"]
    want("ElementDataFile", "the name of one file", ok=name.split(" ")[0] not in ("LOCAL", "LIST") and "%" not in name)
    if header.get("ElementType") != "MET_SHORT":
        got = _shown(header.get("ElementType"))
        raise InputError(f"{path}: wanted ElementType MET_SHORT (int16 HU, as in LUNA16), got {got}")
    low, high = SPACING_MM
    _check_numbers(path, header, _SPACINGS, f"3 positive numbers from {low:g} to {high:g} mm", low, high)
    _check_numbers(path, header, _OFFSETS, f"3 numbers within {REACH_MM:g} mm", -REACH_MM, REACH_MM)
    if any(name in header for name in _MATRICES):
        _check_numbers(path, header, _MATRICES, "9 numbers from -1 to 1", -1.001, 1.001, count=9)


def check_size(raw: Path, header: Mapping[str, str], got: int) -> None:
    """Raise InputError unless `got`, the bytes of `raw`, can be the voxels of a header that `check_header` passed.

    SimpleITK would read the beginning of what is too long, and anything for what is compressed and too short.
    """
    least = most = 2 * math.prod(int(side) for side in header["DimSize"].split())
    packed, before = header.get("CompressedDataSize", ""), int(header.get("HeaderSize", "0"))
    if header.get("CompressedData", "False").lower() == "true":
        least, most = (int(packed), int(packed)) if packed.isdecimal() else (least // DEFLATE_RATIO, got)
    elif before < 0:
        most = max(got, most)  # the voxels end the file, whatever is before them
    else:
        least = most = most + before
    if not least <= got <= most:
        wrong, wanted = ("short", least) if got < least else ("long", most)
        raise InputError(f"{raw}: too {wrong}: {got} bytes, its header wants {wanted}; fetch the scan again")


def _check_numbers(
    path: Path, header: Mapping[str, str], names: Sequence[str], wanted: str, low: float, high: float, count: int = 3
) -> None:
    said = [name for name in names if name in header]
    if names is not _SPACINGS and len({header[name] for name in said}) > 1:  # a spacing goes before a size
        raise InputError(f"{path}: {' and '.join(said)} differ; fetch the scan again")
    text = header[said[0]] if said else None
    numbers = [number_of(word) for word in (text or "").split()]
    if len(numbers) != count or not all(low <= number <= high for number in numbers):
        raise InputError(f"{path}: {(said or names)[0]} must be {wanted}, got {_shown(text)}; fetch the scan again")


def _is_shape(text: str) -> bool:
    words = text.split()
    return len(words) == 3 and all(re.fullmatch(r"[0-9]{1,5}", word) and 0 < int(word) <= MAX_SIDE for word in words)


def _shown(text: str | None) -> str:
    return repr(text if text is None or len(text) <= 80 else f"{text[:80]}...")
