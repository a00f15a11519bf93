from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import write_scan
from hypothesis import given, settings
from hypothesis import strategies as st

from lunaops.ct import raw_digest, read_ct, read_grid
from lunaops.errors import InputError

ANY = (-32768, 32767)
GOOD = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "-1.5 2 3e1",
    "ElementSpacing": "0.5 0.5 2",
    "DimSize": "2 3 4",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "1.raw",
}


def scan_of(folder: Path, changes: dict[str, str | None], num_bytes: int = 48) -> Path:
    """A scan of 24 voxels whose header is GOOD, changed; None takes a key out."""
    header = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    last = header.pop("ElementDataFile", None)
    lines = [f"{key} = {value}" for key, value in header.items()]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "1.mhd").write_text("\n".join([*lines, *([] if last is None else [f"ElementDataFile = {last}"])]) + "\n")
    (folder / "1.raw").write_bytes(np.arange(num_bytes, dtype=np.uint8).tobytes())
    return folder / "1.mhd"


def test_a_header_is_read_as_simpleitk_reads_it(tmp_path: Path) -> None:
    path = scan_of(tmp_path, {})
    image = sitk.ReadImage(str(path))
    grid = read_grid(path)
    assert grid.shape_irc == (4, 3, 2) == image.GetSize()[::-1]
    assert grid.spacing_xyz == image.GetSpacing() == (0.5, 0.5, 2.0)
    assert grid.origin_xyz == image.GetOrigin() == (-1.5, 2.0, 30.0)
    np.testing.assert_array_equal(read_ct(path, ANY).hu, sitk.GetArrayFromImage(image))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"NDims": "2"}, "NDims must be 3, got '2'"),
        ({"NDims": "4"}, "NDims must be 3, got '4'"),
        ({"NDims": None}, "it lacks NDims"),
        ({"DimSize": None}, "DimSize must be 3 whole numbers from 1 to 65536, got None"),
        ({"DimSize": "2 3"}, "DimSize must be 3 whole numbers .*, got '2 3'"),
        ({"DimSize": "2 3 -4"}, "DimSize must be"),
        ({"DimSize": "2 3 0"}, "DimSize must be"),
        ({"DimSize": "2 3 4.0"}, "DimSize must be"),
        ({"DimSize": "99999 99999 99999"}, "DimSize must be"),
        ({"DimSize": "60000 60000 60000"}, r"1\.raw: too short: 48 bytes, its header wants 432000000000000"),
        ({"DimSize": "60000 60000 60000", "CompressedData": "True"}, r"1\.raw: too short: 48 bytes"),
        ({"HeaderSize": "1"}, r"1\.raw: too short: 48 bytes, its header wants 49"),
        ({"HeaderSize": "-2"}, "HeaderSize must be a whole number"),
        ({"HeaderSize": "1e9"}, "HeaderSize must be a whole number"),
        ({"ElementNumberOfChannels": "3"}, "ElementNumberOfChannels must be 1"),
        ({"BinaryData": "False"}, "BinaryData must be True"),
        ({"CompressedData": "perhaps"}, "CompressedData must be True or False"),
        ({"ElementSpacing": "0.5 0.5 1e308"}, "ElementSpacing must be 3 positive numbers from 0.001 to 1000 mm"),
        ({"ElementSpacing": "1e-300 0.5 1"}, "ElementSpacing must be 3 positive numbers"),
        ({"ElementSpacing": "0,5 0,5 2"}, "ElementSpacing must be 3 positive numbers .*, got '0,5 0,5 2'"),
        ({"Offset": "1 2 1e308"}, "Offset must be 3 numbers"),
        ({"Offset": "1 2 ３"}, "Offset must be 3 numbers"),
        ({"Position": "7 7 7"}, "Offset and Position differ"),
        ({"TransformMatrix": "1 0 0 0 1 0 0 0"}, "TransformMatrix must be 9 numbers from -1 to 1"),
        ({"TransformMatrix": "1 0 0 0 inf 0 0 0 1"}, "TransformMatrix must be 9 numbers"),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "TransformMatrix is singular"),
        ({"ElementDataFile": None}, "it lacks ElementDataFile"),
        ({"ElementDataFile": "LOCAL"}, "ElementDataFile must be the name of one file, got 'LOCAL'"),
        ({"ElementDataFile": "LIST 2"}, "ElementDataFile must be the name of one file"),
        ({"ElementDataFile": "slice%03d.raw 1 4 1"}, "ElementDataFile must be the name of one file"),
        ({"ElementDataFile": ""}, "its voxels .* are missing"),
        ({"ElementDataFile": "."}, "its voxels .* are missing"),
        ({"ElementDataFile": "../1.raw"}, r"its voxels .*1\.raw are missing"),
        ({"ElementDataFile": "x" * 300}, "ElementDataFile is no file name: 'xxx"),
        ({"Comment": "x" * 5000}, "a line of 5010 characters"),
        ({"Comment": "\x1b[2J"}, "it is binary"),
        ({"Comment": "a\nNDims = 3"}, "it says 'NDims' twice"),
    ],
)
def test_a_header_that_would_mislead_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_ct(scan_of(tmp_path, changes), ANY)


