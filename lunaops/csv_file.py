"""A CSV file in LUNA16's manner, read strictly: series ids stay text, numbers are finite, a fault has its line."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as arrow_csv
from numpy.typing import NDArray

from lunaops.errors import InputError
from lunaops.numerals import number_of
from lunaops.series import SERIES_UID_WANTED, is_series_uid

_NAMES = {"seriesuid": "series_uid", "coordX": "x", "coordY": "y", "coordZ": "z"}
# As pyarrow reads it: a quote opens at the start of a field alone, and a line end in quotes does not end the line.
_FIELD = rb'(?:"(?:[^"]++|"")*+"?)?[^,\r\n]*'
_LINES = re.compile(rb"(?=[^\r\n])" + _FIELD + rb"(?:," + _FIELD + rb")*")
_SHOWN = 80  # characters of a bad line


def read_series_uids(path: Path) -> list[str]:
    """The series ids of a file that holds one a line, in its order, each once; a header 'seriesuid' is passed over.

    Raises InputError naming file and line, and where there is none.
    """
    file = CsvFile(path)
    uids = [line.decode().strip().strip('"') for line in file.filled_lines()]
    for row, uid in enumerate(uids):
        if not is_series_uid(uid):
            raise InputError(
                f"{file.line_of_row(row)}: {shown(uid)} is no series id; wanted one a line, {SERIES_UID_WANTED}"
            )
    unique = [uid for uid in dict.fromkeys(uids) if uid != "seriesuid"]
    if not unique:
        raise InputError(f"{path}: holds no series id; wanted one a line")
    return unique


class CsvFile:
    """The bytes of a CSV file in UTF-8, with or without a byte-order mark; LF, CRLF and CR end its lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise InputError(f"{path}: no such file; fetch the part 'labels' again")
        self.data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        if not self.data.endswith((b"\n", b"\r")):
            self.data += b"\n"  # without one pyarrow takes a header alone for no header
        if not self.data.isascii() or b"\0" in self.data:
            self._check_text()

    def table(self, columns: Sequence[str], text: Sequence[str] = ()) -> pd.DataFrame:
        """The named columns, checked: seriesuid a category, the others float64, those in `text` strings.

        The file may hold more columns, in any order.
        """
        self._check_header(columns)
        table = self._parse(columns, [name for name in columns[1:] if name not in text])
        frame: dict[str, Any] = {"seriesuid": self._series_uids(table["seriesuid"])}
        for name in columns[1:]:
            frame[name] = table[name].to_pandas() if name in text else self._numbers(name, table[name])
        return pd.DataFrame(frame).rename(columns=_NAMES)

    def line(self, wrong: "pd.Series[bool] | NDArray[np.bool_]") -> str:
        """'file, line N' of the first row that is wrong."""
        return self.line_of_row(int(np.flatnonzero(wrong)[0]) + 1)  # the header is row 0

    def line_of_row(self, row: int) -> str:
        """'file, line N', counting every line of the file from 1, empty ones too; `row` counts those that are not."""
        filled = (match.start() for match in _LINES.finditer(self.data) if match[0].strip())
        before = self.data[: next(islice(filled, row, None), len(self.data))]
        return f"{self.path}, line {len(before.splitlines()) + 1}"

    def filled_lines(self) -> Iterator[bytes]:
        """The lines that are not blank."""
        return (match[0] for match in _LINES.finditer(self.data) if match[0].strip())

    def _check_text(self) -> None:
        if b"\0" in self.data:
            raise InputError(
                f"{self.path}: not a CSV file: it has NUL bytes; compressed, or UTF-16? Unpack it, or save it "
                "as CSV in UTF-8"
            )
        try:
            self.data.decode()
        except UnicodeDecodeError as error:
            line = len(self.data[: error.start].splitlines()) or 1
            raise InputError(f"{self.path}, line {line}: not UTF-8: save it as CSV in UTF-8") from error

    def _check_header(self, columns: Sequence[str]) -> None:
        header = next(self.filled_lines(), None)
        if header is None:
            raise InputError(f"{self.path}: not a CSV file: it is empty; wanted {','.join(columns)}")
        names = [name.strip('"') for name in header.decode().split(",")]
        for name in columns:
            if names.count(name) != 1:
                fault = "lacks the column" if name not in names else "has more than once the column"
                got = shown(",".join(names))
                raise InputError(f"{self.path}: {fault} {name}; wanted {','.join(columns)}, got {got}")

    def _parse(self, columns: Sequence[str], numbers: Sequence[str]) -> pa.Table:
        """The columns as text; `numbers` as float64 where every one of them is one, which is quick."""
        types = dict.fromkeys(columns, pa.string()) | {"seriesuid": pa.dictionary(pa.int32(), pa.string())}
        try:
            table = self._read(types | dict.fromkeys(numbers, pa.float64()))
            if all(np.isfinite(table[name].to_numpy()).all() for name in numbers):
                return table
        except (pa.ArrowInvalid, pa.ArrowKeyError):
            pass  # as text it is said which line is at fault
        try:
            return self._read_strictly(types)
        except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
            raise InputError(f"{self.path}: not a CSV file: {shown(' '.join(str(error).split()))}") from error

    def _read(
        self,
        types: dict[str, pa.DataType],
        handler: Callable[[arrow_csv.InvalidRow], str] | None = None,
    ) -> pa.Table:
        return arrow_csv.read_csv(
            pa.py_buffer(self.data),
            # one thread knows a row's number; Arrow's pool may abort a process that ends soon after it read
            arrow_csv.ReadOptions(use_threads=False),
            arrow_csv.ParseOptions(newlines_in_values=b'"' in self.data, invalid_row_handler=handler),
            arrow_csv.ConvertOptions(column_types=types, include_columns=list(types), null_values=[], check_utf8=False),
        )

    def _read_strictly(self, types: dict[str, pa.DataType]) -> pa.Table:
        """Raises InputError with the line of the first row that has too few or too many fields."""
        bad: list[tuple[int, arrow_csv.InvalidRow]] = []
        num_blank = 0

        def keep(row: arrow_csv.InvalidRow) -> str:
            nonlocal num_blank
            if row.text.encode().strip():
                bad.append(((row.number or 1) - 1 - num_blank, row))
            else:
                num_blank += 1
            return "skip"

        table = self._read(types, keep)
        if bad:
            number, row = bad[0]
            raise InputError(
                f"{self.line_of_row(number)}: {row.actual_columns} fields, the header has {row.expected_columns}: "
                f"{shown(row.text)}; fields end at a comma, numbers want a decimal point"
            )
        return table

    def _series_uids(self, column: pa.ChunkedArray) -> pd.Series:
        series: pd.Series = column.to_pandas()
        wrong = {uid for uid in series.cat.categories if not is_series_uid(uid)}
        if wrong:
            rows = series.isin(wrong)
            raise InputError(
                f"{self.line(rows)}: seriesuid {shown(series[rows].iloc[0])} has no place in a file name; "
                f"wanted {SERIES_UID_WANTED}"
            )
        return series

    def _numbers(self, name: str, column: pa.ChunkedArray) -> NDArray[np.float64]:
        if pa.types.is_floating(column.type):
            return np.asarray(column.to_numpy())
        numbers = np.array([number_of(text) for text in column.to_pylist()], dtype=np.float64)
        wrong = ~np.isfinite(numbers)
        if wrong.any():
            got = shown(column[int(np.flatnonzero(wrong)[0])].as_py())
            raise InputError(f"{self.line(wrong)}: {name} must be a number, got {got}")
        return numbers


def shown(text: str) -> str:
    """The text as a message shows it, cut where it is long."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
