import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import write_scan

from lunaops.crops import (
    CropCache,
    CropReader,
    Geometry,
    Manifest,
    block_key,
    build_blocks,
    cache_folder,
    digest_of,
    read_manifest,
    write_manifest,
)
from lunaops.errors import InputError

GEOMETRY = Geometry((2, 4, 4), (-1000, 1000), -1000)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two scans of 6 x 6 x 6 voxels of 1 mm; a voxel's HU is its number (scan 2: less one)."""
    hu = np.arange(216).reshape(6, 6, 6)
    write_scan(tmp_path / "raw" / "subset0" / "1.mhd", hu)
    write_scan(tmp_path / "raw" / "subset1" / "2.mhd", hu - 1)
    return tmp_path / "raw"


SCANS = pd.DataFrame({"series_uid": ["1", "2"], "path": ["subset0/1.mhd", "subset1/2.mhd"]})
CANDIDATES = pd.DataFrame({"series_uid": ["2", "1", "1"], "x": [3.0, 3, 0], "y": [3.0, 3, 0], "z": [3.0, 3, 0]})


def build(raw: Path, folder: Path, *, workers: int = 1, geometry: Geometry = GEOMETRY) -> Manifest:
    blocks = build_blocks(SCANS, CANDIDATES, raw=raw, geometry=geometry, folder=folder, workers=workers)
    return Manifest(geometry, tuple(blocks))


