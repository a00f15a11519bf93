import shutil

import pytest
from killing import killed_at

from lunaops.disk import check_space, write_whole, writing
from lunaops.errors import InputError


def test_folders_on_one_disk_share_its_room(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    most = shutil.disk_usage(tmp_path).free * 3 // 4
    check_space({tmp_path / "a": most})
    with pytest.raises(InputError, match=r"a: needs .* .B, but .* .B are free; make room there"):
        check_space({tmp_path / "a": most, tmp_path / "b": most})


def test_what_the_system_refuses_is_one_line(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}: cannot be written: Is a directory"), writing(tmp_path):
        tmp_path.write_text("")


def test_a_file_is_the_old_or_the_new_one_whenever_it_is_killed(tmp_path):
    path = tmp_path / "new" / "file"
    seen = set()
    for change in range(10):
        was_killed = killed_at(change, lambda: write_whole(path, b"new"))
        seen.add(path.read_bytes() if path.exists() else None)
        if not was_killed:
            break
    assert seen == {None, b"new"}
    write_whole(path, b"newer")
    assert [(each.name, each.read_bytes()) for each in path.parent.iterdir()] == [("file", b"newer")]


def test_a_file_that_cannot_be_written_stays_and_nothing_lies_beside_it(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder: cannot be written: Is a directory; mend that and run again"):
        write_whole(tmp_path / "folder", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
