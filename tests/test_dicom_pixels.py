import struct
import zlib
from pathlib import Path

import pytest

from lunaops.errors import InputError
from lunaops.sources.dicom_pixels import check_pixels

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
JPEG, UNDEFINED = "1.2.840.10008.1.2.4.70", 0xFFFFFFFF
ORDER = {IMPLICIT: "<", EXPLICIT: "<", BIG: ">"}


def element(syntax: str, tag: int, kind: str, value: bytes, length: int | None = None) -> bytes:
    order, length = ORDER[syntax], len(value) if length is None else length
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT or tag >> 16 == 0xFFFE:
        return head + struct.pack(f"{order}I", length) + value
    if kind in ("OW", "SQ", "UN"):
        return head + kind.encode() + struct.pack(f"{order}HI", 0, length) + value
    return head + kind.encode() + struct.pack(f"{order}H", length) + value


def sequence(syntax: str, tag: int, value: bytes, kind: str = "SQ") -> bytes:
    """A sequence of one item, both without a length."""
    within = IMPLICIT if kind == "UN" else syntax
    item = element(within, 0xFFFEE000, "", value + element(within, 0xFFFEE00D, "", b""), UNDEFINED)
    return element(syntax, tag, kind, item + element(within, 0xFFFEE0DD, "", b""), UNDEFINED)


def file(path: Path, syntax: str, content: bytes, *, said: str | None = None) -> Path:
    meta = element(EXPLICIT, 0x00020010, "UI", (said or syntax).encode().ljust(24, b"\0"))
    path.write_bytes(bytes(128) + b"DICM" + meta + content)
    return path


@pytest.mark.parametrize("syntax", ORDER)
@pytest.mark.parametrize("num_bytes", [22, 24, 26])
def test_the_pixels_are_those_of_the_image_and_not_of_an_icon_in_a_sequence(tmp_path, syntax, num_bytes):
    icon = element(syntax, 0x7FE00010, "OW", bytes(8))
    content = (
        element(syntax, 0x00080060, "CS", b"CT")
        + sequence(syntax, 0x00081140, element(syntax, 0x00081150, "UI", b"1.2\0"))
        + sequence(syntax, 0x00091010, element(syntax, 0x00091011, "UN", b"abcd"))
        + element(syntax, 0x00880200, "SQ", element(syntax, 0xFFFEE000, "", icon))
        + sequence(syntax, 0x00880202, icon)
        + element(syntax, 0x7FE00010, "OW", bytes(num_bytes))
        + element(syntax, 0xFFFCFFFC, "OW", bytes(6))
    )
    path = file(tmp_path / "a.dcm", syntax, content)
    if num_bytes == 24:
        check_pixels(path, (3, 4), 16)
        return
    with pytest.raises(InputError, match=rf"a\.dcm: its PixelData has {num_bytes} bytes, wanted 24 for 3 x 4 of 16"):
        check_pixels(path, (3, 4), 16)


def test_a_sequence_of_unknown_kind_does_not_say_the_kind_of_its_values(tmp_path):
    unknown = sequence(EXPLICIT, 0x00091010, element(IMPLICIT, 0x00091011, "", b"abcd"), "UN")
    path = file(tmp_path / "a.dcm", EXPLICIT, unknown + element(EXPLICIT, 0x7FE00010, "OW", bytes(24)))
    check_pixels(path, (3, 4), 16)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_without_a_meta_group_the_first_element_tells(tmp_path, syntax):
    content = element(syntax, 0x00080060, "CS", b"CT") + element(syntax, 0x7FE00010, "OW", bytes(24))
    (tmp_path / "a.dcm").write_bytes(content)
    check_pixels(tmp_path / "a.dcm", (3, 4), 16)
    with pytest.raises(InputError, match="has 24 bytes, wanted 40"):
        check_pixels(tmp_path / "a.dcm", (4, 5), 16)


@pytest.mark.parametrize(("kept", "got"), [(-4, 20), (-24, 0), (-26, 0)])
def test_what_is_not_in_the_file_does_not_count(tmp_path, kept, got):
    path = file(tmp_path / "a.dcm", EXPLICIT, element(EXPLICIT, 0x7FE00010, "OW", bytes(24)))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=rf"has {got} bytes, wanted 24"):
        check_pixels(path, (3, 4), 16)


def test_the_length_of_what_is_compressed_tells_nothing(tmp_path):
    path = file(tmp_path / "a.dcm", EXPLICIT, element(EXPLICIT, 0x7FE00010, "OW", bytes(6)), said=JPEG)
    check_pixels(path, (3, 4), 16)
    with pytest.raises(InputError, match="has 3 x 8193 voxels, 8192 a side at most"):
        check_pixels(path, (3, 8193), 16)


def test_what_is_deflated_is_inflated_and_counted(tmp_path):
    """GDCM fills up the missing ones of these as well."""
    for num_bytes in (24, 20):
        packing = zlib.compressobj(wbits=-15)
        packed = packing.compress(element(EXPLICIT, 0x7FE00010, "OW", bytes(num_bytes))) + packing.flush()
        file(tmp_path / f"{num_bytes}.dcm", EXPLICIT, packed, said="1.2.840.10008.1.2.1.99")
    file(tmp_path / "0.dcm", EXPLICIT, b"\xff" * 9, said="1.2.840.10008.1.2.1.99")
    check_pixels(tmp_path / "24.dcm", (3, 4), 16)
    for num_bytes in (20, 0):
        with pytest.raises(InputError, match=rf"has {num_bytes} bytes, wanted 24"):
            check_pixels(tmp_path / f"{num_bytes}.dcm", (3, 4), 16)
