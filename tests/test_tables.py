from pathlib import Path

import pandas as pd
import pytest

from lunaops.errors import InputError
from lunaops.geometry import Grid
from lunaops.tables import grid_of, read_table, write_table


@pytest.mark.parametrize("name", ["table.csv", "deeper/table.parquet"])
def test_a_table_comes_back_as_it_was_with_its_ids_as_text(tmp_path: Path, name: str) -> None:
    table = pd.DataFrame({"series_uid": ["056", "1.10"], "x": [0.1, -2.0]}, index=[7, 3])
    write_table(table, tmp_path / name)
    pd.testing.assert_frame_equal(read_table(tmp_path / name), table.reset_index(drop=True))


def test_equal_tables_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        write_table(pd.DataFrame({"series_uid": ["1"], "x": [0.1]}), tmp_path / name)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.parquet: no such table; run `dvc repro`"):
        read_table(tmp_path / "x.parquet")


def test_a_row_of_scans_csv_gives_its_grid_back() -> None:
    row = pd.Series(
        {
            "shape": "[2, 3, 4]",
            "spacing": "[0.7, 0.7, 2.5]",
            "origin": "[-1.0, 2.0, 3.0]",
            "direction": "[[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]]",
        }
    )
    assert grid_of(row) == Grid((2, 3, 4), (0.7, 0.7, 2.5), (-1.0, 2.0, 3.0), ((-1, 0, 0), (0, -1, 0), (0, 0, 1)))
