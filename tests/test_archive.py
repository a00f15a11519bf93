import io
import random
import re
import resource
import stat
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lunaops import disk
from lunaops.errors import InputError
from lunaops.sources.archive import unpack

VOXELS = random.Random(16).randbytes(200_000)
MEMBERS = {"subset0/a.mhd": b"header", "subset0/a.raw": VOXELS, "subset0/b.raw": bytes(300_000)}
FILES = {"a.mhd": b"header", "a.raw": VOXELS, "b.raw": bytes(300_000)}
METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


def zipped(members: dict[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, content in members.items():
            archive.writestr(name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name), content, method)
    return sink.getvalue()


@pytest.fixture
def unpacked(tmp_path):
    """Unpack an archive of these bytes; gives the files by their names."""
    (tmp_path / "folder").mkdir()
    return lambda content: unpacked_in(tmp_path, content)


def unpacked_in(place: Path, content: bytes) -> dict[str, bytes]:
    (place / "a.zip").write_bytes(content)
    stamps = unpack(place / "a.zip", place / "folder", lambda members: members)
    files = {path.name: path.read_bytes() for path in (place / "folder").iterdir()}
    assert {name: stamp.size for name, stamp in stamps.items()} == {name: len(file) for name, file in files.items()}
    assert sorted(path.name for path in place.iterdir()) == ["a.zip", "folder"]
    return files


@pytest.mark.parametrize("method", METHODS)
def test_members_are_written_without_the_folders_around_them(unpacked, method):
    assert unpacked(zipped({"subset0/": b""} | MEMBERS, method)) == FILES


def test_a_zip64_archive_is_read(unpacked):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive, archive.open("subset0/a.raw", "w", force_zip64=True) as member:
        member.write(VOXELS)
    assert unpacked(sink.getvalue()) == {"a.raw": VOXELS}


def test_only_what_is_chosen_is_written(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped(MEMBERS))
    unpack(tmp_path / "a.zip", tmp_path, lambda members: [inside for inside in members if inside.suffix == ".mhd"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mhd", "a.zip"]


def test_what_macos_adds_is_passed_over(unpacked):
    more = {"__MACOSX/subset0/._a.mhd": b"", "subset0/.DS_Store": b"", "subset0/._a.raw": b""}
    assert unpacked(zipped(MEMBERS | more)) == FILES


def refused(unpacked, tmp_path, content: bytes, said: str, *, kept: bool = True) -> None:
    """One line says why, nothing is outside of the folder, and a damaged archive is gone."""
    with pytest.raises(InputError, match=said) as error:
        unpacked(content)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == (["a.zip", "folder"] if kept else ["folder"])


@pytest.mark.parametrize(
    "name",
    ["../a.mhd", "/a.mhd", "subset0/../../a.mhd", "..\\a.mhd", "C:a.mhd", "C:/a.mhd", "subset0\\a.mhd", "../", "/x/"],
)
def test_a_member_that_would_leave_the_folder_is_refused_before_anything_is_written(unpacked, tmp_path, name):
    refused(unpacked, tmp_path, zipped(MEMBERS | {name: b""}), "leads out of the folder")
    assert not list((tmp_path / "folder").iterdir())


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_a_link_or_a_device_is_refused(unpacked, tmp_path, kind):
    link = zipfile.ZipInfo("subset0/c.raw")
    link.external_attr = (kind | 0o777) << 16
    refused(unpacked, tmp_path, zipped(MEMBERS | {link: b"/etc/hostname"}), "is a link or a device")


@pytest.mark.parametrize("name", ["subset0/a.raw", "a.raw", "subset0/A.RAW", "./subset0/a.raw"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_one_name_twice_is_refused_also_where_case_does_not_count(unpacked, tmp_path, name):
    sink = io.BytesIO(zipped(MEMBERS))
    with zipfile.ZipFile(sink, "a") as archive:
        archive.writestr(name, b"")
    refused(unpacked, tmp_path, sink.getvalue(), f"holds {Path(name)} twice")


@pytest.mark.parametrize("name", ["a\nb.mhd", "a\x1b[2Jb.mhd", "a\u202eb.mhd", "a" * 300])
def test_a_name_that_a_file_or_a_terminal_cannot_bear_is_refused(unpacked, tmp_path, name):
    refused(unpacked, tmp_path, zipped({name: b""}), "cannot name a file")


def test_an_encrypted_member_is_refused(unpacked, tmp_path):
    content = bytearray(zipped(MEMBERS))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1
    refused(unpacked, tmp_path, bytes(content), "is encrypted")


@pytest.mark.parametrize("method", [9, 97, 99])
def test_a_compression_that_python_lacks_names_the_tool_that_knows_it(unpacked, tmp_path, method):
    content = bytearray(zipped(MEMBERS))
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):  # Deflate64 is method 9
        at = content.index(mark) + offset
        content[at : at + 2] = method.to_bytes(2, "little")
    refused(unpacked, tmp_path, bytes(content), r"7-Zip \(7z x .*a\.zip\) and use fetch\.source: directory")


def test_bytes_that_do_not_fit_their_checksum_are_refused(unpacked, tmp_path):
    content = zipped(MEMBERS)
    at = content.index(VOXELS[:100])
    refused(unpacked, tmp_path, content[:at] + b"#" + content[at + 1 :], "damaged: Bad CRC-32", kept=False)


@pytest.mark.parametrize("content", [b"", b"<html>", zipped(MEMBERS)[:-1], zipped(MEMBERS)[1000:]])
def test_what_is_no_whole_zip_is_refused(unpacked, tmp_path, content):
    refused(unpacked, tmp_path, content, "damaged: ", kept=False)


def with_size(content: bytes, size: int) -> bytes:
    """The archive, its last member said to be `size` bytes unpacked, in both of its headers."""
    at = content.rindex(b"PK\x01\x02")
    local = struct.unpack_from("<I", content, at + 42)[0]
    changed = bytearray(content)
    struct.pack_into("<I", changed, at + 24, size)
    struct.pack_into("<I", changed, local + 22, size)
    return bytes(changed)


def test_a_member_is_never_written_beyond_the_size_that_its_header_says(unpacked, tmp_path):
    bomb = with_size(zipped({"a.raw": bytes(1 << 25)}, zipfile.ZIP_DEFLATED), 1000)
    refused(unpacked, tmp_path, bomb, "damaged: Bad CRC-32", kept=False)
    assert (tmp_path / "folder" / "a.raw").stat().st_size <= 1000


def test_a_member_shorter_than_its_header_says_is_refused(unpacked, tmp_path):
    refused(unpacked, tmp_path, with_size(zipped(MEMBERS, zipfile.ZIP_DEFLATED), 300_001), "damaged", kept=False)


def test_what_it_unpacks_to_must_fit_the_disk(unpacked, tmp_path, monkeypatch):
    usage = disk.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage._replace(free=499_999))
    refused(unpacked, tmp_path, zipped(MEMBERS, zipfile.ZIP_DEFLATED), "folder: needs .* are free; make room there")
    assert not list((tmp_path / "folder").iterdir())


def test_an_offset_that_no_file_has_is_damage(unpacked, tmp_path):
    """zipfile lets an OverflowError and an OSError through."""
    for offset in (1 << 63, (1 << 64) - 1):
        extra = struct.pack("<HHQ", 1, 8, offset)
        name, local = b"a.mhd", zipped({"a.mhd": b""})
        at = local.index(b"PK\x01\x02")
        central = bytearray(local[at : at + 46] + name + extra)
        struct.pack_into("<H", central, 30, len(extra))
        struct.pack_into("<I", central, 42, 0xFFFFFFFF)
        end = bytearray(local[-22:])
        struct.pack_into("<I", end, 12, len(central))
        refused(unpacked, tmp_path, local[:at] + bytes(central) + bytes(end), "damaged: ", kept=False)


def test_a_disk_that_fills_up_is_one_line_and_the_archive_stays_for_the_next_run(unpacked, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    content = zipped({"a.raw": bytes(3_000_000)}, zipfile.ZIP_DEFLATED)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, hard))
    try:
        refused(unpacked, tmp_path, content, r"a\.raw: cannot be written: File too large; mend that and run again")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (tmp_path / "folder" / "a.raw").unlink()
    assert unpacked(content) == {"a.raw": bytes(3_000_000)}


def test_a_file_system_that_is_full_is_one_line(tmp_path):
    """It has room for the bytes and none for a second file: that is told as the disk being full is."""
    (tmp_path / "small").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,nr_inodes=2", "tmpfs", str(tmp_path / "small")]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        for sizes, said in (
            ((1_000_000, 900_000), r"b\.raw: cannot be written: No space left on device; mend that and run again"),
            ((2_000_000, 900_000), r"small: needs 2\.9 MB, but [\d.]+ .B are free; make room there"),
        ):
            (tmp_path / "a.zip").write_bytes(zipped(dict(zip(("a.raw", "b.raw"), map(bytes, sizes), strict=True))))
            with pytest.raises(InputError, match=said):
                unpack(tmp_path / "a.zip", tmp_path / "small", lambda members: members)
    finally:
        subprocess.run(["umount", str(tmp_path / "small")], check=True)


NAMES = st.text(st.sampled_from("ab./\\:é\n\x00~"), max_size=12) | st.text(max_size=6)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@given(members=st.dictionaries(NAMES, st.binary(max_size=50), max_size=4), method=st.sampled_from(METHODS))
def test_members_of_any_names_become_files_in_the_folder_or_one_line(tmp_path_factory, members, method):
    place = tmp_path_factory.mktemp("place")
    (place / "folder").mkdir()
    try:
        content = zipped(members, method)  # type: ignore[arg-type]
    except (ValueError, UnicodeError):
        return  # no archive can hold such a name
    try:
        files = unpacked_in(place, content)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert all(file in members.values() for file in files.values())
    assert {path.name for path in place.iterdir()} <= {"a.zip", "folder"}
    assert all(path.is_file() and not path.is_symlink() for path in (place / "folder").iterdir())


SMALL = {"a.mhd": b"header", "a.raw": VOXELS[:2000], "b.raw": bytes(500)}
VALID = {method: zipped({f"subset0/{name}": content for name, content in SMALL.items()}, method) for method in METHODS}
CHANGES = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(["flip", "cut", "double", "zero", "ones"]), st.integers(1, 255)),
    min_size=1,
    max_size=3,
)


