"""A part out of the user's own folder, which stays as it is: LUNA16's layout, or DICOM series.

LUNA16's scans are linked. DVC copies what a symbolic or hard link in an output leads to: LUNA16 would be on the disk
twice. MetaImage has a link of its own: a header may name its voxels by an absolute path. So a part is small headers,
which DVC keeps in its cache like any output, and the user's voxels stay where they are, on any file system, read-only
or not. The price: DVC does not see when the user's folder changes; `dvc repro -f fetch-subsets@PART` looks again. A
part that shall stand on its own is copied where that is asked for.

DICOM series in a folder subsetN are the scans of that part. A folder that has no such folders is subset0 as a whole.
They are converted, so written (`dicom`). The CSV files, 0.1 GB in all, are copied, which is what DVC makes of a link
in any case.
"""

import filecmp
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from lunaops.ct import raw_path, read_grid
from lunaops.disk import check_space
from lunaops.errors import InputError
from lunaops.progress import progress
from lunaops.sources import dicom
from lunaops.subsets import SUBSETS, scan_headers

LABEL_FILES = (
    "annotations.csv",
    "candidates.csv",
    "candidates_V2.csv",
    "annotations_excluded.csv",
    "seriesuids.csv",
    "annotations_with_malignancy.csv",
)
_REQUIRED = {  # names, of which one must be there: its columns
    (
        "annotations.csv",
    ): "seriesuid,coordX,coordY,coordZ,diameter_mm, of nodules; the header alone where there are none",
    ("candidates.csv", "candidates_V2.csv"): "seriesuid,coordX,coordY,coordZ,class, 1 for a nodule, else 0",
}
_MAX_PATH_BYTES = 480  # MetaIO 2024 (SimpleITK 2.5) reads 480 bytes of ElementDataFile and fails at 531

logger = logging.getLogger(__name__)


def fetch_part(
    part: str,
    folder: Path,
    scans: Path,
    labels: Path,
    *,
    replaced: Path | None = None,
    copy: bool = False,
    workers: int = 1,
) -> None:
    """Fill `folder`, which exists, with `part`: from the subset folders in `scans`, the CSV files in `labels`.

    Both are looked through two folders deep, as archives unpack; what `labels` lacks is sought in `scans`. LUNA16's
    scans are linked, or copied if `copy`; `workers` processes convert DICOM series. Raises InputError where a folder,
    a subset, the voxels of a scan, or a CSV file that merging needs is missing, where a scan cannot be used or linked,
    and where a file to take lies in `replaced`, the folder that will give way to `folder`.
    """
    scans = _existing(scans, "fetch.directory")
    if part == "labels":
        labels = _existing(labels, "fetch.labels_directory")
        _copy_labels(folder, list(dict.fromkeys([labels, scans])), replaced)
        return
    found = find_subset(part, scans)
    if found is None:
        others = [subset for subset in SUBSETS if find_subset(subset, scans)]
        raise InputError(
            f"{scans}: no scans of {part} ({part}/*.mhd, or DICOM in it); "
            f"found: {', '.join(others) or 'no subset at all'}; "
            "list in fetch.parts what is there, or mend fetch.directory"
        )
    with_dicom = list(dicom.dicom_folders(found))
    headers = scan_headers(found)
    if headers and with_dicom:
        raise InputError(f"{found}: holds .mhd scans and DICOM files (in {with_dicom[0]}); keep one of the two there")
    for place in [*with_dicom, *headers]:
        _check_kept(place, replaced)
    if headers:
        _take_scans(part, headers, folder, replaced, copy)
    else:
        dicom.write_scans(found, folder, workers)


def _existing(place: Path, parameter: str) -> Path:
    place = place.expanduser().resolve()
    if not place.is_dir():
        raise InputError(f"{place}: no such folder; mend {parameter}")
    return place


def _take_scans(part: str, headers: Sequence[Path], folder: Path, replaced: Path | None, copy: bool) -> None:
    for header in headers:
        _check_kept(raw_path(header), replaced)
        read_grid(header)  # its voxels are there, of the right type and size
    if copy:
        check_space({folder: sum(raw_path(header).stat().st_size for header in headers)})
    take = _copy_scan if copy else _link_scan
    for header in progress(headers, label=part, unit="scans"):
        take(header, folder / header.name)
    logger.info("%s: %s %d scans in %s", part, "copied" if copy else "linked to", len(headers), headers[0].parent)


def _check_kept(path: Path, replaced: Path | None) -> None:
    if replaced is not None and path.resolve().is_relative_to(replaced.resolve()):
        raise InputError(
            f"{path}: lies in {replaced}, which this stage replaces; move your data and mend fetch.directory"
        )


def find_subset(part: str, source: Path) -> Path | None:
    """The folder of `source` that holds the scans of `part`, at most one folder deeper than LUNA16 has it.

    DICOM series without such folders are subset0: then it is `source`. Raises InputError where two hold it: which of
    them is meant is the user's to say.
    """
    named = _named_folder(part, source)
    if named or part != SUBSETS[0] or any(_named_folder(other, source) for other in SUBSETS):
        return named
    return source if _holds_dicom(source) else None


def _named_folder(part: str, source: Path) -> Path | None:
    for pattern in (part, f"*/{part}"):
        found = [path for path in sorted(source.glob(pattern)) if scan_headers(path) or _holds_dicom(path)]
        if len(found) > 1:
            raise InputError(
                f"{source}: {part} is there twice, in {found[0]} and {found[1]}; "
                "let fetch.directory name the folder that holds one of them"
            )
        if found:
            return found[0]
    return None


def _holds_dicom(folder: Path) -> bool:
    return next(dicom.dicom_folders(folder), None) is not None


def _link_scan(header: Path, target: Path) -> None:
    voxels = raw_path(header)
    link = os.fsencode(voxels)
    if b"%" in link or len(link) > _MAX_PATH_BYTES:
        raise InputError(
            f"{voxels}: MetaImage cannot link to a path with a % sign (it means a numbered series of files) "
            f"or of more than {_MAX_PATH_BYTES} bytes; rename the folder, or copy the scans with fetch.copy_scans: true"
        )
    target.write_bytes(_naming(header, link))


def _copy_scan(header: Path, target: Path) -> None:
    voxels = target.with_suffix(raw_path(header).suffix)
    try:
        shutil.copyfile(raw_path(header), voxels)
    except OSError as error:
        raise InputError(f"{voxels}: cannot be copied: {error.strerror}; make room and run again") from error
    target.write_bytes(_naming(header, os.fsencode(voxels.name)))


def _naming(header: Path, voxels: bytes) -> bytes:
    """The header's bytes with `voxels` as its ElementDataFile."""
    lines = header.read_bytes().splitlines()
    kept = [line for line in lines if line.partition(b"=")[0].strip() != b"ElementDataFile"]
    return b"\n".join([*kept, b"ElementDataFile = " + voxels, b""])  # the reader stops at this line: it is the last


def _copy_labels(folder: Path, places: Sequence[Path], replaced: Path | None) -> None:
    found = {name: path for name in LABEL_FILES if (path := _find_label(name, places))}
    missing = [
        f"{' or '.join(names)} ({columns})" for names, columns in _REQUIRED.items() if not found.keys() & set(names)
    ]
    if missing:
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
