from pathlib import Path

import pytest
from killing import killed_at

from lunaops.errors import InputError
from lunaops.sources.staging import staged


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


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
    assert tree(tmp_path) == ["subset0", "subset0/old"]


def test_a_folder_that_another_is_filling_is_refused_and_the_other_is_not_disturbed(tmp_path):
    folder = tmp_path / "subset0"
    with staged(folder) as staging:
        (staging / "a").write_text("a")
        with pytest.raises(InputError, match="subset0: another process is filling it"), staged(folder):
            pass
        with staged(tmp_path / "subset1"):
            pass
    assert tree(tmp_path) == ["subset0", "subset0/a", "subset1"]


def test_what_a_killed_process_left_and_what_stood_there_are_replaced(tmp_path):
    for left in (".subset0.unfinished", ".subset0.replaced", "subset0"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "old").write_text("old")
    with staged(tmp_path / "subset0") as staging:
        (staging / "new").write_text("new")
    assert tree(tmp_path) == ["subset0", "subset0/new"]


def test_a_folder_that_was_moved_aside_when_the_process_died_is_back_before_anything_else(tmp_path):
    (tmp_path / ".subset0.replaced").mkdir()
    (tmp_path / ".subset0.replaced" / "old").write_text("old")
    with staged(tmp_path / "subset0"):
        assert (tmp_path / "subset0" / "old").read_text() == "old"


def test_a_link_to_another_disk_is_replaced_and_what_it_leads_to_is_kept(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "old").write_text("old")
    (tmp_path / "subset0").symlink_to(tmp_path / "other")
    with staged(tmp_path / "subset0") as staging:
        (staging / "new").write_text("new")
    assert tree(tmp_path) == ["other", "other/old", "subset0", "subset0/new"]


def test_a_place_that_is_no_folder_is_one_line(tmp_path):
    (tmp_path / "raw").write_text("")
    with (
        pytest.raises(InputError, match="subset0: cannot be written: Not a directory"),
        staged(tmp_path / "raw/subset0"),
    ):
        pass


def replace(folder: Path) -> None:
    with staged(folder) as staging:
        for name in ("a", "b"):
            (staging / name).write_text("new")


def test_killed_before_any_change_of_the_disk_the_old_folder_or_the_new_one_is_there(tmp_path):
    folder = tmp_path / "subset0"
    change = between = 0
    while True:
        folder.mkdir(exist_ok=True)
        for name in ("a", "b"):
            (folder / name).write_text("old")
        if not killed_at(change, lambda: replace(folder)):
            break
        change += 1
        place = folder if folder.exists() else tmp_path / ".subset0.replaced"
        between += not folder.exists()
        assert {path.read_text() for path in place.iterdir()} in ({"old"}, {"new"})
        assert tree(place) == ["a", "b"]
        with staged(folder) as staging:
            assert tree(tmp_path) == [".subset0.unfinished", "subset0", "subset0/a", "subset0/b"]
            (staging / "a").write_text("newer")
        assert tree(tmp_path) == ["subset0", "subset0/a"]
    assert change >= 8
    assert between == 1, "the two renames"
