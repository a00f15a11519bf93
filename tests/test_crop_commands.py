from pathlib import Path

import pytest
from click.testing import Result
from cropping import blocks_on_disk, build, flip_a_bit, write_raw
from typer.testing import CliRunner

from lunaops.__main__ import app
from lunaops.crops import write_manifest
from lunaops.errors import InputError


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose manifest names scan 1 and 2, in a cache that also holds another project's block of scan 2."""
    monkeypatch.setenv("LUNAOPS_CACHE_DIR", str(tmp_path / "cache"))
    raw = write_raw(tmp_path / "data" / "raw")
    write_manifest(build(raw, tmp_path / "cache"), tmp_path / "data" / "crops.json")
    others = write_raw(tmp_path / "others")
    header = others / "subset1" / "2.mhd"
    header.write_text(header.read_text().replace("Offset = 0 0 0", "Offset = 1 0 0"))
    build(others, tmp_path / "cache")
    return tmp_path / "data"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["cache", *arguments])


def test_stats_say_place_entries_bytes_and_what_is_this_projects(data: Path) -> None:
    lines = call("stats", "--data", str(data)).output.splitlines()
    assert lines == [
        str(data.parent / "cache"),
        "3 blocks, 4 crops, 256 bytes (0.00 GB)",
        "of this project: 2 blocks, 3 crops, 192 bytes (0.00 GB); its manifest names 2 blocks",
    ]


def test_stats_of_no_cache_and_no_project_are_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNAOPS_CACHE_DIR", str(tmp_path / "none"))
    output = call("stats", "--data", str(tmp_path)).output
    assert "0 blocks" in output
    assert "this project names none" in output
    assert not (tmp_path / "none").exists()


def test_verify_of_a_sound_cache_ends_well(data: Path) -> None:
    for words in (["verify"], ["verify", "--drop"]):
        done = call(*words)
        last = done.output.splitlines()[-1]
        assert (done.exit_code, last.partition(" read in ")[0]) == (0, "3 blocks, 4 crops, 256 bytes (0.00 GB)")
        assert last.endswith(": 0 damaged")


def test_verify_names_what_is_damaged_and_fails(data: Path) -> None:
    first, second, _ = blocks_on_disk(data.parent / "cache")
    flip_a_bit(first)
    second.unlink()
    done = call("verify")
    assert done.exit_code == 1
    assert isinstance(done.exception, InputError)
    assert "2 of 3 blocks are damaged: they are cut again when they are read; or add --drop" in str(done.exception)
    assert [str(path) in done.output for path in (first, second)] == [True, True]
    assert len(blocks_on_disk(data.parent / "cache")) == 2


def test_verify_drops_what_is_damaged_and_the_next_build_brings_it_back(data: Path) -> None:
    for path in blocks_on_disk(data.parent / "cache"):
        flip_a_bit(path)
    assert call("verify", "--drop").exit_code == 1
    assert blocks_on_disk(data.parent / "cache") == []
    build(data / "raw", data.parent / "cache")
    assert call("verify").exit_code == 0


def test_verify_says_that_the_index_is_lost_and_leaves_the_blocks_until_a_build(data: Path) -> None:
    cache = data.parent / "cache"
    (cache / "cache.db").unlink()
    done = call("verify")
    assert "there are 3 files of blocks, 256 bytes" in str(done.exception)
    assert "the index is lost, or the first build was killed" in str(done.exception)
    assert len(blocks_on_disk(cache)) == 3
    build(data / "raw", cache)
    assert len(blocks_on_disk(cache)) == 2
    assert call("verify").exit_code == 0


def test_clear_all_says_what_the_index_did_not_name(data: Path) -> None:
    (data.parent / "cache" / "cache.db").write_bytes(b"no index")
    assert "and 3 files of blocks, 256 bytes (0.00 GB), that the index does not name" in call("clear", "--all").output
    assert blocks_on_disk(data.parent / "cache") == []


def test_clear_keeps_what_the_manifest_names(data: Path) -> None:
    assert call("clear", "--data", str(data)).output.startswith("removed 1 blocks, 1 crops, 64 bytes")
    assert "2 blocks, 3 crops" in call("stats", "--data", str(data)).output


def test_clear_without_a_manifest_removes_nothing(data: Path, tmp_path: Path) -> None:
    done = call("clear", "--data", str(tmp_path))
    assert "no usable crop manifest" in str(done.exception)
    assert len(blocks_on_disk(data.parent / "cache")) == 3


def test_clear_all_removes_everything(data: Path) -> None:
    assert call("clear", "--all").output.startswith("removed 3 blocks, 4 crops, 256 bytes")
    assert blocks_on_disk(data.parent / "cache") == []
