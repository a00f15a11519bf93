from pathlib import Path

import pytest

from lunaops.errors import InputError
from lunaops.subsets import LUNA16, PARTS, ScanFile, find_scans


def write_scan(folder: Path, series_uid: str, *, raw: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{series_uid}.mhd"
    grid = "NDims = 3\nDimSize = 2 2 1\nOffset = 0 0 0\nElementSpacing = 1 1 1\n"
    path.write_text(f"{grid}ElementType = MET_SHORT\nElementDataFile = {series_uid}.raw\n")
    if raw:
        path.with_suffix(".raw").write_bytes(bytes(8))
    return path


def test_scans_of_all_subsets_come_sorted_by_series_and_ids_stay_text(tmp_path):
    b = write_scan(tmp_path / "subset0", "1.3.6.2")
    text = write_scan(tmp_path / "subset9", "056")
    a = write_scan(tmp_path / "subset9", "1.3.6.1")
    assert find_scans(tmp_path) == [
        ScanFile("056", "subset9", text),
        ScanFile("1.3.6.1", "subset9", a),
        ScanFile("1.3.6.2", "subset0", b),
    ]


def test_56_and_056_are_two_series(tmp_path):
    write_scan(tmp_path / "subset0", "056")
    write_scan(tmp_path / "subset1", "56")
    assert [scan.series_uid for scan in find_scans(tmp_path)] == ["056", "56"]


def test_what_is_no_subset_is_not_searched(tmp_path):
    write_scan(tmp_path / "subset0", "1.1")
    write_scan(tmp_path / "archives", "1.2")
    write_scan(tmp_path / ".subset1.unfinished", "1.3")
    assert [scan.series_uid for scan in find_scans(tmp_path)] == ["1.1"]


def test_the_shadow_files_of_macos_are_no_scans(tmp_path):
    write_scan(tmp_path / "subset0", "1.1")
    (tmp_path / "subset0" / "._1.1.mhd").write_bytes(b"\0\5\x16\7")
    assert len(find_scans(tmp_path)) == 1


@pytest.mark.parametrize("folder", ["raw", "raw/subset0"])
def test_a_source_directory_without_scans_is_refused(tmp_path, folder):
    (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(InputError, match="source directory without scans"):
        find_scans(tmp_path / "raw")


def test_a_series_in_two_subsets_is_refused_by_name(tmp_path):
    write_scan(tmp_path / "subset0", "1.1")
    write_scan(tmp_path / "subset3", "1.1")
    with pytest.raises(InputError, match=r"subset3/1\.1\.mhd: series 1\.1 is also in subset0"):
        find_scans(tmp_path)


def test_a_header_without_its_voxels_is_refused_with_the_command_that_brings_them(tmp_path):
    write_scan(tmp_path / "subset2", "1.1", raw=False)
    with pytest.raises(InputError, match=r"1\.1\.raw is missing; .*dvc repro -f fetch-subsets@subset2"):
        find_scans(tmp_path)


def test_voxels_may_lie_elsewhere(tmp_path):
    path = write_scan(tmp_path / "subset2", "1.1", raw=False)
    elsewhere = tmp_path / "user's folder" / "1.1.raw"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(bytes(8))
    path.write_text(path.read_text().replace("1.1.raw", str(elsewhere)))
    assert find_scans(tmp_path)[0].path == path


@pytest.mark.parametrize("series_uid", ["1.2 3", "a:b", "1..2", "é.1", "1" * 65, "1.2\n3"])
def test_a_series_id_that_has_no_place_in_a_file_name_is_refused(tmp_path, series_uid):
    write_scan(tmp_path / "subset0", series_uid)
    with pytest.raises(InputError, match="has no place in a file name"):
        find_scans(tmp_path)


def test_every_part_of_luna16_has_its_files():
    assert tuple(LUNA16) == PARTS
    assert [file.name for part in PARTS[1:] for file in LUNA16[part]] == [f"{part}.zip" for part in PARTS[1:]]


def test_the_ten_archives_are_the_66_gigabytes_of_the_two_records():
    archives = [LUNA16[part][0] for part in PARTS[1:]]
    assert round(sum(file.size for file in archives) / 1e9, 1) == 66.3
    assert {file.record for file in archives[:7]} == {3723295}
    assert {file.record for file in archives[7:]} == {4121926}
    assert len({file.md5 for file in archives}) == 10
