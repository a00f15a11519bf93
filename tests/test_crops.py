import logging
import os
import pickle
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from conftest import write_scan
from cropping import CANDIDATES, GEOMETRY, blocks_on_disk, build, crops_of, flip_a_bit, write_raw

from lunaops.crop_store import CropCache
from lunaops.crops import (
    Block,
    CropReader,
    Geometry,
    Manifest,
    block_key,
    cut_crops,
    read_manifest,
    write_manifest,
)
from lunaops.ct import Ct
from lunaops.errors import InputError
from lunaops.geometry import Grid


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_raw(tmp_path / "raw")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def manifest(raw: Path, cache: Path) -> Manifest:
    return build(raw, cache)


def reader_of(manifest: Manifest, raw: Path, cache: Path) -> CropReader:
    return CropReader(manifest, CANDIDATES, raw, cache)


def test_crops_come_in_the_order_of_the_candidates_and_are_centred(manifest: Manifest, raw: Path, cache: Path) -> None:
    reader = reader_of(manifest, raw, cache)
    first, second = reader.crop("1", 0), reader.crop("1", 1)
    assert first.shape == (2, 4, 4)
    assert first[1, 2, 2] == 3 * 36 + 3 * 6 + 3
    assert second[1, 2, 2] == 0
    assert second[0, 0, 0] == -1000  # outside the scan


def test_crops_are_clipped_and_cut_in_chunks_that_share_their_memory() -> None:
    hu = np.array([-3000, -1000, 0, 1000, 3000], np.int16).reshape(1, 1, 5)
    ct = Ct("1", hu, Grid((1, 1, 5), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(map(tuple, np.eye(3)))))
    centers_xyz = np.array([[column, 0.0, 0.0] for column in range(5)])
    large = Geometry((1, 512, 512), (-1000, 1000), -1000)  # two of them are a chunk
    chunks = [(len(chunk), chunk[:, 0, 256, 256].tolist()) for chunk in cut_crops(ct, centers_xyz, large)]
    assert chunks == [(2, [-1000, -1000]), (2, [0, 1000]), (1, [1000])]


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


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, Path.unlink])
def test_a_damaged_block_is_cut_again_and_said(
    manifest: Manifest, raw: Path, cache: Path, damage, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = crops_of(reader_of(manifest, raw, cache), "1")
    for path in blocks_on_disk(cache):
        damage(path)
    assert crops_of(reader_of(manifest, raw, cache), "1") == wanted
    assert "crops of 1 in" in caplog.text
    caplog.clear()
    assert crops_of(reader_of(manifest, raw, cache), "1") == wanted
    assert caplog.text == ""


def test_a_crop_is_held_against_its_digest_when_it_is_first_read_and_not_its_neighbours(
    manifest: Manifest, raw: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reader = reader_of(manifest, raw, cache)
    reader.crop("1", 1)
    (block,) = (path for path in blocks_on_disk(cache) if path.stat().st_size == 128)
    flip_a_bit(block)  # in the crop at row 0
    reader.crop("1", 1)
    assert caplog.text == ""
    assert reader.crop("1", 0)[1, 2, 2] == 129
    assert "crops of 1 in" in caplog.text


def test_what_another_process_has_healed_is_not_cut_again(
    manifest: Manifest, raw: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    early, other = reader_of(manifest, raw, cache), reader_of(manifest, raw, cache)
    early.crop("1", 1)
    for path in blocks_on_disk(cache):
        flip_a_bit(path)
    wanted = crops_of(other, "1")
    caplog.clear()
    assert crops_of(early, "1") == wanted
    assert caplog.text == ""


def test_without_cache_and_without_scan_the_command_that_brings_it_is_named(manifest: Manifest, tmp_path: Path) -> None:
    reader = reader_of(manifest, tmp_path / "elsewhere", tmp_path / "empty")
    with pytest.raises(
        InputError, match=r"crops of series 2 .*`dvc pull .*subset1`, or `dvc repro fetch-subsets@subset1"
    ):
        reader.crop("2", 0)


def test_another_scan_under_the_same_name_is_refused_and_not_kept(
    manifest: Manifest, raw: Path, tmp_path: Path
) -> None:
    write_scan(raw / "subset0" / "1.mhd", np.zeros((6, 6, 6)))
    with pytest.raises(InputError, match=r"1\.mhd or its candidates are not those that crops.json was made from"):
        reader_of(manifest, raw, tmp_path / "empty").crop("1", 0)
    assert not (tmp_path / "empty").exists()


def test_a_series_that_the_manifest_lacks_is_named(manifest: Manifest, raw: Path, cache: Path) -> None:
    with pytest.raises(InputError, match="crops.json lacks series 3"):
        reader_of(manifest, raw, cache).crop("3", 0)


def test_a_reader_in_another_process_opens_its_own_maps(manifest: Manifest, raw: Path, cache: Path) -> None:
    reader = reader_of(manifest, raw, cache)
    wanted = crops_of(reader, "1")
    sent = pickle.dumps(reader)
    assert len(sent) < 5000  # no crops travel
    assert crops_of(pickle.loads(sent), "1") == wanted


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_reader_that_is_open_can_be_used_in_new_processes(
    manifest: Manifest, raw: Path, cache: Path, start: str
) -> None:
    reader = reader_of(manifest, raw, cache)
    wanted = [crops_of(reader, uid) for uid in ("1", "2")]
    with get_context(start).Pool(2) as pool:
        assert pool.starmap(crops_of, [(reader, "1"), (reader, "2")]) == wanted


def test_manifest_comes_back_and_names_no_machine(manifest: Manifest, tmp_path: Path) -> None:
    write_manifest(manifest, tmp_path / "out" / "crops.json")
    assert read_manifest(tmp_path / "out" / "crops.json") == manifest
    text = (tmp_path / "out" / "crops.json").read_text()
    assert str(tmp_path) not in text
    assert '"crops": 3' in text
    assert '"bytes": 192' in text


def test_a_manifest_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "crops.json").write_text("{}")
    with pytest.raises(InputError, match=r"crops\.json: no usable crop manifest"):
        read_manifest(tmp_path / "crops.json")


def test_a_manifest_of_other_content_is_refused(manifest: Manifest, raw: Path, cache: Path) -> None:
    of_others = tuple(Block(b.series_uid, b.path, b.key, b.crops, "0" * 32) for b in manifest.blocks)
    with pytest.raises(InputError, match="crops.json is not of this lunaops"):
        reader_of(Manifest(GEOMETRY, of_others), raw, cache).crop("1", 0)


def test_reading_is_quiet_and_writes_nothing_where_nothing_is_broken(
    manifest: Manifest, raw: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = (cache / "cache.db").read_bytes()
    with caplog.at_level(logging.INFO):
        crops_of(reader_of(manifest, raw, cache), "1")
    assert caplog.text == ""
    assert (cache / "cache.db").read_bytes() == before


@pytest.mark.slow
def test_two_readers_heal_at_once(manifest: Manifest, raw: Path, cache: Path) -> None:
    wanted = crops_of(reader_of(manifest, raw, cache), "1")
    for path in blocks_on_disk(cache):
        flip_a_bit(path)
    with get_context("spawn").Pool(2) as pool:
        reader = reader_of(manifest, raw, cache)
        assert pool.starmap(crops_of, [(reader, "1")] * 4) == [wanted] * 4
    with CropCache(cache) as opened:
        opened.sweep()
    assert len(blocks_on_disk(cache)) == 2
