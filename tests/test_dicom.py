import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import write_series

from lunaops.ct import read_ct, read_grid
from lunaops.errors import InputError
from lunaops.sources.dicom import dicom_folders, write_scans

ANY = (-32768, 32767)
HU = np.arange(60, dtype=np.int16).reshape(5, 3, 4)
OBLIQUE = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
DIRECTIONS = {
    "axial": np.eye(3),
    "feet first": np.diag([-1.0, 1.0, -1.0]),
    "coronal": np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], float),
    "sagittal": np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]], float),
    "oblique": OBLIQUE,
}


@pytest.fixture
def part(tmp_path: Path) -> Path:
    (tmp_path / "subset0").mkdir()
    return tmp_path / "subset0"


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
def test_the_real_series_is_the_scan_that_simpleitk_reads(dicom_lung: Path, part: Path) -> None:
    write_scans(dicom_lung, part, workers=1)
    (path,) = part.glob("*.mhd")
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(dicom_lung))
    wanted, got = sitk.ReadImage(files), sitk.ReadImage(str(path))
    assert path.stem == sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(dicom_lung))[0]
    assert got.GetSpacing() == wanted.GetSpacing() == (0.564453125, 0.564453125, 3.0)
    assert got.GetOrigin() == wanted.GetOrigin()
    assert got.GetDirection() == wanted.GetDirection()
    hu = read_ct(path, ANY).hu
    assert np.array_equal(hu, sitk.GetArrayViewFromImage(wanted))
    assert -1020 < np.median(hu[85, 40:55, 20:100]) < -940  # air before the neck
    assert -950 < np.median(hu[50, 150:250, 100:140]) < -750  # right lung
    assert 20 < np.median(hu[50, 320:350, 240:255]) < 400  # a vertebra
    assert path.with_suffix(".raw").stat().st_size == 2 * hu.size


@pytest.mark.slow
def test_shuffled_file_names_and_folders_give_the_same_bytes(dicom_lung: Path, part: Path, tmp_path: Path) -> None:
    files = sorted(dicom_lung.iterdir(), key=read_place)[30:70]
    for name, order in (("a", range(40)), ("b", np.random.default_rng(3).permutation(40))):
        for place, number in enumerate(order):
            target = tmp_path / name / (f"sub{place % 3}/IM{place:04d}" if name == "b" else f"{place}.dcm")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(files[number])
    for name in ("a", "b"):
        (part / name).mkdir()
        write_scans(tmp_path / name, part / name, workers=1)
    assert bytes_in(part / "a") == bytes_in(part / "b")


def read_place(path: Path) -> float:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return float(reader.GetOrigin()[2])


