import os
import stat
from pathlib import Path

import pytest
import SimpleITK as sitk

from lunaops.ct import raw_path, read_ct, read_grid
from lunaops.errors import InputError
from lunaops.sources.directory import find_subset, link_part
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
    link_part("subset0", part, tmp_path / "user's folder", tmp_path)
    assert read_grid(part / "1.1.mhd") == read_grid(mine)
    assert read_ct(part / "1.1.mhd", (-32768, 32767)).hu.tobytes() == bytes(range(8))


def test_only_small_headers_are_written_and_the_user_s_files_stay_as_they_are(part, user):
    before = state(user)
    link_part("subset0", part, user, user)
    assert [path.name for path in part.iterdir()] == ["1.1.mhd"]
    link_part("labels", part, user, user)
    assert state(user) == before


def test_the_tables_are_copies_that_may_be_protected_without_touching_the_user_s(part, user):
    link_part("labels", part, user, user)
    assert {path.name for path in part.iterdir()} == {"annotations.csv", "candidates.csv"}
    assert (part / "annotations.csv").read_bytes() == b"seriesuid\r\n1.1\r\n"
    assert not any(path.samefile(user / path.name) for path in part.iterdir())


def test_a_read_only_folder_serves(part, user):
    for path in sorted(user.rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    link_part("subset0", part, user, user)
    link_part("labels", part, user, user)
    assert (part / "annotations.csv").stat().st_mode & stat.S_IWUSR


@pytest.mark.parametrize("written", ["~", "."])
def test_a_folder_given_from_home_or_from_here_is_linked_by_its_whole_path(part, tmp_path, written, monkeypatch):
    mine = write_scan(tmp_path / "subset0", "1.1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    link_part("subset0", part, Path(written), Path(written))
    assert raw_path(part / "1.1.mhd") == mine.with_suffix(".raw")


def test_a_path_with_letters_beyond_ascii_is_found_again(part, user):
    link_part("subset0", part, user, user)
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
        link_part("subset3", part, user, user)


def test_a_folder_without_any_scan_is_refused(part, tmp_path):
    with pytest.raises(InputError, match="found: no subset at all"):
        link_part("subset0", part, tmp_path, tmp_path)


def test_a_folder_that_does_not_exist_is_refused_by_its_parameter(part, user):
    with pytest.raises(InputError, match=r"nowhere: no such folder; mend fetch\.directory"):
        link_part("subset0", part, user / "nowhere", user)
    with pytest.raises(InputError, match=r"nowhere: no such folder; mend fetch\.directory"):
        link_part("labels", part, user / "nowhere", user / "nowhere")
    with pytest.raises(InputError, match=r"nowhere: no such folder; mend fetch\.labels_directory"):
        link_part("labels", part, user, user / "nowhere")


def test_voxels_that_are_missing_are_refused_before_anything_is_linked(part, user):
    (user / "subset0/1.1.raw").unlink()
    with pytest.raises(InputError, match=r"1\.1\.raw.* missing"):
        link_part("subset0", part, user, user)
    assert not list(part.iterdir())


def test_voxels_that_are_too_short_are_refused(part, user):
    write_scan(user / "subset0", "1.2", raw_bytes=7)
    with pytest.raises(InputError, match=r"1\.2\.raw: too short: 7 bytes, its header wants 8"):
        link_part("subset0", part, user, user)


def test_a_series_id_that_cannot_name_a_file_is_refused(part, user):
    write_scan(user / "subset0", "patient one")
    with pytest.raises(InputError, match="'patient one' has no place in a file name"):
        link_part("subset0", part, user, user)


@pytest.mark.parametrize("name", ["50% of LUNA16", "/".join(["d" * 100] * 5)])
def test_a_path_that_the_reader_would_misread_is_refused(part, tmp_path, name):
    write_scan(tmp_path / name / "subset0", "1.1")
    with pytest.raises(InputError, match="MetaImage cannot link"):
        link_part("subset0", part, tmp_path / name, tmp_path)


def test_simpleitk_reads_a_link_as_long_as_we_allow(part, tmp_path):
    source = tmp_path
    while (room := 480 - len(os.fsencode(source / "subset0/1.1.raw"))) > 1:
        source /= "d" * min(room - 1, 100)
    write_scan(source / "subset0", "1.1")
    assert len(os.fsencode(source / "subset0/1.1.raw")) in (479, 480)
    link_part("subset0", part, source, source)
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(part / "1.1.mhd"))).tobytes() == bytes(range(8))


@pytest.mark.parametrize("place", ["", "labels", "CSVFILES", "evaluationScript/annotations"])
def test_tables_are_found_in_the_folders_that_archives_make(part, user, place):
    (user / place).mkdir(parents=True, exist_ok=True)
    (user / place / "annotations_excluded.csv").write_text("excluded")
    link_part("labels", part, user, user)
    assert (part / "annotations_excluded.csv").read_text() == "excluded"


def test_tables_come_from_the_labels_folder_first_and_from_the_scans_folder_else(part, user, tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "annotations.csv").write_text("from labels")
    link_part("labels", part, user, labels)
    assert (part / "annotations.csv").read_text() == "from labels"
    assert (part / "candidates.csv").read_text() == "candidates"


def test_two_tables_of_one_name_that_differ_are_refused_and_equal_ones_are_not(part, user):
    for place, text in (("a", "excluded"), ("b", "excluded")):
        (user / place).mkdir()
        (user / place / "annotations_excluded.csv").write_text(text)
    link_part("labels", part, user, user)
    (user / "b/annotations_excluded.csv").write_text("another")
    with pytest.raises(InputError, match=r"b/annotations_excluded\.csv: differs from .*a/annotations_excluded\.csv"):
        link_part("labels", part, user, user)


@pytest.mark.parametrize("missing", ["annotations.csv", "candidates.csv"])
def test_a_table_that_merging_needs_is_asked_for_by_name(part, user, missing):
    (user / missing).unlink()
    with pytest.raises(InputError, match=rf"no {missing}.*fetch\.labels_directory"):
        link_part("labels", part, user, user)


def test_either_table_of_candidates_does(part, user):
    (user / "candidates.csv").rename(user / "candidates_V2.csv")
    link_part("labels", part, user, user)
    assert (part / "candidates_V2.csv").read_text() == "candidates"


def test_the_real_slabs_are_linked_with_labels_from_another_folder(slabs, tmp_path):
    before = state(slabs)
    for part in ("labels", "subset1", "subset3", "subset9"):
        (tmp_path / part).mkdir()
        link_part(part, tmp_path / part, slabs, slabs.parent / "luna16-labels")
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
    with pytest.raises(InputError, match=r"lies in .*, which this stage replaces; move your LUNA16"):
        link_part(part_name, staging, user, user, replaced=user / part_name)
