import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import write_scan
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from lunaops.ct import Ct, ScanReader, cut_crop, raw_digest, read_ct, read_grid, scan_digest
from lunaops.errors import InputError
from lunaops.geometry import Grid, irc_from_xyz

ANY = (-32768, 32767)
EYE = tuple(map(tuple, np.eye(3)))


def ct_of(hu: np.ndarray) -> Ct:
    return Ct("1.2", hu, Grid(hu.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), EYE))


def crop_of(ct: Ct, center: tuple[float, ...], size: tuple[int, ...]) -> np.ndarray:
    crop = np.full(size, 77, np.int16)
    cut_crop(ct, np.asarray(center), crop, -1000)
    return crop


def test_reads_what_was_written(tmp_path: Path) -> None:
    hu = np.arange(24).reshape(2, 3, 4)
    path = write_scan(tmp_path / "1.2.3.mhd", hu, spacing_xyz=(0.7, 0.8, 2.5), origin_xyz=(-10.0, 20.0, -300.0))
    ct = read_ct(path, ANY)
    assert (ct.series_uid, ct.hu.dtype, ct.hu.tolist()) == ("1.2.3", np.int16, hu.tolist())
    assert ct.grid == Grid((2, 3, 4), (0.7, 0.8, 2.5), (-10.0, 20.0, -300.0), EYE) == read_grid(path)


def test_hu_outside_the_range_are_clipped(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "1.mhd", np.array([[[-3024, -1000, 0, 1000, 3071]]]))
    assert read_ct(path, (-1000, 1000)).hu.ravel().tolist() == [-1000, -1000, 0, 1000, 1000]


NODULES = {  # annotations.csv: those of LUNA16 that lie in the slabs
    "subset1": (56.20840547, 86.34341278, -115.8675792),
    "subset9": (72.28670656, 76.90023946, -190.4589276),
}


@pytest.mark.parametrize("subset", NODULES)
@pytest.mark.parametrize("turn", ["as it is", "flipped", "upside down", "oblique"])
def test_the_annotated_nodule_of_a_real_scan_is_in_the_middle_of_its_crop(
    tmp_path: Path, slabs: Path, subset: str, turn: str
) -> None:
    (path,) = slabs.glob(f"{subset}/*.mhd")
    if turn != "as it is":
        path = _turned(path, tmp_path / "1.mhd", turn, NODULES[subset])
    ct = read_ct(path, (-1000, 1000))
    crop = crop_of(ct, tuple(irc_from_xyz(NODULES[subset], ct.grid)), (8, 32, 32))
    assert crop[3:6, 14:19, 14:19].mean() > 0  # soft tissue
    assert np.percentile(crop[4], 5) < -500  # lung beside it


def _turned(path: Path, target: Path, turn: str, nodule_xyz: tuple[float, float, float]) -> Path:
    """The same scan on another grid, its voxels where they were in the patient."""
    image = sitk.ReadImage(str(path))
    if turn == "oblique":
        direction = Rotation.from_euler("xyz", [20, -15, 30], degrees=True).as_matrix()
        reference = sitk.Image([128, 128, 60], sitk.sitkInt16)
        reference.SetSpacing((0.7, 0.8, 1.5))
        reference.SetDirection(direction.ravel().tolist())
        place = np.array(reference.TransformContinuousIndexToPhysicalPoint([40, 80, 35]))  # the origin being 0
        reference.SetOrigin((np.array(nodule_xyz) - place).tolist())
        image = sitk.Resample(image, reference, sitk.Transform(), sitk.sitkLinear, -1000)
    else:
        image = sitk.Flip(image, [True, True, False] if turn == "flipped" else [False, False, True])
    sitk.WriteImage(image, str(target))
    return target


def test_the_centre_voxel_lies_at_half_the_size() -> None:
    ct = ct_of(np.arange(7**3, dtype=np.int16).reshape(7, 7, 7))
    assert crop_of(ct, (3, 3, 3), (4, 4, 4))[2, 2, 2] == ct.hu[3, 3, 3]
    assert crop_of(ct, (3.4, 2.6, 3), (3, 5, 1))[1, 2, 0] == ct.hu[3, 3, 3]


