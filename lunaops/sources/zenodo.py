"""A part of LUNA16 out of Zenodo: downloaded, held to its checksum, unpacked."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from lunaops.ct import raw_path, read_grid
from lunaops.disk import check_space, writing
from lunaops.errors import InputError
from lunaops.sources.archive import unpack
from lunaops.sources.download import PAUSES_S, download, md5_of
from lunaops.sources.receipts import Receipt, Receipts, Stamp, stamp_of
from lunaops.subsets import LUNA16, RemoteFile, scan_headers

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
    files: Mapping[str, Sequence[RemoteFile]] = LUNA16,
    pauses_s: Sequence[float] = PAUSES_S,
) -> None:
    """Fill `folder`, which exists, with `part`, by way of downloads in `archives`, where a broken one is resumed.

    What an earlier call unpacked and `previous`, on the same disk, still holds unchanged is linked, not downloaded. A
    file without a published checksum is held to that of its first download; archives/PART.json remembers both. The
    downloads stay, so that an interruption costs none: `remove_archives` when the folder is in its place.
    Raises InputError where the server fails for longer than the pauses, a file is not what it must be, or the
    disk is too small.
    """
    with writing(archives):
        archives.mkdir(parents=True, exist_ok=True)
    receipts = Receipts(archives / f"{part}.json")
    wanted = [
        file
        for file in files[part]
        if not receipts.link_again(file.name, previous, folder, md5=file.md5, files=_TAKEN.get(file.name))
    ]
    to_come = [file for file in wanted if not (archives / file.name).exists()]
    unpacked = _UNPACKED * sum(file.size or 0 for file in to_come)
    check_space({archives: sum(_bytes_to_come(file, archives) for file in to_come), folder: unpacked})
    md5s = [_obtain(file, archives, base_url, pauses_s, receipts) for file in wanted]
    for file, md5 in zip(wanted, md5s, strict=True):
        receipts.add(file.name, Receipt(md5, _unpack(archives / file.name, folder, part)))
    if part != "labels":
        try:
            _check_scans(part, folder)
        except InputError as error:  # the folder is gone when this is read
            raise InputError(str(error).replace(f"{folder}/", f"{files[part][0].name}/")) from error
    receipts.write()


def remove_archives(part: str, archives: Path, *, files: Mapping[str, Sequence[RemoteFile]] = LUNA16) -> None:
    """Remove the downloads that `part` came from."""
    for file in files[part]:
        (archives / file.name).unlink(missing_ok=True)


def _obtain(file: RemoteFile, archives: Path, base_url: str, pauses_s: Sequence[float], receipts: Receipts) -> str:
    """Bring the file into `archives`, complete and checked, and give its MD5."""
    path = archives / file.name
    wanted, hint = file.md5, ""
    if wanted is None:
        wanted = receipts.md5_of(file.name)
        held = "recorded this one" if wanted is None else "held to that of the first download"
        logger.warning("%s: no checksum is published; %s, in %s", file.name, held, receipts.path)
        hint = f", and remove {receipts.path} to accept a new version"
    if path.exists():
        size, md5 = path.stat().st_size, md5_of(path).hexdigest()
        if file.size in (None, size) and wanted in (None, md5):
            return md5
        logger.warning("%s: has %d bytes with md5 %s, which is not %s; downloaded afresh", path, size, md5, file.name)
        path.unlink()
    url = f"{base_url.rstrip('/')}/records/{file.record}/files/{file.name}?download=1"
    return download(url, path, size=file.size, md5=wanted, pauses_s=pauses_s, hint=hint)


def _unpack(path: Path, folder: Path, part: str) -> dict[str, Stamp]:
    """Write the tables or the scans of a downloaded file into `folder`."""
    if path.suffix == ".zip":
        choose = _choose_tables if path.name in _TAKEN else partial(_choose_scans, part)
        return unpack(path, folder, partial(choose, path))
    with writing(folder / path.name):
        shutil.copyfile(path, folder / path.name)
    return {path.name: stamp_of(folder / path.name)}


def _choose_tables(path: Path, members: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    names = _TAKEN[path.name]
    chosen = [inside for inside in members if inside.name in names]
    if {inside.name for inside in chosen} != names:
        raise InputError(f"{path}: lacks one of {', '.join(sorted(names))}; it is not LUNA16's archive")
    return chosen


def _choose_scans(part: str, path: Path, members: Sequence[PurePosixPath]) -> Sequence[PurePosixPath]:
    for inside in members:
        if inside.suffix not in (".mhd", ".raw", ".csv") or inside.parent not in (PurePosixPath(), PurePosixPath(part)):
            raise InputError(f"{path}: refused, for its member {str(inside)!r} is no .mhd, .raw or .csv of {part}")
    return members


def _check_scans(part: str, folder: Path) -> None:
    headers = scan_headers(folder)
    if not headers:
        raise InputError(f"{part}: its archive holds no scans")
    for header in headers:
        if (voxels := raw_path(header)).parent != folder:
            raise InputError(f"{part}: refused, for {header.name} of its archive has its voxels in {voxels}")
        read_grid(header)  # its voxels are there, of the right type and size


def _bytes_to_come(file: RemoteFile, archives: Path) -> int:
    """What is still to be downloaded of a file, 0 where its size is unknown."""
    part = archives / f"{file.name}.part"
    return max((file.size or 0) - (part.stat().st_size if part.exists() else 0), 0)
