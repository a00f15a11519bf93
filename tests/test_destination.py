import errno
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lunaops.__main__ import app
from lunaops.destination import check_destination
from lunaops.errors import InputError


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("1")
    check_destination("--json", tmp_path / "old.json")
    check_destination("--json", tmp_path / "a" / "b" / "new.json")
    assert (tmp_path / "old.json").read_text() == "1"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "old.json"]


def test_a_link_to_nothing_stays_a_link_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to("target.json")
    check_destination("--json", tmp_path / "link.json")
    assert [path.name for path in tmp_path.iterdir()] == ["link.json"]
    assert (tmp_path / "link.json").readlink() == Path("target.json")


@pytest.mark.parametrize("name", ["file/x.json", "file/folder/x.json"])
def test_a_file_in_the_place_of_the_folder_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"^--json .*{name}: cannot be written: a file stands where its folder should"):
        check_destination("--json", tmp_path / name)


def test_a_folder_in_the_place_of_the_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^--json .*: cannot be written: {os.strerror(errno.EISDIR)}$"):
        check_destination("--json", tmp_path)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="asks for Linux")
def test_what_the_system_refuses_is_said_even_to_a_superuser() -> None:
    with pytest.raises(InputError, match="^--json /proc/new/x.json: cannot be written: [A-Z][a-z ]+$"):
        check_destination("--json", Path("/proc/new/x.json"))


def test_the_wrong_suffix_is_refused(tmp_path: Path) -> None:
    check_destination("--plot", tmp_path / "p.PNG", suffix=".png")
    for name in ("p.pdf", "p"):
        with pytest.raises(InputError, match=rf"--plot .*{name}: the file written is PNG; let its name end in \.png"):
            check_destination("--plot", tmp_path / name, suffix=".png")


def test_a_pipe_is_not_ended(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    check_destination("--json", tmp_path / "pipe")
    with (tmp_path / "pipe").open("wb") as pipe:
        pipe.write(b"1")
    assert os.read(reader, 2) == b"1"
    os.close(reader)


@pytest.mark.parametrize(
    "words",
    [
        ["show-augmented", "--out", "file/x.png", "--data", "none"],
        ["ci-report", "--out", "file/comment.md"],
        ["crossval", "--out", "file/pooled"],
    ],
)
def test_commands_ask_before_they_read_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/.*: cannot be written"):
        CliRunner().invoke(app, words, catch_exceptions=False)
