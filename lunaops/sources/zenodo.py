"""A part of LUNA16 out of Zenodo: downloaded, held to its checksum, unpacked."""

import hashlib
import logging
import shutil
import stat
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import requests

from lunaops.ct import read_grid
from lunaops.errors import InputError
from lunaops.progress import progress
from lunaops.sources.receipts import Receipt, Receipts, Stamp, stamp_of
from lunaops.subsets import LUNA16, RemoteFile, scan_headers

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)  # before each new try; from the first again when bytes came

_MIB = 1 << 20
_BLOCK = 1 << 16  # an interruption loses less than this
_TIMEOUT_S = (10.0, 60.0)  # to connect, and between two blocks
_UNPACKED = 2  # bytes on disk for one of an archive: LUNA16's 66 GB hold 120 GB
_TAKEN = {  # what of an archive of tables is LUNA16's; the rest is its evaluation script and examples
    "evaluationScript.zip": {"annotations_excluded.csv", "seriesuids.csv"},
    "candidates_V2.zip": {"candidates_V2.csv"},
}

logger = logging.getLogger(__name__)


def fetch_part(
    part: str,
    folder: Path,
    archives: Path,
    *,
    previous: Path,
    base_url: str,
    keep_archives: bool,
    files: Mapping[str, Sequence[RemoteFile]] = LUNA16,
    pauses_s: Sequence[float] = PAUSES_S,
) -> None:
    """Fill `folder`, which exists, with `part`, by way of downloads in `archives`, where a broken one is resumed.

    What an earlier call unpacked and `previous`, on the same disk, still holds unchanged is linked, not downloaded. A
    file without a published checksum is held to that of its first download; archives/PART.json remembers both.
    Raises InputError where the server fails for longer than the pauses, a file is not what it must be, or the
    disk is too small.
    """
    archives.mkdir(parents=True, exist_ok=True)
    receipts = Receipts(archives / f"{part}.json")
    wanted = [
        file
        for file in files[part]
        if not receipts.link_again(file.name, previous, folder, md5=file.md5, files=_TAKEN.get(file.name))
    ]
    to_come = sum(_bytes_to_come(file, archives) for file in wanted)
    _check_space({archives: to_come, folder: _UNPACKED * sum(file.size or 0 for file in wanted)})
    paths = [_obtain(file, archives, base_url, pauses_s, receipts) for file in wanted]
    for path, file in zip(paths, wanted, strict=True):
        receipts.add(file.name, Receipt(file.md5 or _md5_of(path).hexdigest(), _unpack(path, folder, part)))
    if part != "labels":
        _check_scans(part, folder)
    receipts.write()
    if not keep_archives:
        for path in paths:
            path.unlink()


