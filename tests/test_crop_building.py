import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, write_scan
from cropping import CANDIDATES, SCANS, blocks_on_disk, build, crops_of, flip_a_bit, write_raw
from repository import change

from lunaops.crop_building import build_blocks
from lunaops.crop_store import CropCache
from lunaops.crops import CropReader, Geometry, read_manifest
from lunaops.errors import InputError
from lunaops.tables import read_table, write_table


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_raw(tmp_path / "raw")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def settle(raw: Path) -> None:
    """Make the scans old enough to be told by their time of change."""
    for path in raw.rglob("*.raw"):
        os.utime(path, (1e9, 1e9))


def written(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in blocks_on_disk(folder)}


def said(caplog: pytest.LogCaptureFixture) -> str:
    return caplog.messages[-1].partition(", in ")[0]


@pytest.mark.slow
def test_the_manifest_is_the_same_with_any_number_of_workers(tmp_path: Path, raw: Path) -> None:
    assert build(raw, tmp_path / "a") == build(raw, tmp_path / "b", workers=2)


def test_what_is_in_the_cache_is_not_cut_again(raw: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first = build(raw, cache)
    assert said(caplog) == "crops: 2 scans cut, 0 were there already"
    before = written(cache)
    assert build(raw, cache) == first
    assert said(caplog) == "crops: 0 scans cut, 2 were there already"
    assert written(cache) == before


def test_a_scan_that_the_cache_has_met_is_not_read_again(raw: Path, cache: Path) -> None:
    settle(raw)
    first = build(raw, cache)
    voxels = raw / "subset0" / "1.raw"
    voxels.write_bytes(b"\1" * voxels.stat().st_size)  # unseen: the same size, inode and time
    os.utime(voxels, (1e9, 1e9))
    assert build(raw, cache) == first
    os.utime(voxels, (1e9, 1e9 + 1))
    assert build(raw, cache) != first


def test_a_scan_that_has_just_been_written_is_read_again_for_it_may_change_within_its_time_stamp(
    raw: Path, cache: Path
) -> None:
    first = build(raw, cache)
    voxels = raw / "subset0" / "1.raw"
    stamp = voxels.stat().st_mtime_ns
    voxels.write_bytes(b"\1" * voxels.stat().st_size)
    os.utime(voxels, ns=(stamp, stamp))
    assert build(raw, cache) != first


def test_a_changed_header_is_another_scan(raw: Path, cache: Path) -> None:
    settle(raw)
    first = build(raw, cache)
    header = raw / "subset0" / "1.mhd"
    header.write_text(header.read_text().replace("Offset = 0 0 0", "Offset = 1 0 0"))
    second = build(raw, cache)
    assert [a == b for a, b in zip(first.blocks, second.blocks, strict=True)] == [False, True]


@pytest.mark.parametrize("settled", [True, False])
def test_other_candidates_of_a_scan_cut_that_scan_alone(
    raw: Path, cache: Path, settled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    if settled:
        settle(raw)
    build(raw, cache)
    build(raw, cache, candidates=CANDIDATES.assign(x=[3.0, 3, 1]))
    assert said(caplog) == "crops: 1 scans cut, 1 were there already"
    assert len(blocks_on_disk(cache)) == 3


def test_one_more_scan_is_cut_alone(raw: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    build(raw, cache, scans=SCANS[:1])
    build(raw, cache)
    assert said(caplog) == "crops: 1 scans cut, 1 were there already"


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 63), Path.unlink])
def test_a_builder_cuts_again_what_has_lost_its_size(raw: Path, cache: Path, damage) -> None:
    settle(raw)
    first = build(raw, cache)
    for path in blocks_on_disk(cache):
        damage(path)
    assert build(raw, cache) == first
    assert [path.stat().st_size for path in blocks_on_disk(cache)] in ([128, 64], [64, 128])


def test_a_flipped_bit_is_not_found_by_a_builder_and_does_not_reach_a_reader(raw: Path, cache: Path) -> None:
    settle(raw)
    first = build(raw, cache)
    wanted = crops_of(CropReader(first, CANDIDATES, raw, cache), "1")
    for path in blocks_on_disk(cache):
        flip_a_bit(path)
    assert build(raw, cache) == first
    assert crops_of(CropReader(first, CANDIDATES, raw, cache), "1") == wanted


def test_a_scan_without_candidates_has_no_block(raw: Path, cache: Path) -> None:
    manifest = build(raw, cache, candidates=CANDIDATES[CANDIDATES["series_uid"] == "1"])
    assert [(block.series_uid, block.crops) for block in manifest.blocks] == [("1", 2)]


def test_a_scan_that_cannot_be_read_is_named_and_the_others_are_kept(raw: Path, cache: Path) -> None:
    (raw / "subset1" / "2.raw").unlink()
    with pytest.raises(InputError, match=r"2\.mhd: its voxels .* are missing"):
        build(raw, cache)
    assert len(blocks_on_disk(cache)) == 1