def damaged(content: bytes, changes: list[tuple[float, str, int]]) -> bytes:
    """Flip bits, cut bytes out, repeat them or overwrite them; mostly in the headers, where it hurts."""
    for where, how, number in changes:
        headers = [match.start() for match in re.finditer(b"PK[\x01-\x06]", content)]
        at = int(where * len(content))
        if number % 3 and headers:
            at = headers[int(where * (len(headers) - 1))] + number % 50
        at = min(at, len(content) - 1)
        length = min(number % 8 + 1, len(content) - at)
        piece = {
            "flip": bytes([content[at] ^ number]) + content[at + 1 : at + length],
            "cut": b"",
            "double": content[at : at + length] * 2,
            "zero": bytes(length),
            "ones": b"\xff" * length,
        }[how]
        content = content[:at] + piece + content[at + length :]
    return content


@given(method=st.sampled_from(METHODS), changes=CHANGES)
def test_damage_anywhere_gives_the_right_files_or_one_line(tmp_path_factory, method, changes):
    place = tmp_path_factory.mktemp("place")
    (place / "folder").mkdir()
    try:
        files = unpacked_in(place, damaged(VALID[method], changes))
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert all(content in (*SMALL.values(), b"") for content in files.values())
    assert {path.name for path in place.iterdir()} <= {"a.zip", "folder"}
