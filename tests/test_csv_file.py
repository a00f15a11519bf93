import os
import subprocess
import sys
from pathlib import Path

import pytest

from lunaops.csv_file import read_series_uids
from lunaops.errors import InputError


def file_of(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "S.csv"
    path.write_text(text, encoding=encoding)
    return path


def test_series_ids_are_one_a_line_with_or_without_a_header(tmp_path: Path) -> None:
    assert read_series_uids(file_of(tmp_path, "1.2\n\n056\n1.2\n")) == ["1.2", "056"]
    assert read_series_uids(file_of(tmp_path, 'seriesuid\n"1.2"\n', encoding="utf-8-sig")) == ["1.2"]


def test_what_is_no_series_id_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"S\.csv, line 3: '1,2' is no series id; wanted one a line"):
        read_series_uids(file_of(tmp_path, "1.2\n\n1,2\n"))


def test_reading_leaves_no_pool_of_threads_that_could_abort_the_end_of_the_process(tmp_path: Path) -> None:
    (tmp_path / "annotations.csv").write_text("seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2,1,2,3,4\n")
    (tmp_path / "candidates.csv").write_text("seriesuid,coordX,coordY,coordZ,class\n1.2,1,2,3,1\n")
    code = (
        "import os, pathlib, lunaops.labels as labels; before = len(os.listdir('/proc/self/task')); "
        "labels.read_labels(pathlib.Path(), 'candidates'); print(len(os.listdir('/proc/self/task')) - before)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "2"}  # of Arrow's pool, too
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) <= 1  # the one that reads ahead
