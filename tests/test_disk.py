import shutil

import pytest

from lunaops.errors import InputError
from lunaops.sources.disk import check_space, writing


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