class _InterruptedError(Exception):
    """The download may go on after a pause, of at least `retry_after_s`."""

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class _PartFile:
    """What has come of a download: a file that grows, with its size and MD5."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self.size, self.md5 = path.stat().st_size, _md5_of(path)

    def restart(self) -> None:
        self.path.write_bytes(b"")
        self.size, self.md5 = 0, hashlib.md5(usedforsecurity=False)

    def append(self, block: bytes) -> None:
        try:
            with self.path.open("ab") as file:
                file.write(block)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {error.strerror}; make room and run again") from error
        self.md5.update(block)
        self.size += len(block)


def _obtain(file: RemoteFile, archives: Path, base_url: str, pauses_s: Sequence[float], receipts: Receipts) -> Path:
    """The file in `archives`, complete and checked."""
    path = archives / file.name
    if not path.exists():
        url = f"{base_url}/records/{file.record}/files/{file.name}?download=1"
        logger.info("%s: %s from %s", file.name, _gigabytes(file.size), url)
        part = _PartFile(path.with_name(f"{path.name}.part"))
        _download(url, part, file.size, pauses_s)
        _check_content(part.path, file, part.size, part.md5.hexdigest(), receipts)
        part.path.rename(path)
    else:
        _check_content(path, file, path.stat().st_size, _md5_of(path).hexdigest(), receipts)
    return path


def _download(url: str, part: _PartFile, size: int | None, pauses_s: Sequence[float]) -> None:
    """Complete `part`, through as many interruptions as bring new bytes, or as there are pauses."""
    pauses = iter(pauses_s)
    most = part.size
    while size is None or part.size < size:
        try:
            _receive(url, part, size)
            return
        except _InterruptedError as interruption:
            if part.size > most:
                most, pauses = part.size, iter(pauses_s)
            pause_s = next(pauses, None)
            if pause_s is None:
                raise InputError(
                    f"{url}: {interruption}; gave up after {len(pauses_s) + 1} tries; "
                    "run again to go on from where it stopped, or give a mirror as fetch.base_url"
                ) from interruption
            pause_s = max(pause_s, interruption.retry_after_s)
            logger.warning("%s: %s at byte %d; again in %g s", url, interruption, part.size, pause_s)
            time.sleep(pause_s)


def _receive(url: str, part: _PartFile, size: int | None) -> None:
    """Append what one request brings; a server that ignores the range starts from the first byte again."""
    headers = {"Accept-Encoding": "identity"}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
    try:
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
            continues = response.headers.get("Content-Range", "").startswith(f"bytes {part.size}-")
            if response.status_code == requests.codes.requested_range_not_satisfiable or (
                response.ok and not continues
            ):
                part.restart()
            _check_status(url, response)
            length = response.headers.get("Content-Length", "")
            end = part.size + int(length) if length.isdecimal() else size
            num_mib = None if end is None else (end - part.size) // _MIB
            for _ in progress(_append(response, part, size), total=num_mib, label=part.path.stem, unit="MiB"):
                pass
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _InterruptedError(f"connection lost ({type(error).__name__})") from error
    except requests.RequestException as error:
        raise InputError(f"{url}: {error}; mend fetch.base_url") from error
    if end is not None and part.size < end:
        raise _InterruptedError("connection closed early")


def _append(response: requests.Response, part: _PartFile, size: int | None) -> Iterator[None]:
    """Append the response's bytes to `part`, and say so after each whole MiB."""
    start = part.size
    said = 0
    for block in response.iter_content(_BLOCK):
        part.append(block)
        if size is not None and part.size > size:
            return  # its content will not be right: spare the disk
        for _ in range(said, said := (part.size - start) // _MIB):
            yield


def _check_status(url: str, response: requests.Response) -> None:
    status = response.status_code
    if status == requests.codes.too_many_requests or status >= requests.codes.server_error:
        after = response.headers.get("Retry-After", "")
        raise _InterruptedError(f"the server answers {status}", float(after) if after.isdecimal() else 0.0)
    if status == requests.codes.requested_range_not_satisfiable:
        raise _InterruptedError("the server has no such range")
    if status >= requests.codes.bad_request:
        raise InputError(
            f"{url}: the server answers {status} {response.reason}; "
            "fetch.base_url must lead to Zenodo or to a mirror with the same paths"
        )


def _check_content(path: Path, file: RemoteFile, size: int, md5: str, receipts: Receipts) -> None:
    """Remove the file at `path` and raise InputError where it is not the published, or the recorded, one."""
    wanted, hint = file.md5, ""
    if wanted is None:
        wanted = receipts.md5_of(file.name)
        held = "recorded this one" if wanted is None else "held to that of the first download"
        logger.warning("%s: no checksum is published; %s, in %s", file.name, held, receipts.path)
        hint = f", and remove {receipts.path} to accept a new version"
    if file.size in (None, size) and wanted in (None, md5):
        return
    path.unlink()
    raise InputError(
        f"{path}: got {size} bytes with md5 {md5}, wanted {file.size or size} with {wanted or md5}; "
        f"removed it; run again to download it afresh{hint}"
    )


def _unpack(path: Path, folder: Path, part: str) -> dict[str, Stamp]:
    """Write the tables or the scans of a downloaded file into `folder`, streaming; zipfile verifies every CRC."""
    if path.suffix != ".zip":
        return {path.name: stamp_of(Path(shutil.copyfile(path, folder / path.name)))}
    member = None
    try:
        with zipfile.ZipFile(path) as archive:
            members = _wanted_members(archive, path, part)
            _check_space({folder: sum(member.file_size for member in members)})
            for member in progress(members, label=f"unpack {path.name}", unit="files"):
                target = folder / PurePosixPath(member.filename).name
                with archive.open(member) as source, target.open("xb") as sink:
                    shutil.copyfileobj(source, sink, _MIB)
        return {PurePosixPath(member.filename).name: Stamp(member.file_size, member.CRC) for member in members}
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(f"{path}: damaged: {error}; remove it and run again") from error
    except NotImplementedError as error:
        raise InputError(
            f"{path}: compressed in a way that Python cannot read ({error}); unpack it with 7-Zip "
            f"(7z x {path}) and use fetch.source: directory"
        ) from error
    except FileExistsError as error:
        raise InputError(
            f"{path}: holds {member.filename if member else ''} twice; it is not LUNA16's archive"
        ) from error


def _wanted_members(archive: zipfile.ZipFile, path: Path, part: str) -> list[zipfile.ZipInfo]:
    members = [member for member in archive.infolist() if not member.is_dir()]
    for member in members:
        _check_member(member, path)
    if path.name in _TAKEN:
        names = _TAKEN[path.name]
        taken = [member for member in members if PurePosixPath(member.filename).name in names]
        if len(taken) < len(names):
            raise InputError(f"{path}: lacks one of {', '.join(sorted(names))}; it is not LUNA16's archive")
        return taken
    for member in members:
        inside = PurePosixPath(member.filename)
        if inside.suffix not in (".mhd", ".raw") or inside.parent not in (PurePosixPath(), PurePosixPath(part)):
            raise InputError(f"{path}: refused, for its member {member.filename!r} is no .mhd or .raw of {part}")
    return members


def _check_member(member: zipfile.ZipInfo, path: Path) -> None:
    """Refuse a name that leads out of the folder, on any system, and a link."""
    inside = PurePosixPath(member.filename)
    leaves = inside.is_absolute() or ".." in inside.parts or "\\" in member.filename or ":" in member.filename
    if leaves or stat.S_ISLNK(member.external_attr >> 16):
        raise InputError(f"{path}: refused, for its member {member.filename!r} leads out of the folder")


def _check_scans(part: str, folder: Path) -> None:
    headers = scan_headers(folder)
    if not headers:
        raise InputError(f"{part}: its archive holds no scans")
    for header in headers:
        read_grid(header)  # its voxels are there, of the right type and size


def _check_space(needs: Mapping[Path, int]) -> None:
    """Raise InputError where the disks of these folders have fewer bytes free; two may be on one disk."""
    wanted: Counter[int] = Counter()
    for folder, num_bytes in needs.items():
        wanted[folder.stat().st_dev] += num_bytes
    for folder in needs:
        free, need = shutil.disk_usage(folder).free, wanted[folder.stat().st_dev]
        if free < need:
            raise InputError(f"{folder}: needs {_gigabytes(need)}, but {_gigabytes(free)} are free; make room there")


def _gigabytes(num_bytes: int | None) -> str:
    return "size unknown" if num_bytes is None else f"{num_bytes / 1e9:.3g} GB"


def _bytes_to_come(file: RemoteFile, archives: Path) -> int:
    """What is still to be downloaded of a file, 0 where its size is unknown."""
    path, part = archives / file.name, archives / f"{file.name}.part"
    here = next((found.stat().st_size for found in (path, part) if found.exists()), 0)
    return max((file.size or 0) - here, 0)


def _md5_of(path: Path) -> "hashlib._Hash":
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