def blocks_on_disk(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.val"))


def test_crops_come_in_the_order_of_the_candidates_and_are_centred(tmp_path: Path, raw: Path) -> None:
    manifest = build(raw, tmp_path / "cache")
    block = CropReader(manifest, CANDIDATES, raw, tmp_path / "cache").block("1")
    assert block.shape == (2, 2, 4, 4)
    assert block[0, 1, 2, 2] == 3 * 36 + 3 * 6 + 3
    assert block[1, 1, 2, 2] == 0
    assert block[1, 0, 0, 0] == -1000  # outside the scan


def test_the_manifest_is_the_same_with_any_number_of_workers(tmp_path: Path, raw: Path) -> None:
    assert build(raw, tmp_path / "a") == build(raw, tmp_path / "b", workers=2)


def test_what_is_in_the_cache_is_not_cut_again(tmp_path: Path, raw: Path) -> None:
    first = build(raw, tmp_path / "cache")
    written = {path: path.stat().st_mtime_ns for path in blocks_on_disk(tmp_path / "cache")}
    assert build(raw, tmp_path / "cache") == first
    assert {path: path.stat().st_mtime_ns for path in blocks_on_disk(tmp_path / "cache")} == written


def test_everything_that_the_content_depends_on_is_in_the_key() -> None:
    centers = np.array([[1.0, 2.0, 3.0]])
    keys = {
        block_key("1", "digest", centers, GEOMETRY),
        block_key("2", "digest", centers, GEOMETRY),
        block_key("1", "other", centers, GEOMETRY),
        block_key("1", "digest", centers + 0.1, GEOMETRY),
        block_key("1", "digest", centers, Geometry((2, 4, 5), (-1000, 1000), -1000)),
        block_key("1", "digest", centers, Geometry((2, 4, 4), (-1000, 999), -1000)),
        block_key("1", "digest", centers, Geometry((2, 4, 4), (-1000, 1000), 0)),
    }
    assert len(keys) == 7


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, Path.unlink])
def test_a_damaged_block_is_cut_again_and_said(
    tmp_path: Path, raw: Path, damage, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = build(raw, tmp_path / "cache")
    wanted = CropReader(manifest, CANDIDATES, raw, tmp_path / "cache").block("1").copy()
    for path in blocks_on_disk(tmp_path / "cache"):
        damage(path)
    healed = CropReader(manifest, CANDIDATES, raw, tmp_path / "cache").block("1")
    assert healed.tolist() == wanted.tolist()
    assert "crops of 1 are not in" in caplog.text


def test_a_builder_does_not_trust_a_damaged_block(tmp_path: Path, raw: Path) -> None:
    manifest = build(raw, tmp_path / "cache")
    for path in blocks_on_disk(tmp_path / "cache"):
        flip_a_bit(path)
    assert build(raw, tmp_path / "cache") == manifest


def test_without_cache_and_without_scan_the_command_that_brings_it_is_named(tmp_path: Path, raw: Path) -> None:
    manifest = build(raw, tmp_path / "cache")
    reader = CropReader(manifest, CANDIDATES, tmp_path / "elsewhere", tmp_path / "empty")
    with pytest.raises(
        InputError, match=r"crops of series 2 .*`dvc pull .*subset1`, or `dvc repro fetch-subsets@subset1"
    ):
        reader.block("2")


def test_another_scan_under_the_same_name_is_refused(tmp_path: Path, raw: Path) -> None:
    manifest = build(raw, tmp_path / "cache")
    write_scan(raw / "subset0" / "1.mhd", np.zeros((6, 6, 6)))
    with pytest.raises(InputError, match=r"1\.mhd or its candidates are not those that crops.json was made from"):
        CropReader(manifest, CANDIDATES, raw, tmp_path / "empty").block("1")


def test_a_series_that_the_manifest_lacks_is_named(tmp_path: Path, raw: Path) -> None:
    reader = CropReader(build(raw, tmp_path / "cache"), CANDIDATES, raw, tmp_path / "cache")
    with pytest.raises(InputError, match="crops.json lacks series 3"):
        reader.block("3")


def test_a_reader_in_another_process_opens_its_own_maps(tmp_path: Path, raw: Path) -> None:
    reader = CropReader(build(raw, tmp_path / "cache"), CANDIDATES, raw, tmp_path / "cache")
    reader.block("1")
    sent = pickle.dumps(reader)
    assert len(sent) < 5000  # no crops travel
    assert pickle.loads(sent).block("1").tolist() == reader.block("1").tolist()


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    import diskcache

    with diskcache.Cache(str(tmp_path)) as foreign:
        foreign.set("key", {"a": "pickle"})
    with CropCache(tmp_path) as cache, pytest.raises(InputError, match="holds a pickled entry"):
        cache.get("key", (1, 1, 1, 1))


def test_a_block_is_stored_as_its_bytes_and_no_more(tmp_path: Path, raw: Path) -> None:
    build(raw, tmp_path / "cache")
    assert [path.stat().st_size for path in blocks_on_disk(tmp_path / "cache")] in ([128, 64], [64, 128])


def test_a_scan_without_candidates_has_no_block(tmp_path: Path, raw: Path) -> None:
    only_one = CANDIDATES[CANDIDATES["series_uid"] == "1"]
    blocks = build_blocks(SCANS, only_one, raw=raw, geometry=GEOMETRY, folder=tmp_path / "c", workers=1)
    assert [(block.series_uid, block.crops) for block in blocks] == [("1", 2)]


def test_manifest_comes_back_and_names_no_machine(tmp_path: Path, raw: Path) -> None:
    manifest = build(raw, tmp_path / "cache")
    write_manifest(manifest, tmp_path / "out" / "crops.json")
    assert read_manifest(tmp_path / "out" / "crops.json") == manifest
    text = (tmp_path / "out" / "crops.json").read_text()
    assert str(tmp_path) not in text
    assert '"crops": 3' in text


def test_a_manifest_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "crops.json").write_text("{}")
    with pytest.raises(InputError, match=r"crops\.json: no usable crop manifest"):
        read_manifest(tmp_path / "crops.json")


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LUNAOPS_CACHE_DIR", str(tmp_path / "fast"))
    assert cache_folder() == tmp_path / "fast"
    monkeypatch.delenv("LUNAOPS_CACHE_DIR")
    assert cache_folder().parts[-2:] == ("lunaops", "crops")


def test_a_cache_folder_that_cannot_be_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/cache: no crop cache can be kept there: .*; set LUNAOPS_CACHE_DIR"):
        CropCache(tmp_path / "file" / "cache")


def test_digest_is_that_of_the_bytes() -> None:
    block = np.arange(8, dtype=np.int16).reshape(2, 2, 2, 1)
    assert digest_of(block) == digest_of(block.copy()) != digest_of(block + 1)


def test_healing_is_quiet_where_nothing_is_broken(tmp_path: Path, raw: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = build(raw, tmp_path / "cache")
    with caplog.at_level(logging.INFO):
        CropReader(manifest, CANDIDATES, raw, tmp_path / "cache").block("1")
    assert caplog.text == ""