@given(center=st.tuples(*[st.floats(-12, 12)] * 3), size=st.tuples(*[st.integers(1, 6)] * 3))
def test_a_crop_is_the_window_of_the_scan_in_endless_air(center: tuple[float, ...], size: tuple[int, ...]) -> None:
    ct = ct_of(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    margin = 30
    padded = np.pad(ct.hu, margin, constant_values=-1000)
    start = [int(np.rint(c)) - n // 2 + margin for c, n in zip(center, size, strict=True)]
    wanted = padded[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))]
    np.testing.assert_array_equal(crop_of(ct, center, size), wanted)


def test_digest_changes_with_a_voxel_and_with_the_grid_and_not_with_the_file_name(tmp_path: Path) -> None:
    hu = np.zeros((2, 2, 2))
    other = hu.copy()
    other[1, 1, 1] = 1
    digests = [
        scan_digest(path, raw_digest(path))
        for path in (
            write_scan(tmp_path / "1.mhd", hu),
            write_scan(tmp_path / "2.mhd", hu),
            write_scan(tmp_path / "3.mhd", other),
            write_scan(tmp_path / "4.mhd", hu, origin_xyz=(1.0, 0.0, 0.0)),
        )
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def plain(path: Path) -> None:
    pass


def big_endian(path: Path) -> None:
    path.write_text(path.read_text().replace("MSB = False", "MSB = True"))


def compressed(path: Path) -> None:
    sitk.WriteImage(sitk.ReadImage(str(path)), str(path), useCompression=True)


def after_a_header_in_the_raw(path: Path) -> None:
    raw = path.with_suffix(".raw")
    raw.write_bytes(b"header" + raw.read_bytes())
    path.write_text(path.read_text().replace("ElementType", "HeaderSize = 6\nElementType"))


def at_the_end_of_the_raw(path: Path) -> None:
    after_a_header_in_the_raw(path)
    path.write_text(path.read_text().replace("HeaderSize = 6", "HeaderSize = -1"))


def with_a_field_that_we_do_not_know(path: Path) -> None:
    path.write_text(path.read_text().replace("ElementType", "Modality = MET_MOD_CT\nElementType"))


@pytest.mark.parametrize(
    "store",
    [
        plain,
        big_endian,
        compressed,
        after_a_header_in_the_raw,
        at_the_end_of_the_raw,
        with_a_field_that_we_do_not_know,
    ],
)
def test_voxels_are_those_that_simpleitk_reads_however_they_are_stored(tmp_path: Path, store) -> None:
    path = write_scan(tmp_path / "1.mhd", np.random.default_rng(0).integers(-3024, 3072, (3, 5, 7)))
    store(path)
    wanted = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    reader = ScanReader()
    reader.read(write_scan(tmp_path / "larger.mhd", np.ones((9, 9, 9))))  # what is left of it must not shine through
    ct, digest = reader.read(path)
    np.testing.assert_array_equal(ct.hu, wanted)
    assert digest == raw_digest(path)


def test_voxels_in_the_header_file_are_refused(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "1.mhd", np.zeros((2, 2, 2)))
    path.write_bytes(path.read_bytes().replace(b"1.raw", b"LOCAL") + b"\0" * 16)
    with pytest.raises(InputError, match="ElementDataFile must be the name of one file, got .LOCAL."):
        read_ct(path, ANY)


def test_a_plain_scan_is_read_without_simpleitk_and_into_the_same_memory(tmp_path: Path) -> None:
    reader = ScanReader()
    first, _ = reader.read(write_scan(tmp_path / "1.mhd", np.ones((2, 2, 2))))
    second, _ = reader.read(write_scan(tmp_path / "2.mhd", np.full((2, 2, 1), 2)))
    assert np.shares_memory(first.hu, second.hu)
    assert first.hu.ravel().tolist() == [2, 2, 2, 2, 1, 1, 1, 1]


def test_a_missing_raw_is_named(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "1.2.mhd", np.zeros((2, 2, 2)))
    (tmp_path / "1.2.raw").unlink()
    with pytest.raises(InputError, match=r"1\.2\.mhd: its voxels .*1\.2\.raw are missing"):
        read_grid(path)


def test_a_short_raw_is_named_with_its_bytes(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "1.2.mhd", np.zeros((2, 2, 2)))
    (tmp_path / "1.2.raw").write_bytes(b"\0" * 15)
    with pytest.raises(InputError, match=r"1\.2\.raw: too short: 15 bytes, its header wants 16"):
        read_ct(path, ANY)


def test_a_long_raw_is_not_cut_to_fit(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "1.2.mhd", np.zeros((2, 2, 2)))
    (tmp_path / "1.2.raw").write_bytes(b"\0" * 18)
    with pytest.raises(InputError, match=r"1\.2\.raw: too long: 18 bytes, its header wants 16"):
        read_grid(path)


@pytest.mark.parametrize("size", ["4", "-1"])
def test_bytes_before_the_voxels_are_passed_over_as_the_header_says(tmp_path: Path, size: str) -> None:
    hu = np.arange(8).reshape(2, 2, 2)
    path = write_scan(tmp_path / "1.2.mhd", hu)
    path.write_text(path.read_text().replace("ElementType", f"HeaderSize = {size}\nElementType"))
    (tmp_path / "1.2.raw").write_bytes(b"head" + (tmp_path / "1.2.raw").read_bytes())
    assert read_ct(path, ANY).hu.tolist() == hu.tolist()


@pytest.mark.parametrize("damage", ["other bytes", "one flipped", "of another scan"])
def test_damaged_compressed_voxels_are_refused_and_not_made_up(tmp_path: Path, damage: str) -> None:
    path = write_scan(tmp_path / "1.mhd", np.random.default_rng(0).integers(0, 99, (10, 10, 10)), compressed=True)
    packed = bytearray((tmp_path / "1.zraw").read_bytes())
    packed[len(packed) // 2] ^= 0x55
    others = {"other bytes": b"x" * len(packed), "one flipped": packed, "of another scan": zlib.compress(bytes(1000))}
    (tmp_path / "1.zraw").write_bytes(others[damage])
    path.write_text(re.sub("CompressedDataSize.*\n", "", path.read_text()))
    with pytest.raises(InputError, match=r"1\.zraw: (voxels cannot be read|unpacks to 1000 bytes)"):
        read_ct(path, ANY)


def test_compressed_voxels_are_read_and_held_to_their_size(tmp_path: Path) -> None:
    hu = np.arange(1000).reshape(10, 10, 10)
    path = write_scan(tmp_path / "1.2.mhd", hu, compressed=True)
    assert read_ct(path, ANY).hu.tolist() == hu.tolist()
    packed = tmp_path / "1.2.zraw"
    packed.write_bytes(packed.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"1\.2\.zraw: too short: \d+ bytes, its header wants"):
        read_grid(path)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda text: text.replace("NDims = 3", "NDims = 2"), "mhd: "),
        (lambda text: text.replace("MET_SHORT", "MET_FLOAT"), "wanted ElementType MET_SHORT .* got 'MET_FLOAT'"),
        (lambda text: text.replace("DimSize", "DimSise"), "mhd: "),
        (lambda text: text.replace("Offset", "Offse"), "Offset must be 3 numbers within 1e\\+06 mm, got None"),
        (lambda text: text.replace("Offset = 0", "Offset = nan"), "Offset must be 3 numbers .*, got 'nan 0 0'"),
        (lambda text: text.replace("ElementSpacing = 1", "ElementSpacing = 0"), "ElementSpacing must be 3 positive"),
        (lambda text: text.replace("ElementSpacing = 1", "ElementSpacing = -1"), "ElementSpacing must be 3 positive"),
        (lambda text: text.replace("Matrix = 1 0 0", "Matrix = 0 0 0"), "TransformMatrix is singular"),
        (lambda _: "not a header", "not a readable .mhd header"),
        (lambda _: "", "not a readable .mhd header"),
    ],
)
def test_a_header_that_is_none_is_refused(tmp_path: Path, break_it, message: str) -> None:
    path = write_scan(tmp_path / "1.mhd", np.zeros((2, 2, 2)))
    path.write_text(break_it(path.read_text()))
    with pytest.raises(InputError, match=message):
        read_ct(path, ANY)


def test_a_missing_scan_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"9\.mhd: scan cannot be read: No such file"):
        read_ct(tmp_path / "9.mhd", ANY)
