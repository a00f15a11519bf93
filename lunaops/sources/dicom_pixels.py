"""A DICOM file is held to the bytes of its voxels. GDCM does not look: what is missing it reads as any memory.

Rules from DICOM PS3.5, 7.1 (elements), 7.5 (sequences), and PS3.10, 7 (the meta group).
"""

import io
import math
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

from lunaops.errors import InputError

_MAX_SIDE = 8192  # voxels; four times what scanners reconstruct: a file of a few bytes can claim more than memory holds
_UNCOMPRESSED = {  # transfer syntaxes: byte order, whether each element says the kind of its value
    "1.2.840.10008.1.2": ("<", False),
    "1.2.840.10008.1.2.1": ("<", True),
    "1.2.840.10008.1.2.2": (">", True),
}
_DEFLATED = "1.2.840.10008.1.2.1.99"  # explicit, little-endian after the meta group
_TRANSFER_SYNTAX, _PIXEL_DATA = 0x0002_0010, 0x7FE0_0010
_META = 0x0002  # a group that is always explicit, little-endian
_ITEMS = 0xFFFE  # the group of what parts a sequence, which never says the kind of its value
_ENDS = (0xFFFE_E00D, 0xFFFE_E0DD)  # of an item, of a sequence
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_UNDEFINED = 0xFFFF_FFFF


class _Element(NamedTuple):
    tag: int
    kind: bytes
    length: int


def check_pixels(path: Path, shape_rc: tuple[int, int], bits: float) -> None:
    """See that the file holds the bytes of `shape_rc` voxels of so many bits, and no side is beyond all CT.

    One byte of padding may follow. What is compressed does not tell by its length, and its decoder sees to it.
    Raises InputError with the bytes that are there and those that are wanted.
    """
    rows, columns = shape_rc
    if max(shape_rc) > _MAX_SIDE:
        raise InputError(f"{path}: has {rows} x {columns} voxels, {_MAX_SIDE} a side at most; bring it back")
    wanted = math.ceil(rows * columns * bits / 8)
    try:
        got = _pixel_bytes(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; make it readable") from error
    if got not in (None, wanted, wanted + wanted % 2):
        raise InputError(
            f"{path}: its PixelData has {got} bytes, wanted {wanted} for {rows} x {columns} of {bits:g} bits; "
            "bring it back or move it out of the folder"
        )


def _pixel_bytes(path: Path) -> int | None:
    """The bytes of PixelData that are in the file, 0 without any; None: compressed, so that they do not tell."""
    with path.open("rb") as opened:
        file: BinaryIO = opened
        file.seek(132 if file.read(132)[128:] == b"DICM" else 0)
        syntax = _transfer_syntax(file)
        if syntax == _DEFLATED:
            file, syntax = _inflated(file), "1.2.840.10008.1.2.1"
        if syntax not in _UNCOMPRESSED:
            return None
        length = _length_of_pixels(file, *_UNCOMPRESSED[syntax])
        at = file.tell()
        return min(length, file.seek(0, os.SEEK_END) - at)


def _transfer_syntax(file: BinaryIO) -> str:
    """What the meta group says, which is passed over; without one, what the first element looks like."""
    syntax, at = "", file.tell()
    while (element := _element(file, "<", True)) and element.tag >> 16 == _META:
        value = file.read(element.length)
        if element.tag == _TRANSFER_SYNTAX:
            syntax = value.rstrip(b"\0 ").decode("ascii", "replace")
        at = file.tell()
    file.seek(at)
    if syntax:
        return syntax
    says_kind = element is not None and element.kind.isalpha() and element.kind.isupper()
    return "1.2.840.10008.1.2.1" if says_kind else "1.2.840.10008.1.2"


def _inflated(file: BinaryIO) -> BinaryIO:
    """The rest of the file inflated, as much of it as a slice can be; of damaged ones none."""
    try:
        return io.BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), 4 * _MAX_SIDE**2))
    except zlib.error:
        return io.BytesIO()


def _length_of_pixels(file: BinaryIO, order: str, explicit: bool) -> int:
    """The length that PixelData says, with the file at its value; 0 where there is none. An icon's is not the image's.

    What has no length, being a sequence, is walked through; of unknown kind, it does not say the kind of its values.
    """
    outer: list[bool] = []
    while element := _element(file, order, explicit):
        if element.tag == _PIXEL_DATA and not outer:
            return element.length
        if element.tag in _ENDS and outer:
            explicit = outer.pop()
        elif element.length == _UNDEFINED:
            outer.append(explicit)
            explicit = explicit and element.kind != b"UN"
        else:
            file.seek(element.length, os.SEEK_CUR)
    return 0


def _element(file: BinaryIO, order: str, explicit: bool) -> _Element | None:
    """The next element, with the file at its value; None at the end."""
    head = file.read(8)
    if len(head) < 8:
        return None
    group, number = struct.unpack(f"{order}HH", head[:4])
    tag, kind = group << 16 | number, head[4:6]
    if group == _ITEMS or not explicit:
        return _Element(tag, b"", *struct.unpack(f"{order}I", head[4:]))
    if kind in _LONG:
        head = file.read(4)
        return _Element(tag, kind, *struct.unpack(f"{order}I", head)) if len(head) == 4 else None
    return _Element(tag, kind, *struct.unpack(f"{order}H", head[6:]))
