"""CT series out of DICOM files, in folders of any kind: each becomes one scan in LUNA16's format.

A file is known by its content: its name does not matter, and the series is what the tag says, whichever folders its
files are in. What is no slice of a CT volume is left out and said in the log: other files, other modalities,
localizers, series of one slice. A series that cannot be one volume of HU is refused (`slices.stack` says why).
"""

import logging
import math
import os
import struct
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from lunaops.cores import spread
from lunaops.ct import HuArray
from lunaops.disk import check_space
from lunaops.errors import InputError
from lunaops.geometry import Grid
from lunaops.numerals import number_of
from lunaops.progress import progress
from lunaops.series import is_series_uid
from lunaops.sources.dicom_pixels import check_pixels
from lunaops.sources.metaimage import write_metaimage
from lunaops.sources.slices import Slice, stack

_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"  # SOP classes, DICOM PS3.4 B.5
_ENHANCED_CT = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
_NAMED_DICOM = (".dcm", ".dicom", ".ima")
_NEVER_DICOM = (".mhd", ".raw", ".zraw", ".csv", ".zip")  # LUNA16's own: not opened to see
_INT16 = (-32768, 32767)
_FILES_PER_PROCESS, _SERIES_PER_PROCESS = 1000, 2  # 0.7 s of headers, of voxels: with less it is not worth its start
_FILES_AT_ONCE = 100

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Left:
    """A file that is left out, and what it is."""

    path: Path
    kind: str


@dataclass(frozen=True)
class _Series:
    slices: tuple[Slice, ...]
    grid: Grid

    @property
    def uid(self) -> str:
        return self.slices[0].series_uid


def dicom_folders(source: Path) -> Iterator[Path]:
    """The folders at and below `source` that hold a DICOM file, symbolic links to folders followed."""
    for folder, names in _walk(source):
        if any(_sop_class(folder / name) is not None for name in names):
            yield folder


