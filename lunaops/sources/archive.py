"""A zip unpacked safely: every member checked before one is written."""

import errno
import io
import logging
import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from lunaops.disk import check_space, write_block, writing
from lunaops.errors import InputError
from lunaops.progress import BYTES, progress
from lunaops.sources.receipts import Stamp

_BLOCK = 1 << 20

logger = logging.getLogger(__name__)


def unpack(
    path: Path, folder: Path, choose: Callable[[Sequence[PurePosixPath]], Collection[PurePosixPath]]
) -> dict[str, Stamp]:
    """Write the members of the zip at `path` that `choose` picks into `folder`, without the folders around them.

    Streams, and verifies each member's size and CRC. `choose` is given all members but folders and what macOS adds.
    Raises InputError where a member would leave the folder or is no plain file, two would have one name (also where
    case does not count), the disk is too small, the archive is compressed in a way that zipfile lacks, or it is
    damaged: then it is removed, so that a later run brings it afresh.
    """
    with _reading(path), zipfile.ZipFile(path) as archive:
        members = _members(archive, path)
        chosen = set(choose([inside for inside, _ in members]))
        members = [(inside, info) for inside, info in members if inside in chosen]
        _check_names([inside for inside, _ in members], path)
        num_bytes = sum(info.file_size for _, info in members)
        check_space({folder: num_bytes})
        blocks = (size for inside, info in members for size in _write(archive, info, folder / inside.name))
        for _ in progress(blocks, total=num_bytes, size_of=int, label=f"unpack {path.name}", unit=BYTES):
            pass
        return {inside.name: Stamp(info.file_size, info.CRC) for inside, info in members}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what zipfile and its decompressors raise on damage and on what they cannot read into an InputError."""
    try:
        yield
    except InputError:
        raise
    except NotImplementedError as error:
        raise InputError(
            f"{path}: compressed in a way that Python cannot read ({error}); unpack it with 7-Zip "
            f"(7z x {path}) and use fetch.source: directory"
        ) from error
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, OverflowError) as error:
        raise _damaged(path, str(error)) from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # these come from bzip2, and from an offset that is none
            raise InputError(f"{path}: cannot be read: {error.strerror}; run again") from error
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, reason: str) -> InputError:
    path.unlink()
    return InputError(f"{path}: damaged: {reason}; removed it; run again to download it afresh")


def _members(archive: zipfile.ZipFile, path: Path) -> list[tuple[PurePosixPath, zipfile.ZipInfo]]:
    """The members and their paths, without folders and what macOS adds."""
    for info in archive.infolist():
        _check_member(info, path)
    members = [(PurePosixPath(info.filename), info) for info in archive.infolist() if not info.is_dir()]
    kept = [(inside, info) for inside, info in members if not _is_of_macos(inside)]
    if len(kept) < len(members):
        logger.info("%s: passed over %d files that macOS added", path, len(members) - len(kept))
    return kept


def _is_of_macos(inside: PurePosixPath) -> bool:
    return inside.parts[:1] == ("__MACOSX",) or inside.name == ".DS_Store" or inside.name.startswith("._")


def _check_member(info: zipfile.ZipInfo, path: Path) -> None:
    """Refuse a name that leads out of the folder, on any system, and what is no plain file."""
    inside = PurePosixPath(info.filename)
    if not inside.name and not info.filename.endswith("/"):
        raise InputError(f"{path}: refused, for its member {info.filename!r} cannot name a file")
    if inside.is_absolute() or ".." in inside.parts or "\\" in info.filename or ":" in info.filename:
        raise InputError(f"{path}: refused, for its member {info.filename!r} leads out of the folder")
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise InputError(f"{path}: refused, for its member {info.filename!r} is a link or a device")
    if info.flag_bits & 1:
        raise InputError(f"{path}: refused, for its member {info.filename!r} is encrypted; it is not LUNA16's archive")


def _check_names(members: Sequence[PurePosixPath], path: Path) -> None:
    seen: dict[str, PurePosixPath] = {}
    for inside in members:
        if not inside.name.isprintable() or len(inside.name.encode()) > 255:
            raise InputError(f"{path}: refused, for its member {str(inside)!r} cannot name a file")
        other = seen.setdefault(inside.name.casefold(), inside)
        if other is not inside:
            raise InputError(f"{path}: holds {inside} twice (and {other}); it is not LUNA16's archive")


def _write(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> Iterator[int]:
    """Write one member and give the size of each of its blocks."""
    with archive.open(info) as source:
        with writing(target):
            sink = io.FileIO(target, "x")
        with sink:
            while block := source.read(_BLOCK):
                write_block(sink, block)
                yield len(block)
            if sink.tell() < info.file_size:  # zipfile does not mind
                raise zipfile.BadZipFile(f"{info.filename!r} ends after {sink.tell()} of {info.file_size} bytes")