def test_scans_are_read_from_a_read_only_file_system(raw: Path, cache: Path, tmp_path: Path) -> None:
    mount = ["mount", "--bind", str(raw), str(raw)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs to mount a file system")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(raw)], check=True)
        assert len(build(raw, cache).blocks) == 2
    finally:
        subprocess.run(["umount", "-l", str(raw)], check=True)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_one_clear_line(raw: Path, cache: Path) -> None:
    crops = CANDIDATES.loc[[0] * 3000 + [1] * 3000].reset_index(drop=True)
    blocks = build_blocks(
        SCANS, crops, raw=raw, geometry=Geometry((32, 48, 48), (-1000, 1000), -1000), folder=cache, workers=2
    )
    with pytest.raises(InputError, match=r"one of 2 processes was killed.*lower crop\.workers"):
        for _ in _killing_children(blocks):
            pass


def _killing_children(blocks):
    """The blocks, while a thread kills the first process of the pool that it sees."""

    def kill() -> None:
        while not (children := active_children()):
            time.sleep(0.01)
        os.kill(children[0].pid, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    yield from blocks


# Whole stages, several at once or killed


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Twelve scans with 40 candidates each, as the stage reads them."""
    random_hu = np.random.default_rng(0)
    scans, candidates = [], []
    for number in range(12):
        write_scan(tmp_path / "raw" / "subset0" / f"{number}.mhd", random_hu.integers(-2000, 2000, (40, 64, 64)))
        scans.append({"series_uid": str(number), "path": f"subset0/{number}.mhd"})
        centers = random_hu.uniform(0, 40, (40, 3))
        candidates.append(pd.DataFrame(centers, columns=["x", "y", "z"]).assign(series_uid=str(number)))
    settle(tmp_path / "raw")
    write_table(pd.DataFrame(scans), tmp_path / "scans.csv")
    write_table(pd.concat(candidates), tmp_path / "candidates.parquet")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    change(tmp_path, {"crop.workers": 1})  # more of them would take longer to start than all takes
    return tmp_path


def start_stage(project: Path, *, cache: str, manifest: str) -> subprocess.Popen[bytes]:
    options = {
        "--raw": project / "raw",
        "--scans": project / "scans.csv",
        "--candidates": project / "candidates.parquet",
        "--manifest": project / manifest,
        "--params-file": project / "params.yaml",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "stages.build_cache", *[str(word) for pair in options.items() for word in pair]],
        cwd=ROOT,
        env=os.environ | {"LUNAOPS_CACHE_DIR": str(project / cache)},
        stderr=subprocess.PIPE,
    )


def finish(stage: subprocess.Popen[bytes]) -> str:
    _, errors = stage.communicate(timeout=120)
    assert stage.returncode == 0, errors.decode()
    return errors.decode()


def contents(folder: Path) -> dict[str, bytes]:
    with CropCache(folder) as cache:
        entries = cache.entries()
    assert {entry.file for entry in entries} == set(blocks_on_disk(folder))
    return {entry.key: entry.file.read_bytes() for entry in entries}


@pytest.mark.slow
def test_two_builders_at_once_give_what_one_gives(project: Path) -> None:
    finish(start_stage(project, cache="alone", manifest="alone.json"))
    for stage in [start_stage(project, cache="shared", manifest=f"{name}.json") for name in "ab"]:
        finish(stage)
    finish(start_stage(project, cache="shared", manifest="c.json"))
    assert contents(project / "shared") == contents(project / "alone")
    manifests = {(project / f"{name}.json").read_bytes() for name in ("alone", "a", "b", "c")}
    assert len(manifests) == 1


@pytest.mark.slow
def test_readers_read_while_others_build(project: Path) -> None:
    finish(start_stage(project, cache="shared", manifest="a.json"))
    table, manifest = read_table(project / "candidates.parquet"), read_manifest(project / "a.json")
    wanted = [crops_of(CropReader(manifest, table, project / "raw", project / "shared"), str(n)) for n in range(2)]
    for path in blocks_on_disk(project / "shared"):
        path.unlink()
    stage = start_stage(project, cache="shared", manifest="b.json")
    while stage.poll() is None:
        reader = CropReader(manifest, table, project / "raw", project / "shared")
        assert [crops_of(reader, str(n)) for n in range(2)] == wanted
    finish(stage)


@pytest.mark.long
def test_a_build_that_is_killed_at_any_moment_is_completed_by_the_next(project: Path) -> None:
    finish(start_stage(project, cache="alone", manifest="alone.json"))
    change(project, {"crop.workers": 2})
    chance = random.Random(16)
    left = []
    for _ in range(20):
        with CropCache(project / "killed") as cache:
            keys = [entry.key for entry in cache.entries()]
            cache.remove(chance.sample(keys, len(keys) * 3 // 4))
            before = len(cache.entries())
        stage = start_stage(project, cache="killed", manifest="killed.json")
        while stage.poll() is None and len(blocks_on_disk(project / "killed")) <= before:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.1))  # twelve scans take about as long
        stage.kill()
        stage.communicate(timeout=60)  # its workers end with it: they hold its stderr
        with CropCache(project / "killed") as cache:
            left.append(len(cache.entries()))
    assert min(left) < 12  # some were killed before they were done
    finish(start_stage(project, cache="killed", manifest="killed.json"))
    assert (project / "killed.json").read_bytes() == (project / "alone.json").read_bytes()
    assert contents(project / "killed") == contents(project / "alone")


@pytest.mark.slow
def test_an_unusable_cache_folder_is_one_clear_line_of_the_stage(project: Path) -> None:
    (project / "file").write_text("")
    stage = start_stage(project, cache="file", manifest="a.json")
    _, errors = stage.communicate(timeout=60)
    assert stage.returncode == 1
    assert errors.decode().count("\n") == 1
    assert "error: " in errors.decode()
    assert "set LUNAOPS_CACHE_DIR" in errors.decode()
    assert not (project / "a.json").exists()
