import shutil

import pytest

from lunaops.errors import InputError
from lunaops.sources.staging import check_room, staged


def test_a_folder_appears_when_it_is_complete_and_not_before(tmp_path):
    folder = tmp_path / "raw" / "subset0"
    with staged(folder) as staging:
        (staging / "a").write_text("a")
        assert not folder.exists()
    assert [path.name for path in folder.parent.iterdir()] == ["subset0"]
    assert (folder / "a").read_text() == "a"


def test_a_failure_leaves_nothing_new_and_what_stood_there_as_it_was(tmp_path):
    (tmp_path / "subset0").mkdir()
    (tmp_path / "subset0" / "old").write_text("old")
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "subset0") as staging:
        (staging / "new").write_text("new")
        raise KeyboardInterrupt
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["subset0", "subset0/old"]


def test_what_a_killed_process_left_and_what_stood_there_are_replaced(tmp_path):
    for left in (".subset0.unfinished", "subset0"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "old").write_text("old")
    with staged(tmp_path / "subset0") as staging:
        (staging / "new").write_text("new")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["subset0", "subset0/new"]


def test_a_disk_without_room_is_refused_with_both_numbers(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=3_500_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    check_room(tmp_path, 3_500_000_000)
    with pytest.raises(InputError, match=r"needs 4 GB, but 3\.5 GB are free; make room there"):
        check_room(tmp_path, 4_000_000_000)