def test_what_follows_the_last_key_is_not_read(tmp_path: Path) -> None:
    path = scan_of(tmp_path, {})
    path.write_text(path.read_text() + "Offset = 9 9 9\n")
    assert read_grid(path).origin_xyz == sitk.ReadImage(str(path)).GetOrigin() == (-1.5, 2.0, 30.0)


def test_compressed_voxels_are_read(tmp_path: Path) -> None:
    hu = np.zeros((40, 40, 40), np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(tmp_path / "1.mhd"), useCompression=True)
    assert (tmp_path / "1.zraw").stat().st_size < hu.nbytes / 500
    np.testing.assert_array_equal(read_ct(tmp_path / "1.mhd", ANY).hu, hu)


def test_voxels_may_lie_elsewhere(tmp_path: Path) -> None:
    write_scan(tmp_path / "there" / "1.mhd", np.arange(24).reshape(4, 3, 2))
    for name in ("../there/1.raw", str(tmp_path / "there" / "1.raw")):
        assert read_ct(scan_of(tmp_path / "here", {"ElementDataFile": name}), ANY).hu[3, 2, 1] == 23


words = st.sampled_from(
    ["0", "1", "2", "3", "4", "-1", "1e9", "99999999999999999999", "nan", "inf", "1e308", "1e-308", "True", "x", "",
     "MET_SHORT", "MET_UCHAR", "LOCAL", "LIST", "/", "..", ".", "1.raw", "1.mhd", "%d.raw", "\0", "=", ":"]
)  # fmt: skip
values = (
    st.lists(words, max_size=10).map(" ".join)
    | st.text(max_size=30)
    | st.sampled_from(["x" * 300, "x" * 5000, "x" * 70_000])
)
more_keys = st.sampled_from(
    ["ElementNBits", "ElementNumberOfChannels", "HeaderSize", "Position", "Rotation", "ElementSize",
     "CompressedDataSize", "AnatomicalOrientation", "CenterOfRotation", "ElementByteOrderMSB", "Color", "ID"]
)  # fmt: skip
fields = st.tuples(st.sampled_from(sorted(GOOD)) | more_keys | st.text(max_size=8), values)


@pytest.mark.slow
@settings(max_examples=100)
@given(
    changed=st.lists(fields, max_size=3),
    doubled=st.lists(fields, max_size=1),
    end=st.sampled_from(["\n", "\r\n", "\r", " ", "\n\n"]),
    cut=st.integers(0, 400) | st.none(),
    noise=st.binary(max_size=8),
    num_bytes=st.sampled_from([0, 47, 48, 100]),
)
def test_any_header_gives_a_scan_or_a_clear_line(
    tmp_path_factory: pytest.TempPathFactory, changed, doubled, end, cut, noise, num_bytes
) -> None:
    path = scan_of(tmp_path_factory.getbasetemp() / "header", {}, num_bytes)
    header = {**GOOD, **dict(changed)}
    lines = [f"{key} = {value}" for key, value in [*doubled, *header.items()]]
    text = end.join(lines).encode("utf-8", "surrogatepass")
    path.write_bytes(text[:cut] + noise)
    for read in (read_grid, raw_digest, lambda path: read_ct(path, ANY)):
        try:
            read(path)
        except InputError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 1000


@given(st.binary(max_size=300))
def test_any_bytes_for_a_header_give_a_clear_line(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    path = scan_of(tmp_path_factory.getbasetemp() / "noise", {})
    path.write_bytes(noise)
    with pytest.raises(InputError):
        read_grid(path)
