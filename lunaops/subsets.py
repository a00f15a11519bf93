"""LUNA16's parts: which files they come from, and which scans of them are on disk."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from lunaops.ct import raw_path
from lunaops.errors import InputError
from lunaops.series import SERIES_UID_WANTED, is_series_uid

SUBSETS = tuple(f"subset{number}" for number in range(10))
PARTS = ("labels", *SUBSETS)


@dataclass(frozen=True)
class RemoteFile:
    """A file of LUNA16 at Zenodo; None where its size or its checksum is not published."""

    name: str
    record: int
    size: int | None
    md5: str | None


@dataclass(frozen=True)
class ScanFile:
    """A scan on disk; `path` is its .mhd header, whose ElementDataFile names the voxels."""

    series_uid: str
    subset: str
    path: Path


# Sizes and checksums as Zenodo lists them. The older record 2595813 holds a broken subset5.zip.
LUNA16: Mapping[str, tuple[RemoteFile, ...]] = {
    "labels": (
        RemoteFile("annotations.csv", 3723295, 136986, "f4404df491aee6445a4485061bfdffdd"),
        RemoteFile("evaluationScript.zip", 3723295, 21803068, "02680d438a80dc26eeff0c12e1942642"),
        RemoteFile("candidates.csv", 3723295, 54876815, None),
        RemoteFile("candidates_V2.zip", 3723295, None, None),
    ),
    "subset0": (RemoteFile("subset0.zip", 3723295, 6811924508, "1065b0f42b8c25cf29260fd924a3c3a2"),),
    "subset1": (RemoteFile("subset1.zip", 3723295, 6334778552, "2eda28bb123543074f5cd849499b87ff"),),
    "subset2": (RemoteFile("subset2.zip", 3723295, 7257937108, "685b484b085bcdb81c525f3b1bf97c51"),),
    "subset3": (RemoteFile("subset3.zip", 3723295, 6896620114, "54707e9e8954af29326eed60f38ea321"),),
    "subset4": (RemoteFile("subset4.zip", 3723295, 6856144330, "98225ccb1a41fc434631f63f4284796a"),),
    "subset5": (RemoteFile("subset5.zip", 3723295, 6610460097, "395ec714c4123cf213fb7b08f05ee9cc"),),
    "subset6": (RemoteFile("subset6.zip", 3723295, 6531050274, "d162df1444a6f2674ab8273c7f9e1520"),),
    "subset7": (RemoteFile("subset7.zip", 4121926, 6313598213, "e99b8921990d1414bb5e92130371e8a3"),),
    "subset8": (RemoteFile("subset8.zip", 4121926, 6025767505, "38260ca9a8741888997bcebedfabc3f1"),),
    "subset9": (RemoteFile("subset9.zip", 4121926, 6699650017, "e55c473bbeebd712eb2224a58998be8e"),),
}


def find_scans(raw: Path, parts: Collection[str] = PARTS) -> list[ScanFile]:
    """The scans in raw/subset0 ... raw/subset9, by series id; of the subsets among `parts` alone.

    Raises InputError where there is none, a series is in two subsets, a header has no voxels, or a series id
    cannot name a file.
    """
    scans: dict[str, ScanFile] = {}
    for subset in sorted(set(SUBSETS) & set(parts)):
        for path in scan_headers(raw / subset):
            scan = ScanFile(path.stem, subset, path)
            other = scans.setdefault(scan.series_uid, scan)
            if other is not scan:
                raise InputError(
                    f"{path}: series {scan.series_uid} is also in {other.subset}; a scan belongs to one subset, "
                    "so remove one of the two from the source and fetch that part again"
                )
            _check_voxels(scan)
    if not scans:
        raise InputError(f"{raw}: a source directory without scans: no subset*/*.mhd; fetch one with fetch.parts")
    return [scans[series_uid] for series_uid in sorted(scans)]


def scan_headers(folder: Path) -> list[Path]:
    """The .mhd files of a folder, by name; none where it does not exist. Raises InputError as `find_scans` does.

    Hidden files are passed over: macOS leaves a ._NAME.mhd, which is no header, beside what it copies.
    """
    paths = sorted(path for path in folder.glob("*.mhd") if not path.name.startswith("."))
    for path in paths:
        if not is_series_uid(path.stem):
            raise InputError(
                f"{path}: series id {path.stem!r} has no place in a file name; "
                f"wanted {SERIES_UID_WANTED}; rename the .mhd and its .raw"
            )
    return paths


def _check_voxels(scan: ScanFile) -> None:
    raw = raw_path(scan.path)
    if not raw.is_file():
        raise InputError(
            f"{scan.path}: series {scan.series_uid} has no voxels: {raw} is missing; "
            f"bring it back, or run `dvc repro -f fetch-subsets@{scan.subset}`"
        )
