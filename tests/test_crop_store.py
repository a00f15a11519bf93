import fcntl
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from lunaops import crop_index, crop_store
from lunaops.crop_store import CropCache, cache_folder, file_name
from lunaops.errors import InputError

CROPS = np.arange(24, dtype=np.int16).reshape(3, 2, 2, 2)
SHAPE = CROPS.shape


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache that holds CROPS as 'a'."""
    with CropCache(tmp_path / "cache") as cache:
        cache.put("a", chunks, 3)
    return tmp_path / "cache"


def chunks() -> list[np.ndarray]:
    return [CROPS[:2], CROPS[2:]]


def kept(folder: Path, key: str = "a") -> list | None:
    with CropCache(folder) as cache:
        block = cache.open(key, SHAPE)
    return None if block is None else block.hu.tolist()


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.val"))


def test_a_block_is_stored_as_its_bytes_and_no_more(folder: Path) -> None:
    (file,) = files(folder)
    assert file.read_bytes() == CROPS.tobytes()
    assert kept(folder) == CROPS.tolist()


def test_a_block_has_the_same_digest_however_it_was_cut_and_another_if_a_crop_differs(tmp_path: Path) -> None:
    with CropCache(tmp_path) as cache:
        digests = [
            cache.put("a", chunks, 3),
            cache.put("b", lambda: [CROPS], 3),
            cache.put("c", lambda: [CROPS + 1], 3),
            cache.put("d", lambda: [CROPS[::-1].copy()], 3),
        ]
        assert digests[0] == digests[1] == cache.open("a", SHAPE).digest
    assert len(set(digests)) == 3


def test_a_flipped_bit_is_found_in_its_crop(folder: Path) -> None:
    (file,) = files(folder)
    content = bytearray(file.read_bytes())
    content[16 + 3] ^= 4
    file.write_bytes(content)
    with CropCache(folder) as cache:
        block = cache.open("a", SHAPE)
        (entry,) = cache.entries()
    assert [block.is_sound(row) for row in range(3)] == [True, False, True]
    assert entry.num_damaged() == 1


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 47), Path.unlink])
def test_a_block_of_another_size_or_without_its_file_is_missing(
    folder: Path, damage, caplog: pytest.LogCaptureFixture
) -> None:
    damage(files(folder)[0])
    assert kept(folder) is None
    assert "is damaged and will be cut again: a" in caplog.text
    with CropCache(folder) as cache:
        assert [entry.num_damaged() for entry in cache.entries()] == [3]


def test_a_replaced_block_stays_with_those_who_have_mapped_it(folder: Path) -> None:
    with CropCache(folder) as cache:
        block = cache.open("a", SHAPE)
        cache.put("a", lambda: [CROPS + 1], 3)
        assert block.hu.tolist() == CROPS.tolist()
    assert kept(folder) == (CROPS + 1).tolist()
    assert len(files(folder)) == 1


def test_what_is_remembered_comes_back_and_is_no_block(folder: Path) -> None:
    with CropCache(folder) as cache:
        assert cache.recall("name") is None
        cache.remember("name", "word")
        assert cache.recall("name") == "word"
        assert [entry.key for entry in cache.entries()] == ["a"]


def test_a_file_has_another_name_once_it_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a")
    names = {file_name("voxels", tmp_path / "file")}
    os.utime(tmp_path / "file", ns=(0, 1))
    names.add(file_name("voxels", tmp_path / "file"))
    (tmp_path / "new").write_text("b")
    os.utime(tmp_path / "new", ns=(0, 1))
    (tmp_path / "new").replace(tmp_path / "file")
    names.add(file_name("voxels", tmp_path / "file"))
    assert len(names) == 3


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    import diskcache

    with diskcache.Cache(str(tmp_path)) as foreign:
        foreign.set("a", {"a": "pickle" * 10_000})
    assert kept(tmp_path) is None
    with CropCache(tmp_path) as cache:
        assert cache.entries() == []
        cache.put("a", chunks, 3)
    assert kept(tmp_path) == CROPS.tolist()


# The index


def random_bytes(index: Path) -> None:
    index.write_bytes(np.random.default_rng(0).bytes(index.stat().st_size))


def half(index: Path) -> None:
    os.truncate(index, index.stat().st_size // 2)


def zeros_in_the_middle(index: Path) -> None:
    with index.open("r+b") as file:
        file.seek(4096)
        file.write(b"\0" * (index.stat().st_size - 4096))


@pytest.mark.parametrize("damage", [random_bytes, half, zeros_in_the_middle])
@pytest.mark.parametrize("first", ["read", "write", "sweep"])
def test_a_damaged_index_is_put_aside_and_begun_anew(
    folder: Path, damage, first: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage(folder / "cache.db")
    with CropCache(folder) as cache:
        if first == "read":
            assert cache.open("a", SHAPE) is None
        if first == "sweep":
            assert cache.sweep().files == 1
        cache.put("a", chunks, 3)
    assert kept(folder) == CROPS.tolist()
    assert "cache.db is damaged" in caplog.text
    assert (folder / "cache.db.damaged").exists()


def changed(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "cache.db")) as index, index:
        index.execute(statement)


ROWS = [
    "tag = x'0102030405'",
    "tag = NULL",
    "tag = 7",
    "size = NULL",
    "size = 'x'",
    "mode = 4 + 1",
    "mode = NULL",
    "key = x'00'",
    "key = CAST(x'61ff' AS TEXT)",
    "filename = '../../outside'",
    "filename = CAST(x'ff' AS TEXT)",
]


@pytest.mark.parametrize("row", ROWS)
def test_a_damaged_entry_is_dropped_and_the_others_stay(folder: Path, row: str, caplog) -> None:
    with CropCache(folder) as cache:
        cache.put("b", chunks, 3)
    changed(folder, f"UPDATE Cache SET {row} WHERE key = 'a'")
    assert kept(folder) is None
    with CropCache(folder) as cache:
        assert [[entry.key for entry in cache.entries()] for _ in range(2)] == [["b"], ["b"]]
        assert caplog.text.count("1 damaged entries are dropped") == 1
        cache.put("a", chunks, 3)
    assert kept(folder) == kept(folder, "b") == CROPS.tolist()


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE Cache RENAME COLUMN tag TO tug",
        "ALTER TABLE Settings RENAME TO Sittings",
        "DROP TABLE Cache",
        "UPDATE Settings SET value = 'x'",
        "UPDATE Settings SET key = CAST(key AS BLOB)",
        "UPDATE Settings SET key = CAST(x'ff' AS TEXT) WHERE key = 'size'",
        "UPDATE Cache SET key = 7, value = CAST(x'ff' AS TEXT), filename = NULL",
    ],
)
def test_an_index_of_another_layout_or_settings_is_used_or_begun_anew(folder: Path, statement: str) -> None:
    changed(folder, statement)
    kept(folder)
    with CropCache(folder) as cache:
        cache.put("a", chunks, 3)
        cache.remember("name", "word")
        assert cache.recall("name") == "word"
    assert kept(folder) == CROPS.tolist()


@pytest.mark.parametrize("seed", range(12))
def test_any_bits_flipped_in_the_index_never_end_in_a_traceback(folder: Path, seed: int) -> None:
    with CropCache(folder) as cache:
        for number in range(30):
            cache.put(str(number), chunks, 3)
    sound = (folder / "cache.db").read_bytes()
    chance = random.Random(seed)
    content = bytearray(sound)
    for _ in range(20):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    (folder / "cache.db").write_bytes(content)
    with CropCache(folder) as cache:
        for entry in cache.entries():
            entry.num_damaged()
        cache.open("a", SHAPE)
        cache.put("a", chunks, 3)
        cache.sweep()
    assert kept(folder) == CROPS.tolist()


@pytest.mark.parametrize("damage", [random_bytes, half, Path.unlink])
def test_everything_is_cleared_whatever_state_the_index_is_in(folder: Path, damage) -> None:
    with CropCache(folder) as writer, CropCache(folder) as cache:
        writer.put("b", chunks, 3)
        damage(folder / "cache.db")
        cache.clear()
        assert (files(folder), list(folder.glob("cache.db*"))) == ([], [])
        writer.put("a", chunks, 3)  # it had the index open that is gone
    assert kept(folder) == CROPS.tolist()
    assert kept(folder, "b") is None


def test_a_block_that_is_cut_short_while_it_is_mapped_is_damaged_and_kills_nobody(folder: Path) -> None:
    with CropCache(folder) as cache:
        block = cache.open("a", SHAPE)
    os.truncate(files(folder)[0], 0)
    assert [block.is_sound(row) for row in range(3)] == [False, False, False]


def test_an_index_that_is_sorted_wrongly_is_begun_anew(folder: Path) -> None:
    changed(folder, "CREATE TABLE Empty (key, raw)")
    changed(folder, "CREATE INDEX No_key_raw ON Empty(key, raw)")
    with closing(sqlite3.connect(folder / "cache.db")) as index, index:
        index.execute("PRAGMA writable_schema = ON")
        page = "(SELECT rootpage FROM sqlite_master WHERE name = 'No_key_raw')"
        index.execute(f"UPDATE sqlite_master SET rootpage = {page} WHERE name = 'Cache_key_raw'")
    assert kept(folder) is None
    with CropCache(folder) as cache:
        cache.put("a", chunks, 3)
    assert kept(folder) == CROPS.tolist()


def test_an_empty_index_is_an_empty_cache(folder: Path) -> None:
    os.truncate(folder / "cache.db", 0)
    assert kept(folder) is None
    with CropCache(folder) as cache:
        cache.put("a", chunks, 3)
        assert cache.sweep().files == 1
    assert kept(folder) == CROPS.tolist()


def test_a_damaged_write_ahead_log_loses_what_was_last_written_and_no_more(tmp_path: Path) -> None:
    script = (
        "import os, numpy as np, sys; from pathlib import Path; from lunaops.crop_store import CropCache\n"
        "cache = CropCache(Path(sys.argv[1]))\n"
        "[cache.put(key, lambda: [np.ones((3, 2, 2, 2), np.int16)], 3) for key in 'ab']\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=False)
    log = tmp_path / "cache.db-wal"
    os.truncate(log, log.stat().st_size - 100)
    assert kept(tmp_path, "b") is None
    assert kept(tmp_path, "a") is not None
    with CropCache(tmp_path) as cache:
        cache.put("b", chunks, 3)
        cache.sweep()
    assert kept(tmp_path, "b") == CROPS.tolist()
    assert len(files(tmp_path)) == 2


def test_an_index_that_stays_locked_is_one_clear_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (crop_index, crop_store):
        monkeypatch.setattr(module, "LOCKED_FOR_SECONDS", 0.1)
    with CropCache(folder) as cache:
        cache.remember("name", "word")  # opened before it is locked
        holder = sqlite3.connect(folder / "cache.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(InputError, match=r"another process has held cache\.db for 0 s"):
            cache.put("b", chunks, 3)
        assert kept(folder) == CROPS.tolist()  # readers do not mind
        holder.close()
        cache.put("b", chunks, 3)
    assert len(files(folder)) == 2


# Writers that were killed


def orphan(folder: Path) -> Path:
    path = folder / "ab" / "cd" / "ef.val"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a block")
    return path


def test_what_a_killed_writer_left_is_swept(folder: Path) -> None:
    left = orphan(folder)
    with CropCache(folder) as cache:
        assert cache.sweep().files == 1
        assert cache.sweep().files == 0
    assert not left.exists()
    assert kept(folder) == CROPS.tolist()


def test_what_a_living_writer_has_not_yet_entered_is_left_alone(folder: Path) -> None:
    seen = []

    def cut():
        yield CROPS[:2]
        with CropCache(folder) as other:
            seen.append((other.sweep().files, len(files(folder))))
        yield CROPS[2:]

    with CropCache(folder) as cache:
        cache.put("b", cut, 3)
    assert seen == [(0, 2)]
    assert kept(folder, "b") == CROPS.tolist()


def test_clear_removes_everything(folder: Path) -> None:
    with CropCache(folder) as cache:
        cache.remember("name", "word")
        cache.clear()
        assert (cache.entries(), cache.recall("name"), files(folder)) == ([], None, [])


# Places that cannot be used


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LUNAOPS_CACHE_DIR", str(tmp_path / "fast"))
    assert cache_folder() == tmp_path / "fast"
    monkeypatch.delenv("LUNAOPS_CACHE_DIR")
    assert cache_folder().parts[-2:] == ("lunaops", "crops")


def test_a_file_in_place_of_the_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "cache"):
        with pytest.raises(InputError, match="no crop cache can be kept there: .*; set LUNAOPS_CACHE_DIR"):
            CropCache(folder).put("a", chunks, 3)
    assert (tmp_path / "file").read_text() == ""


NO_ROOM = """
import resource, sys, numpy as np
from pathlib import Path
from lunaops.crop_store import CropCache
from lunaops.errors import InputError
folder = Path(sys.argv[1])
def put(cache):
    cache.put("big", lambda: (np.ones((1, 100, 100, 10), np.int16) for _ in range(3)), 3)
