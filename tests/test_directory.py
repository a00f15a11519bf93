import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import write_scan as write_by_simpleitk
from conftest import write_series

from lunaops.ct import raw_path, read_ct, read_grid
from lunaops.errors import InputError
from lunaops.sources.directory import fetch_part, find_subset
from lunaops.subsets import find_scans

HEADER = (
    "ObjectType = Image\nNDims = 3\nDimSize = 2 2 1\n"
    "ElementSpacing = 0.7 0.7 2.5\nOffset = 0 0 0\nElementType = MET_SHORT\n"
)


def write_scan(folder: Path, series_uid: str, *, raw_bytes: int = 8, newline: str = "\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{series_uid}.mhd"
    header = f"{HEADER}ElementDataFile = {series_uid}.raw\n"
    path.write_bytes(header.replace("\n", newline).encode())
    path.with_suffix(".raw").write_bytes(bytes(range(raw_bytes)))
    return path


def state(folder: Path) -> dict[str, tuple[int, int, int, int, bytes]]:
    """Mode, time, links and bytes of every file: what must not change."""
    return {
        str(path.relative_to(folder)): (
            stat.S_IMODE(path.stat().st_mode),
            path.stat().st_mtime_ns,
            path.stat().st_nlink,
            path.stat().st_ino,
            path.read_bytes(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def part(tmp_path):
    folder = tmp_path / "raw" / "subset0"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def user(tmp_path):
    """A user's LUNA16 folder with one scan in subset0 and the two tables that merging needs."""
    folder = tmp_path / "user's LÜNA16"
    write_scan(folder / "subset0", "1.1")
    (folder / "annotations.csv").write_bytes(b"seriesuid\r\n1.1\r\n")
    (folder / "candidates.csv").write_bytes(b"candidates")
    return folder


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_linked_scan_reads_as_the_users_own(part, tmp_path, newline):
    mine = write_scan(tmp_path / "user's folder/subset0", "1.1", newline=newline)
    fetch_part("subset0", part, tmp_path / "user's folder", tmp_path)
    assert read_grid(part / "1.1.mhd") == read_grid(mine)
    assert read_ct(part / "1.1.mhd", (-32768, 32767)).hu.tobytes() == bytes(range(8))


def test_only_small_headers_are_written_and_the_user_s_files_stay_as_they_are(part, user):
    before = state(user)
    fetch_part("subset0", part, user, user)
    assert [path.name for path in part.iterdir()] == ["1.1.mhd"]
    fetch_part("labels", part, user, user)
    assert state(user) == before


def test_the_tables_are_copies_that_may_be_protected_without_touching_the_user_s(part, user):
    fetch_part("labels", part, user, user)
    assert {path.name for path in part.iterdir()} == {"annotations.csv", "candidates.csv"}
    assert (part / "annotations.csv").read_bytes() == b"seriesuid\r\n1.1\r\n"
    assert not any(path.samefile(user / path.name) for path in part.iterdir())


def test_a_read_only_folder_serves(part, user):
    for path in sorted(user.rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    fetch_part("subset0", part, user, user)
    fetch_part("labels", part, user, user)
    assert (part / "annotations.csv").stat().st_mode & stat.S_IWUSR


@pytest.mark.parametrize("written", ["~", "."])
def test_a_folder_given_from_home_or_from_here_is_linked_by_its_whole_path(part, tmp_path, written, monkeypatch):
    mine = write_scan(tmp_path / "subset0", "1.1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    fetch_part("subset0", part, Path(written), Path(written))
    assert raw_path(part / "1.1.mhd") == mine.with_suffix(".raw")


def test_a_path_with_letters_beyond_ascii_is_found_again(part, user):
    fetch_part("subset0", part, user, user)
    assert raw_path(part / "1.1.mhd") == user / "subset0/1.1.raw"


@pytest.mark.parametrize("inner", ["subset0", "LUNA16/subset0", "subset0/subset0"])
def test_the_subset_is_found_also_one_folder_deeper(tmp_path, inner):
    write_scan(tmp_path / inner, "1.1")
    assert find_subset("subset0", tmp_path) == tmp_path / inner
    assert find_subset("subset1", tmp_path) is None


def test_a_subset_that_is_there_twice_is_refused(tmp_path):
    write_scan(tmp_path / "a/subset0", "1.1")
    write_scan(tmp_path / "b/subset0", "1.1")
    with pytest.raises(InputError, match=r"subset0 is there twice, in .*a/subset0 and .*b/subset0"):
        find_subset("subset0", tmp_path)


def test_a_missing_subset_is_refused_with_what_is_there_and_the_parameter(part, user):
    write_scan(user / "subset7/subset7", "1.7")
    with pytest.raises(InputError, match=r"no scans of subset3 .*found: subset0, subset7; list in fetch\.parts"):
        fetch_part("subset3", part, user, user)


def test_a_folder_without_any_scan_is_refused(part, tmp_path):
    with pytest.raises(InputError, match="found: no subset at all"):
        fetch_part("subset0", part, tmp_path, tmp_path)


def test_a_folder_that_does_not_exist_is_refused_by_its_parameter(part, user):
    with pytest.raises(InputError, match=r"nowhere: no such folder; mend fetch\.directory"):
        fetch_part("subset0", part, user / "nowhere", user)
    with pytest.raises(InputError, match=r"nowhere: no such folder; mend fetch\.directory"):
        fetch_part("labels", part, user / "nowhere", user / "nowhere")
    with pytest.raises(InputError, match=r"nowhere: no such folder; mend fetch\.labels_directory"):
        fetch_part("labels", part, user, user / "nowhere")


def test_voxels_that_are_missing_are_refused_before_anything_is_linked(part, user):
    (user / "subset0/1.1.raw").unlink()
    with pytest.raises(InputError, match=r"1\.1\.raw.* missing"):
        fetch_part("subset0", part, user, user)
    assert not list(part.iterdir())


def test_voxels_that_are_too_short_are_refused(part, user):
    write_scan(user / "subset0", "1.2", raw_bytes=7)
    with pytest.raises(InputError, match=r"1\.2\.raw: too short: 7 bytes, its header wants 8"):
        fetch_part("subset0", part, user, user)


def test_a_series_id_that_cannot_name_a_file_is_refused(part, user):
    write_scan(user / "subset0", "patient one")
    with pytest.raises(InputError, match="'patient one' has no place in a file name"):
        fetch_part("subset0", part, user, user)


@pytest.mark.parametrize("name", ["50% of LUNA16", "/".join(["d" * 100] * 5)])
def test_a_path_that_the_reader_would_misread_is_refused(part, tmp_path, name):
    write_scan(tmp_path / name / "subset0", "1.1")
    with pytest.raises(InputError, match="MetaImage cannot link.*or copy the scans with fetch.copy_scans: true"):
        fetch_part("subset0", part, tmp_path / name, tmp_path)
    fetch_part("subset0", part, tmp_path / name, tmp_path, copy=True)
    assert read_ct(part / "1.1.mhd", (-32768, 32767)).hu.tobytes() == bytes(range(8))


def test_simpleitk_reads_a_link_as_long_as_we_allow(part, tmp_path):
    source = tmp_path
    while (room := 480 - len(os.fsencode(source / "subset0/1.1.raw"))) > 1:
        source /= "d" * min(room - 1, 100)
    write_scan(source / "subset0", "1.1")
    assert len(os.fsencode(source / "subset0/1.1.raw")) in (479, 480)
    fetch_part("subset0", part, source, source)
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(part / "1.1.mhd"))).tobytes() == bytes(range(8))


@pytest.mark.parametrize("place", ["", "labels", "CSVFILES", "evaluationScript/annotations"])
def test_tables_are_found_in_the_folders_that_archives_make(part, user, place):
    (user / place).mkdir(parents=True, exist_ok=True)
    (user / place / "annotations_excluded.csv").write_text("excluded")
    fetch_part("labels", part, user, user)
    assert (part / "annotations_excluded.csv").read_text() == "excluded"


def test_tables_come_from_the_labels_folder_first_and_from_the_scans_folder_else(part, user, tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "annotations.csv").write_text("from labels")
    fetch_part("labels", part, user, labels)
    assert (part / "annotations.csv").read_text() == "from labels"
    assert (part / "candidates.csv").read_text() == "candidates"


def test_two_tables_of_one_name_that_differ_are_refused_and_equal_ones_are_not(part, user):
    for place, text in (("a", "excluded"), ("b", "excluded")):
        (user / place).mkdir()
        (user / place / "annotations_excluded.csv").write_text(text)
    fetch_part("labels", part, user, user)
    (user / "b/annotations_excluded.csv").write_text("another")
    with pytest.raises(InputError, match=r"b/annotations_excluded\.csv: differs from .*a/annotations_excluded\.csv"):
        fetch_part("labels", part, user, user)


@pytest.mark.parametrize(
    ("missing", "columns"),
    [
        ("annotations.csv", r"annotations\.csv \(seriesuid,coordX,coordY,coordZ,diameter_mm, of nodules"),
        ("candidates.csv", r"candidates\.csv or candidates_V2\.csv \(seriesuid,coordX,coordY,coordZ,class, 1 for"),
    ],
)
def test_a_table_that_merging_needs_is_asked_for_by_name_and_columns(part, user, missing, columns):
    (user / missing).unlink()
    with pytest.raises(InputError, match=rf"no {columns}.*fetch\.labels_directory"):
        fetch_part("labels", part, user, user)


def test_either_table_of_candidates_does(part, user):
    (user / "candidates.csv").rename(user / "candidates_V2.csv")
    fetch_part("labels", part, user, user)
    assert (part / "candidates_V2.csv").read_text() == "candidates"


def test_the_real_slabs_are_linked_with_labels_from_another_folder(slabs, tmp_path):
    before = state(slabs)
    for part in ("labels", "subset1", "subset3", "subset9"):
        (tmp_path / part).mkdir()
        fetch_part(part, tmp_path / part, slabs, slabs.parent / "luna16-labels")
    scans = find_scans(tmp_path)
    assert [(scan.subset, read_grid(scan.path).shape_irc[0]) for scan in scans] == [
        ("subset9", 11),
        ("subset1", 16),
        ("subset3", 12),
    ]
    assert len(list((tmp_path / "labels").iterdir())) == 5
    assert state(slabs) == before


@pytest.mark.parametrize("part_name", ["labels", "subset0"])
def test_the_users_files_are_never_in_the_folder_that_gives_way(tmp_path, part_name):
    user = tmp_path / "raw"
    write_scan(user / "subset0", "1.1")
    (user / "labels").mkdir()
    for name in ("annotations.csv", "candidates.csv"):
        (user / "labels" / name).write_text("seriesuid\n")
    staging = user / ".unfinished"
    staging.mkdir()
    with pytest.raises(InputError, match=r"lies in .*, which this stage replaces; move your data"):
        fetch_part(part_name, staging, user, user, replaced=user / part_name)


def test_a_copied_part_stands_on_its_own(part, user):
    before = state(user)
    fetch_part("subset0", part, user, user, copy=True)
    assert state(user) == before
    for path in sorted(user.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert sorted(path.name for path in part.iterdir()) == ["1.1.mhd", "1.1.raw"]
    assert read_ct(part / "1.1.mhd", (-32768, 32767)).hu.tobytes() == bytes(range(8))


def test_a_copy_takes_voxels_of_another_name_and_folder(part, user):
    header = user / "subset0/1.1.mhd"
    (user / "voxels").mkdir()
    (user / "subset0/1.1.raw").rename(user / "voxels/any.raw")
    header.write_text(header.read_text().replace("1.1.raw", "../voxels/any.raw"))
    fetch_part("subset0", part, user, user, copy=True)
    assert raw_path(part / "1.1.mhd") == part / "1.1.raw"
    assert read_ct(part / "1.1.mhd", (-32768, 32767)).hu.tobytes() == bytes(range(8))


def test_a_copy_that_has_no_room_is_refused_before_it_begins(part, user, monkeypatch):
    usage = shutil.disk_usage(user)._replace(free=7)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match=r"needs 8 B, but 7 B are free"):
        fetch_part("subset0", part, user, user, copy=True)
    assert not list(part.iterdir())


@pytest.mark.parametrize("copy", [False, True])
def test_compressed_scans_are_taken_as_they_are(part, tmp_path, copy):
    hu = np.arange(1000, dtype=np.int16).reshape(10, 10, 10)
    write_by_simpleitk(tmp_path / "user/subset0/1.1.mhd", hu, compressed=True)
    fetch_part("subset0", part, tmp_path / "user", tmp_path, copy=copy)
    assert raw_path(part / "1.1.mhd") == (part if copy else tmp_path / "user/subset0") / "1.1.zraw"
    assert read_ct(part / "1.1.mhd", (-32768, 32767)).hu.tolist() == hu.tolist()


@pytest.mark.parametrize(("num_bytes", "wrong"), [(6, "short"), (10, "long")])
@pytest.mark.parametrize("copy", [False, True])
def test_voxels_of_another_size_than_the_header_says_are_refused(part, tmp_path, num_bytes, wrong, copy):
    write_scan(tmp_path / "subset0", "1.1")
    write_scan(tmp_path / "subset0", "1.2", raw_bytes=num_bytes)
    with pytest.raises(InputError, match=rf"1\.2\.raw: too {wrong}: {num_bytes} bytes, its header wants 8"):
        fetch_part("subset0", part, tmp_path, tmp_path, copy=copy)
    assert not list(part.iterdir())


HU = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


@pytest.mark.parametrize("place", ["", "patient/study/series"])
def test_dicom_without_subset_folders_is_subset0(part, tmp_path, place):
    write_series(tmp_path / "user" / place, HU)
    (tmp_path / "user/annotations.csv").write_text("seriesuid\n")
    fetch_part("subset0", part, tmp_path / "user", tmp_path)
    assert read_ct(part / "1.2.3.mhd", (-32768, 32767)).hu.tolist() == HU.tolist()
    with pytest.raises(InputError, match=r"no scans of subset1 \(subset1/\*\.mhd, or DICOM in it\); found: subset0"):
        fetch_part("subset1", part, tmp_path / "user", tmp_path)


@pytest.mark.parametrize("inner", ["", "mine"])
def test_dicom_in_subset_folders_is_of_those_parts(part, tmp_path, inner):
    user = tmp_path / "user"
    write_series(user / inner / "subset0", HU, series_uid="1.0")
    write_series(user / inner / "subset7/patient", HU, series_uid="1.7")
    write_series(user / inner / "elsewhere", HU, series_uid="1.9")
    for subset, uid in (("subset0", "1.0"), ("subset7", "1.7")):
        (part / subset).mkdir()
        fetch_part(subset, part / subset, user, tmp_path)
        assert sorted(path.name for path in (part / subset).iterdir()) == [f"{uid}.mhd", f"{uid}.raw"]


def test_dicom_beside_subset_folders_is_no_part(part, tmp_path):
    write_series(tmp_path / "user/more", HU)
    write_scan(tmp_path / "user/subset3", "1.1")
    with pytest.raises(InputError, match="no scans of subset0 .*; found: subset3;"):
        fetch_part("subset0", part, tmp_path / "user", tmp_path)


def test_a_subset_of_two_formats_is_refused(part, user):
    write_series(user / "subset0/more", HU)
    with pytest.raises(InputError, match=r"subset0: holds \.mhd scans and DICOM files \(in .*/more\); keep one"):
        fetch_part("subset0", part, user, user)


def test_dicom_is_never_in_the_folder_that_gives_way(tmp_path):
    replaced = tmp_path / "raw/subset0"
    write_series(replaced / "patient", HU)
    staging = tmp_path / "raw/.unfinished"
    staging.mkdir()
    for source in (tmp_path, tmp_path / "raw"):
        with pytest.raises(InputError, match=r"lies in .*, which this stage replaces"):
            fetch_part("subset0", staging, source, source, replaced=replaced)
