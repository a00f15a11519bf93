"""A part out of the user's own LUNA16 folder: linked, never copied or changed.

DVC copies what a symbolic or hard link in an output leads to: LUNA16 would be on the disk twice. MetaImage has a
link of its own: a header may name its voxels by an absolute path. So a part is small headers, which DVC keeps in
its cache like any output, and the user's voxels stay where they are, on any file system, read-only or not. The CSV
files, 0.1 GB in all, are the exception: they are copied, which is what DVC makes of a link in any case.

The price: DVC does not see when the user's folder changes. `dvc repro -f fetch-subsets@PART` looks again.
"""

import filecmp
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from lunaops.ct import raw_path, read_grid
from lunaops.errors import InputError
from lunaops.subsets import SUBSETS, scan_headers

LABEL_FILES = (
    "annotations.csv",
    "candidates.csv",
    "candidates_V2.csv",
    "annotations_excluded.csv",
    "seriesuids.csv",
    "annotations_with_malignancy.csv",
)
_REQUIRED = (("annotations.csv",), ("candidates.csv", "candidates_V2.csv"))
_MAX_PATH_BYTES = 480  # MetaIO 2024 (SimpleITK 2.5) reads 480 bytes of ElementDataFile and fails at 531

logger = logging.getLogger(__name__)


def link_part(part: str, folder: Path, scans: Path, labels: Path, *, replaced: Path | None = None) -> None:
    """Fill `folder`, which exists, with `part`: from the subset folders in `scans`, the CSV files in `labels`.

    Both are looked through two folders deep, as archives unpack; what `labels` lacks is sought in `scans`.
    Raises InputError where a folder, a subset, the voxels of a scan, or a CSV file that merging needs is missing, and
    where a file to link lies in `replaced`, the folder that will give way to `folder`.
    """
    scans = _existing(scans, "fetch.directory")
    if part == "labels":
        labels = _existing(labels, "fetch.labels_directory")
        _copy_labels(folder, list(dict.fromkeys([labels, scans])), replaced)
    else:
        _link_scans(part, folder, scans, replaced)


def _existing(place: Path, parameter: str) -> Path:
    place = place.expanduser().resolve()
    if not place.is_dir():
        raise InputError(f"{place}: no such folder; mend {parameter}")
    return place


def _link_scans(part: str, folder: Path, source: Path, replaced: Path | None) -> None:
    found = find_subset(part, source)
    if found is None:
        others = [subset for subset in SUBSETS if find_subset(subset, source)]
        raise InputError(
            f"{source}: no scans of {part} ({part}/*.mhd); found: {', '.join(others) or 'no subset at all'}; "
            "list in fetch.parts what is there, or mend fetch.directory"
        )
    headers = scan_headers(found)
    for header in headers:
        _check_kept(header, replaced)
        _check_kept(raw_path(header), replaced)
        read_grid(header)  # its voxels are there, of the right type and size
        (folder / header.name).write_bytes(_linking_header(header))
    logger.info("%s: linked %d .mhd to %s", part, len(headers), found)


def _check_kept(path: Path, replaced: Path | None) -> None:
    if replaced is not None and path.resolve().is_relative_to(replaced.resolve()):
        raise InputError(
            f"{path}: lies in {replaced}, which this stage replaces; move your LUNA16 and mend fetch.directory"
        )


def find_subset(part: str, source: Path) -> Path | None:
    """The folder of `source` that holds the scans of `part`, at most one folder deeper than LUNA16 has it.

    Raises InputError where two do: which of them is meant is the user's to say.
    """
    for pattern in (part, f"*/{part}"):
        found = [path for path in sorted(source.glob(pattern)) if scan_headers(path)]
        if len(found) > 1:
            raise InputError(
                f"{source}: {part} is there twice, in {found[0]} and {found[1]}; "
                "let fetch.directory name the folder that holds one of them"
            )
        if found:
            return found[0]
    return None


def _linking_header(header: Path) -> bytes:
    """The header's bytes with its ElementDataFile made absolute."""
    voxels = raw_path(header)
    target = os.fsencode(voxels)
    if b"%" in target or len(target) > _MAX_PATH_BYTES:
        raise InputError(
            f"{voxels}: MetaImage cannot link to a path with a % sign (it means a numbered series of files) "
            f"or of more than {_MAX_PATH_BYTES} bytes; rename the folder"
        )
    lines = header.read_bytes().splitlines()
    kept = [line for line in lines if line.partition(b"=")[0].strip() != b"ElementDataFile"]
    return b"\n".join([*kept, b"ElementDataFile = " + target, b""])  # the reader stops at this line: it is the last


def _copy_labels(folder: Path, places: Sequence[Path], replaced: Path | None) -> None:
    found = {name: path for name in LABEL_FILES if (path := _find_label(name, places))}
    if missing := [" or ".join(names) for names in _REQUIRED if not found.keys() & set(names)]:
        raise InputError(
            f"{' and '.join(map(str, places))}: no {' and no '.join(missing)}; "
            f"found: {', '.join(found) or 'none of the CSV files of LUNA16'}; "
            "put it there, or name its folder in fetch.labels_directory"
        )
    for name, path in found.items():
        _check_kept(path, replaced)
        shutil.copyfile(path, folder / name)
    absent = [name for name in LABEL_FILES if name not in found]
    logger.info("labels: copied %s%s", ", ".join(found), f"; not there: {', '.join(absent)}" if absent else "")


def _find_label(name: str, places: Sequence[Path]) -> Path | None:
    """The first place's shallowest file of that name. Raises InputError where two there differ."""
    for place in places:
        for pattern in (name, f"*/{name}", f"*/*/{name}"):
            found = [path for path in sorted(place.glob(pattern)) if path.is_file()]
            for other in found[1:]:
                if not filecmp.cmp(found[0], other, shallow=False):
                    raise InputError(f"{other}: differs from {found[0]}; remove the one that does not apply")
            if found:
                return found[0]
    return None