def write_scans(source: Path, folder: Path, workers: int) -> None:
    """Write each CT series at and below `source` into `folder` as SERIES_UID.mhd and .raw, over so many processes.

    HU are what rescale slope and intercept make of the stored values, rounded to whole ones and clipped to int16.
    Raises InputError where a file cannot be read, a series is no volume, none is there, or the disk is too small.
    """
    paths = [folder / name for folder, names in _walk(source) for name in names]
    looks = spread(_look_at, paths, min(workers, len(paths) // _FILES_PER_PROCESS), at_once=_FILES_AT_ONCE)
    looked = list(progress(looks, total=len(paths), label=f"look at {source}", unit="files"))
    _refuse([result for result in looked if isinstance(result, InputError)])
    by_series: dict[str, list[Slice]] = defaultdict(list)
    for result in looked:
        if isinstance(result, Slice):
            by_series[result.series_uid].append(result)
    left = [result for result in looked if isinstance(result, _Left)]
    left += [_Left(found[0].path, "series of one slice") for found in by_series.values() if len(found) == 1]
    series = _stacked([found for _, found in sorted(by_series.items()) if len(found) > 1])
    _say_left(source, left)
    if not series:
        raise InputError(f"{source}: no CT series of two slices or more; mend fetch.directory")
    check_space({folder: sum(2 * math.prod(one.grid.shape_irc) for one in series)})
    work = spread(partial(_write_scan, folder=folder), series, min(workers, len(series) // _SERIES_PER_PROCESS))
    clipped = list(progress(work, total=len(series), label=f"write scans of {source}", unit="series"))
    _say_written(source, series, sum(clipped))


def _walk(source: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders and the names of their files, both in order, hidden ones passed over; each real folder once."""
    seen = set()
    for place, folders, names in os.walk(source, followlinks=True, onerror=_refuse_folder):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(place), sorted(name for name in names if not name.startswith("."))


def _refuse_folder(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be read: {error.strerror}; make it readable") from error


def _sop_class(path: Path) -> str | None:
    """What kind of object a DICOM file says it is, before its tags: '' where it does not; None: no DICOM file."""
    if path.suffix.lower() in _NEVER_DICOM:
        return None
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; make it readable") from error
    if head[128:132] != b"DICM":
        return "" if path.suffix.lower() in _NAMED_DICOM else None  # older ones begin without DICM
    at = 132
    while head[at : at + 2] == b"\x02\x00" and at + 12 <= len(head):  # the meta group is explicit, little-endian
        is_long = head[at + 4 : at + 6] in (b"OB", b"UN")
        (length,) = struct.unpack_from("<I" if is_long else "<H", head, at + (8 if is_long else 6))
        value = at + (12 if is_long else 8)
        if head[at + 2 : at + 4] == b"\x02\x00":
            return head[value : value + length].rstrip(b"\0 ").decode("ascii", "replace")
        at = value + length
    return ""


def _look_at(path: Path) -> Slice | _Left | InputError:
    """A file's place in a series, from its header alone; what else it is; or why it cannot be used."""
    try:
        sop_class = _sop_class(path)
        if sop_class is None:
            return _Left(path, "no DICOM file")
        if sop_class in _ENHANCED_CT:
            return InputError(f"{path}: many slices in one file (enhanced CT); convert it to one file a slice")
        return _Left(path, f"SOP class {sop_class}") if sop_class not in ("", _CT_IMAGE) else _read_slice(path)
    except InputError as error:
        return error


def _read_slice(path: Path) -> Slice | _Left:
    tags = _Tags(path)
    if (sop_class := tags.text("0008|0016", "SOPClassUID")) != _CT_IMAGE:
        return _Left(path, f"SOP class {sop_class}")
    if "LOCALIZER" in tags.text("0008|0008", "ImageType", default=""):
        return _Left(path, "localizer")
    series_uid = tags.text("0020|000e", "SeriesInstanceUID")
    if not is_series_uid(series_uid):
        raise InputError(f"{path}: its SeriesInstanceUID {series_uid!r} has no place in a file name; mend the tag")
    if tags.text("0028|0008", "NumberOfFrames", default="1") != "1":
        raise InputError(f"{path}: many slices in one file (multi-frame); convert it to one file a slice")
    if tags.numbers("0028|1053", "RescaleSlope", 1) == (0,):  # GDCM takes it for 1
        raise InputError(f"{path}: RescaleSlope (0028,1053) is 0, which makes no HU; mend the tag")
    tags.numbers("0028|1052", "RescaleIntercept", 1)  # without it its values are no HU
    if (unit := tags.text("0028|1054", "RescaleType", default="HU")) not in ("HU", "US", ""):
        raise InputError(f"{path}: its RescaleType is {unit!r}, wanted HU; move the series out of the folder")
    orientation = tags.numbers("0020|0037", "ImageOrientationPatient", 6)
    axes = np.reshape(orientation, (2, 3))
    if not np.allclose(axes @ axes.T, np.eye(2), atol=1e-3):
        raise InputError(f"{path}: ImageOrientationPatient must be two unit vectors at right angles, got {orientation}")
    spacing = tags.numbers("0028|0030", "PixelSpacing", 2)
    if min(spacing) <= 0:
        raise InputError(f"{path}: PixelSpacing must be positive, got {spacing}")
    check_pixels(path, tags.shape_rc, *tags.numbers("0028|0100", "BitsAllocated", 1))
    return Slice(
        path=path,
        series_uid=series_uid,
        patient_id=tags.text("0010|0020", "PatientID", default=""),
        shape_rc=tags.shape_rc,
        spacing_rc=spacing,
        position_xyz=tags.numbers("0020|0032", "ImagePositionPatient", 3),
        orientation=orientation,
    )


class _Tags:
    """The tags of a DICOM image, read without its voxels. Raises InputError naming file and tag."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = _reader(path)
        try:
            self._reader.ReadImageInformation()
        except RuntimeError as error:
            raise InputError(f"{path}: not a whole DICOM image; bring it back or move it out of the folder") from error
        columns, rows = self._reader.GetSize()[:2]
        self.shape_rc = (rows, columns)

    def text(self, tag: str, name: str, default: str | None = None) -> str:
        if not self._reader.HasMetaDataKey(tag):
            if default is None:
                raise InputError(f"{self.path}: lacks {name} ({tag.replace('|', ',')}), which a CT image must have")
            return default
        value: str = self._reader.GetMetaData(tag)
        return value.strip(" \0")

    def numbers(self, tag: str, name: str, count: int) -> tuple[float, ...]:
        text = self.text(tag, name)
        numbers = tuple(number_of(word) for word in text.split("\\"))
        if len(numbers) != count or not np.isfinite(numbers).all():
            raise InputError(f"{self.path}: {name} ({tag.replace('|', ',')}) must be {count} number(s), got {text!r}")
        return numbers


def _reader(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    return reader


def _stacked(found: Sequence[Sequence[Slice]]) -> list[_Series]:
    series, problems = [], []
    for slices in found:
        try:
            ordered, grid = stack(slices)
            series.append(_Series(tuple(ordered), grid))
        except InputError as problem:
            problems.append(problem)
    _refuse(problems)
    return series


def _refuse(problems: Sequence[InputError]) -> None:
    """Raise the problem, where there is one; of several, log each and raise the first with their number."""
    if len(problems) > 1:
        for problem in problems:
            logger.error("%s", problem)
        raise InputError(f"{len(problems)} problems, all listed above; the first: {problems[0]}")
    if problems:
        raise problems[0]


def _write_scan(series: _Series, folder: Path) -> int:
    """Write the scan, one slice in memory at a time; gives how many voxels had to be clipped to int16."""
    path, clipped = folder / f"{series.uid}.mhd", Counter[str]()
    try:
        write_metaimage(path, (_read_hu(one, clipped) for one in series.slices), series.grid)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}; make room and run again") from error
    return clipped.total()


def _read_hu(one: Slice, clipped: Counter[str]) -> HuArray:
    """Its HU, (rows, columns). One by one: a series reader gives all slices the type that fits the first's rescale."""
    try:
        values = sitk.GetArrayFromImage(_reader(one.path).Execute()).reshape(one.shape_rc)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{one.path}: its voxels cannot be decoded; decompress it, as by `gdcmconv --raw`, or bring it back"
        ) from error
    if values.dtype == np.int16:
        return np.asarray(values)
    hu = np.rint(values) if values.dtype.kind == "f" else values
    clipped[one.series_uid] += int(np.count_nonzero((hu < _INT16[0]) | (hu > _INT16[1])))
    return np.asarray(np.clip(hu, *_INT16), dtype=np.int16)


def _say_left(source: Path, left: Sequence[_Left]) -> None:
    kinds = Counter(one.kind for one in left)
    examples = {one.kind: one.path for one in reversed(left)}
    for kind, count in sorted(kinds.items()):
        logger.info("%s: left out %d of kind '%s', as %s", source, count, kind, examples[kind])


def _say_written(source: Path, series: Sequence[_Series], num_clipped: int) -> None:
    num_slices = sum(len(one.slices) for one in series)
    logger.info("%s: wrote %d scans out of %d DICOM slices", source, len(series), num_slices)
    if num_clipped:
        logger.warning("%s: %d voxels beyond %d ... %d HU were clipped to it", source, num_clipped, *_INT16)
    of_patient = Counter(one.slices[0].patient_id for one in series)
    num_again = sum(count > 1 for patient, count in of_patient.items() if patient)
    if num_again:
        logger.warning(
            "patients with several series: %d; a split by series may part them: put them into folders subset0 ... "
            "subset9, a patient's in one, and split by subset",
            num_again,
        )