def test_the_real_series_with_a_slice_missing_is_refused(dicom_lung: Path, part: Path, tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    by_place = sorted(dicom_lung.iterdir(), key=read_place)
    gone = by_place[50]
    for path in by_place:
        if path != gone:
            (tmp_path / "user" / path.name).symlink_to(path)
    with pytest.raises(InputError, match=rf"1 slice\(s\) are missing.* {by_place[49].name} and {by_place[51].name}"):
        write_scans(tmp_path / "user", part, workers=1)
    assert not list(part.iterdir())


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("backwards", [False, True])
def test_a_series_of_any_orientation_lies_in_the_patient_as_it_was_written(part, tmp_path, direction, backwards):
    write_series(tmp_path / "user", HU, direction=direction)
    if backwards:
        files = sorted((tmp_path / "user").iterdir())
        for path, name in zip(files, reversed(files), strict=True):
            path.rename(name.with_suffix(".ima"))
    write_scans(tmp_path / "user", part, workers=1)
    ct = read_ct(part / "1.2.3.mhd", ANY)
    assert ct.hu.tolist() == HU.tolist()
    assert ct.grid.spacing_xyz == pytest.approx((0.5, 0.7, 2.0))
    assert ct.grid.origin_xyz == (-10, 20, -300)
    np.testing.assert_allclose(ct.grid.direction, direction, atol=1e-7)


@pytest.mark.parametrize(
    ("hu", "slope", "intercept", "wanted"),
    [
        ([[-1024, 0, 1000]], 1, -1024, [-1024, 0, 1000]),
        ([[-1000.0, 1.5, 3071.0]], 0.5, -1024.5, [-1000, 2, 3071]),
        ([[-1000.0, 32600.0, 50000.0, -40000.0]], 4, -1000, [-1000, 32600, 32767, -32768]),
    ],
)
def test_rescale_makes_whole_hu_within_int16(part, tmp_path, caplog, hu, slope, intercept, wanted):
    pixels = np.array([hu, hu], np.float64 if slope != 1 else np.int16)
    write_series(tmp_path / "user", pixels, slope=slope, intercept=intercept)
    write_scans(tmp_path / "user", part, workers=1)
    assert read_ct(part / "1.2.3.mhd", ANY).hu.tolist() == [[wanted], [wanted]]
    assert ("4 voxels beyond -32768 ... 32767 HU were clipped" in caplog.text) == (slope == 4)


def test_slices_with_rescales_of_their_own_keep_their_hu(part, tmp_path):
    """SimpleITK's series reader gives all the first one's type and cuts off the rest (its issue 1636)."""
    write_series(tmp_path / "whole", np.full((1, 2, 2), 7, np.int16))
    (half,) = write_series(
        tmp_path / "half", np.full((1, 2, 2), 700.5), slope=0.5, intercept=-1000, origin_xyz=(-10.0, 20.0, -298.0)
    )
    half.rename(tmp_path / "whole/half.dcm")
    write_scans(tmp_path / "whole", part, workers=1)
    assert read_ct(part / "1.2.3.mhd", ANY).hu[:, 0, 0].tolist() == [7, 700]


def test_two_series_in_one_folder_and_one_series_in_two_folders(part, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write_series(tmp_path / "user", HU, series_uid="1.1")
    files = write_series(tmp_path / "user", -HU, series_uid="1.2", origin_xyz=(0.0, 0.0, 9.0))
    (tmp_path / "user/deeper").mkdir()
    for path in files[::2]:
        path.rename(tmp_path / "user/deeper" / path.stem)
    write_scans(tmp_path / "user", part, workers=1)
    assert [path.name for path in sorted(part.iterdir())] == ["1.1.mhd", "1.1.raw", "1.2.mhd", "1.2.raw"]
    assert read_ct(part / "1.2.mhd", ANY).hu.tolist() == (-HU).tolist()
    assert "wrote 2 scans out of 10 DICOM slices" in caplog.text


@pytest.mark.slow
def test_many_processes_write_what_one_does(part, tmp_path):
    for number in range(5):
        write_series(tmp_path / "user", HU + number, series_uid=f"1.{number}")
    for name, workers in (("one", 1), ("many", 3)):
        (part / name).mkdir()
        write_scans(tmp_path / "user", part / name, workers)
    assert len(bytes_in(part / "one")) == 10
    assert bytes_in(part / "one") == bytes_in(part / "many")


def test_what_is_no_ct_volume_is_left_out_and_said(part, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    user = tmp_path / "user"
    write_series(user, HU)
    write_series(user, HU[:1], series_uid="1.4")
    write_series(user, HU[:2], series_uid="1.5", x0008_0008="ORIGINAL\\PRIMARY\\LOCALIZER")
    write_series(user, HU[:2], series_uid="1.6", x0008_0060="MR")
    (user / "LICENSE").write_text("free")
    (user / "1.2.3.xml").write_text("<LidcReadMessage/>")
    (user / ".1.2.3-000.dcm").write_text("of a Mac")
    (user / "DICOMDIR").write_bytes(with_class(user / "1.2.3-000.dcm", b"1.2.840.10008.1.3.10\0"))
    write_scans(user, part, workers=1)
    assert [path.name for path in sorted(part.iterdir())] == ["1.2.3.mhd", "1.2.3.raw"]
    for count, kind, example in [
        (1, "series of one slice", "1.4-000.dcm"),
        (2, "localizer", "1.5-000.dcm"),
        (2, "SOP class 1.2.840.10008.5.1.4.1.1.4", "1.6-000.dcm"),
        (1, "SOP class 1.2.840.10008.1.3.10", "DICOMDIR"),
        (2, "no DICOM file", "1.2.3.xml"),
    ]:
        assert f"left out {count} of kind '{kind}', as {user / example}" in caplog.text


def with_class(path: Path, sop_class: bytes) -> bytes:
    """The file's bytes as another kind of object, of as long an id."""
    head, found, rest = path.read_bytes().partition(b"1.2.840.10008.5.1.4.1.1.2\0")
    assert found
    return head + sop_class.ljust(len(found), b"\0") + rest


def test_a_localizer_among_the_slices_of_its_series_is_left_out(part, tmp_path):
    write_series(tmp_path / "user", HU)
    write_series(
        tmp_path / "user/scout", HU[:1], direction=DIRECTIONS["coronal"], x0008_0008="DERIVED\\SECONDARY\\LOCALIZER"
    )
    write_scans(tmp_path / "user", part, workers=1)
    assert read_grid(part / "1.2.3.mhd").shape_irc == (5, 3, 4)


def test_several_series_of_a_patient_are_warned_about_without_a_name(part, tmp_path, caplog):
    for uid, patient in (("1.1", "Smith"), ("1.2", "Smith"), ("1.3", "Jones"), ("1.4", ""), ("1.5", "")):
        write_series(tmp_path / "user", HU, series_uid=uid, x0010_0020=patient)
    write_scans(tmp_path / "user", part, workers=1)
    assert "patients with several series: 1;" in caplog.text
    assert "Smith" not in caplog.text


def edit(path: Path, tag: tuple[int, int], value: str | None) -> None:
    """Give a tag, which the file (implicit, little-endian) has, another value; None: take it out."""
    content = path.read_bytes()
    element = b"".join(number.to_bytes(2, "little") for number in tag)
    at = content.index(element, content.index(b"\x08\x00\x08\x00"))
    end = at + 8 + int.from_bytes(content[at + 4 : at + 8], "little")
    if value is not None:
        text = value.encode() + b" " * (len(value) % 2)
        element += len(text).to_bytes(4, "little") + text
    path.write_bytes(content[:at] + (element if value is not None else b"") + content[end:])


@pytest.mark.parametrize(
    ("tag", "value", "message"),
    [
        ((0x20, 0x0E), "../1", r"SeriesInstanceUID '\.\./1' has no place in a file name"),
        ((0x20, 0x32), "1\\2", r"ImagePositionPatient \(0020,0032\) must be 3 number\(s\), got '1\\\\2'"),
        ((0x20, 0x32), "1\\2\\up", r"ImagePositionPatient \(0020,0032\) must be 3 number"),
        ((0x20, 0x37), "1\\0\\0\\1\\0\\0", r"ImageOrientationPatient must be two unit vectors at right angles"),
        ((0x28, 0x30), "0\\0.7", r"PixelSpacing must be positive, got \(0\.0, 0\.7\)"),
        ((0x28, 0x1054), "OD", r"RescaleType is 'OD', wanted HU"),
        ((0x20, 0x0E), None, r"lacks SeriesInstanceUID \(0020,000e\), which a CT image must have"),
        ((0x20, 0x32), None, r"lacks ImagePositionPatient"),
        ((0x20, 0x37), None, r"lacks ImageOrientationPatient"),
        ((0x28, 0x30), None, r"lacks PixelSpacing"),
        ((0x28, 0x1053), "0.0", r"RescaleSlope \(0028,1053\) is 0, which makes no HU"),
        ((0x28, 0x1053), "1_0", r"RescaleSlope \(0028,1053\) must be 1 number\(s\), got '1_0'"),
        ((0x28, 0x1052), None, r"lacks RescaleIntercept"),
        ((0x28, 0x1053), None, r"lacks RescaleSlope"),
    ],
)
def test_a_tag_that_makes_no_scan_is_named_and_a_missing_one_not_guessed(part, tmp_path, tag, value, message):
    path, _ = write_series(tmp_path / "user", HU[:2])
    edit(path, tag, value)
    with pytest.raises(InputError, match=rf"1\.2\.3-000\.dcm: .*{message}"):
        write_scans(tmp_path / "user", part, workers=1)


def test_many_frames_in_a_file_are_refused(part, tmp_path):
    (path,) = write_series(tmp_path / "user", HU[:1])
    content = path.read_bytes()
    at = content.index(b"\x28\x00\x10\x00")  # its frames are said before its rows
    path.write_bytes(content[:at] + b"\x28\x00\x08\x00\x02\x00\x00\x002 " + content[at:] + bytes(24))
    with pytest.raises(InputError, match=r"1\.2\.3-000\.dcm: many slices in one file \(multi-frame\)"):
        write_scans(tmp_path / "user", part, workers=1)


def test_an_enhanced_ct_is_refused(part, tmp_path):
    path, _ = write_series(tmp_path / "user", HU[:2])
    content = path.read_bytes()
    at = content.index(b"1.2.840.10008.5.1.4.1.1.2\0")  # the meta group's; two bytes longer
    path.write_bytes(content[: at - 2] + b"\x1c\0" + b"1.2.840.10008.5.1.4.1.1.2.1\0" + content[at + 26 :])
    with pytest.raises(InputError, match=r"many slices in one file \(enhanced CT\)"):
        write_scans(tmp_path / "user", part, workers=1)


@pytest.mark.parametrize("kept", [0, 100, 200, 600])
def test_a_file_that_was_cut_off_is_named(part, tmp_path, kept):
    path, *_ = write_series(tmp_path / "user", HU)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"1\.2\.3-000\.dcm: not a whole DICOM image"):
        write_scans(tmp_path / "user", part, workers=1)


def with_pixels(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Give the file (implicit, little-endian) other PixelData, of the length that it says."""
    content = path.read_bytes()
    at = content.rindex(b"\xe0\x7f\x10\x00")
    pixels = change(content[at + 8 :])
    path.write_bytes(content[: at + 4] + len(pixels).to_bytes(4, "little") + pixels)


@pytest.mark.parametrize(
    ("change", "got"),
    [(lambda pixels: pixels[:-2], 22), (lambda pixels: pixels + b"ab", 26), (lambda pixels: b"", 0)],
)
def test_pixels_that_are_fewer_or_more_than_the_tags_want_are_refused(part, tmp_path, change, got):
    """GDCM fills up what is missing with whatever was in memory."""
    path, *_ = write_series(tmp_path / "user", HU)
    with_pixels(path, change)
    with pytest.raises(InputError, match=rf"000\.dcm: its PixelData has {got} bytes, wanted 24 for 3 x 4 of 16 bits"):
        write_scans(tmp_path / "user", part, workers=1)
    assert not list(part.iterdir())


def test_pixels_that_were_cut_off_are_counted(part, tmp_path):
    path, *_ = write_series(tmp_path / "user", HU)
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(InputError, match=r"000\.dcm: (its PixelData has 18 bytes|not a whole DICOM image)"):
        write_scans(tmp_path / "user", part, workers=1)


@pytest.mark.parametrize(
    ("side", "message"), [(65535, "has 65535 x 65535 voxels, 8192 a side at most"), (8192, "wanted 134217728")]
)
def test_sides_that_no_file_of_this_size_can_have_are_refused(part, tmp_path, side, message):
    for path in write_series(tmp_path / "user", HU):
        content = path.read_bytes()
        for tag, was in ((b"\x28\x00\x10\x00", 3), (b"\x28\x00\x11\x00", 4)):
            element = tag + b"\2\0\0\0"
            assert element + bytes([was, 0]) in content
            content = content.replace(element + bytes([was, 0]), element + side.to_bytes(2, "little"))
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        write_scans(tmp_path / "user", part, workers=1)


def test_one_byte_of_padding_is_no_pixel(part, tmp_path):
    odd = np.arange(18, dtype=np.int8).reshape(2, 3, 3)
    tags = {"x0028_0100": "8", "x0028_0101": "8", "x0028_0102": "7"}
    path, _ = write_series(tmp_path / "user", odd, **tags)
    assert path.read_bytes()[-14:-10] == (10).to_bytes(4, "little")
    write_scans(tmp_path / "user", part, workers=1)
    assert read_ct(part / "1.2.3.mhd", ANY).hu.tolist() == odd.tolist()


@pytest.fixture
def packed(tmp_path: Path) -> list[Path]:
    """A series in JPEG 2000, of 16 by 16: SimpleITK fails to pack smaller images."""
    return write_series(tmp_path / "user", np.arange(768, dtype=np.int16).reshape(3, 16, 16), compressed=True)


def test_compressed_voxels_are_unpacked(part, packed):
    write_scans(packed[0].parent, part, workers=1)
    assert read_ct(part / "1.2.3.mhd", ANY).hu.ravel().tolist() == list(range(768))


def test_voxels_that_cannot_be_decoded_are_named(part, packed):
    content = packed[1].read_bytes()
    at = content.index(b"\xff\x4f\xff\x51")  # the start of the codestream
    packed[1].write_bytes(content[:at] + bytes(40) + content[at + 40 :])
    with pytest.raises(InputError, match=r"1\.2\.3-001\.dcm: its voxels cannot be decoded; decompress it"):
        write_scans(packed[0].parent, part, workers=1)


@pytest.mark.parametrize("name", ["old.dcm", "OLD.IMA"])
def test_a_file_that_begins_without_dicm_is_known_by_its_name(part, tmp_path, name):
    for path in write_series(tmp_path / "user", HU):
        path.with_name(f"{path.stem}-{name}").write_bytes(path.read_bytes()[132:])
        path.unlink()
    write_scans(tmp_path / "user", part, workers=1)
    assert read_ct(part / "1.2.3.mhd", ANY).hu.tolist() == HU.tolist()


def test_all_problems_of_all_series_are_said_at_once(part, tmp_path, caplog):
    for uid in ("1.1", "1.2"):
        write_series(tmp_path / "user", HU, series_uid=uid)[2].unlink()
    write_series(tmp_path / "user", HU, series_uid="1.3")
    with pytest.raises(InputError, match=r"^2 problems, all listed above; the first: series 1\.1: 1 slice"):
        write_scans(tmp_path / "user", part, workers=1)
    assert "series 1.2: 1 slice(s) are missing" in caplog.text
    assert not list(part.iterdir())


def test_a_folder_without_any_series_is_refused(part, tmp_path):
    write_series(tmp_path / "user", HU[:1])
    with pytest.raises(InputError, match=r"user: no CT series of two slices or more; mend fetch\.directory"):
        write_scans(tmp_path / "user", part, workers=1)


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(part, tmp_path, monkeypatch):
    write_series(tmp_path / "user", HU)
    usage = shutil.disk_usage(tmp_path)._replace(free=2 * HU.size - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match=r"subset0: needs 120 B"):
        write_scans(tmp_path / "user", part, workers=1)
    assert not list(part.iterdir())


def test_links_to_folders_are_followed_once(part, tmp_path):
    write_series(tmp_path / "archive/patient", HU)
    (tmp_path / "archive/patient/self").symlink_to(tmp_path / "archive/patient")
    (tmp_path / "user").mkdir()
    (tmp_path / "user/patient").symlink_to(tmp_path / "archive/patient")
    assert list(dicom_folders(tmp_path / "user")) == [tmp_path / "user/patient"]
    write_scans(tmp_path / "user", part, workers=1)
    assert read_grid(part / "1.2.3.mhd").shape_irc == (5, 3, 4)


def test_a_link_that_leads_nowhere_is_named(part, tmp_path):
    write_series(tmp_path / "user", HU)
    (tmp_path / "user/IM0009").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match=r"IM0009: cannot be read: No such file"):
        write_scans(tmp_path / "user", part, workers=1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_may_not_be_read_is_named(part, tmp_path):
    write_series(tmp_path / "user", HU)
    (tmp_path / "user/closed").mkdir(mode=0)
    with pytest.raises(InputError, match="closed: cannot be read: Permission denied"):
        write_scans(tmp_path / "user", part, workers=1)