with CropCache(folder) as cache:
    cache.remember("name", "word")
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    try:
        put(cache)
    except InputError as error:
        print(error)
    print(len(list(folder.rglob("*.val"))), "file")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    put(cache)
"""


def test_no_room_for_a_block_is_one_clear_line_and_leaves_nothing_behind(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM, str(folder)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    line, left = done.stdout.splitlines()
    assert "a block of crops cannot be written: [Errno 27] File too large; make room there" in line
    assert left == "1 file"
    assert kept(folder) == CROPS.tolist()
    with CropCache(folder) as cache:
        assert cache.open("big", (3, 100, 100, 10)).is_sound(2)  # written once there was room again


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 1 MB, where this machine lets us mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs to mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_one_clear_line_and_leaves_what_was_there(small_disk: Path) -> None:
    with CropCache(small_disk) as cache:
        cache.put("a", chunks, 3)
        with pytest.raises(InputError, match=r"a block of crops cannot be written: .*No space left.*; make room there"):
            cache.put("big", lambda: (np.ones((1, 512, 512, 1), np.int16) for _ in range(3)), 3)
        assert len(files(small_disk)) == 1
    assert kept(small_disk) == CROPS.tolist()


def test_a_read_only_cache_is_read_and_what_it_lacks_is_one_clear_line(folder: Path, small_disk: Path) -> None:
    shutil.copytree(folder, small_disk / "cache")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert kept(small_disk / "cache") == CROPS.tolist()
    assert kept(small_disk / "cache", "b") is None
    with pytest.raises(InputError, match="cache: no crop cache can be kept there: .*Read-only"):
        CropCache(small_disk / "cache").put("b", chunks, 3)
    with CropCache(small_disk / "cache") as cache:
        assert cache.sweep().files == 0


def test_more_blocks_can_be_open_than_the_usual_limit_of_files(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 512:
        pytest.skip("this machine allows no more open files")
    with CropCache(tmp_path) as cache:
        cache.put("a", chunks, 3)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
            assert len([cache.open("a", SHAPE) for _ in range(300)]) == 300
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_writer_that_waits_for_a_sweep_goes_on_after_it(folder: Path) -> None:
    script = (
        "import numpy as np, sys; from pathlib import Path; from lunaops.crop_store import CropCache\n"
        "CropCache(Path(sys.argv[1])).put('b', lambda: [np.ones((3, 2, 2, 2), np.int16)], 3); print('done')"
    )
    with (folder / "writers.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        writer = subprocess.Popen([sys.executable, "-c", script, str(folder)], cwd=ROOT, stdout=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(timeout=2)
        assert len(files(folder)) == 1
    assert writer.communicate(timeout=30)[0] == b"done\n"
    assert kept(folder, "b") is not None
