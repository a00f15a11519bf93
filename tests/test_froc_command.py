import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from PIL import Image
from typer.testing import CliRunner

from lunaops.__main__ import app
from lunaops.errors import InputError

FINDINGS = "seriesuid,coordX,coordY,coordZ,diameter_mm\n"
TEXTS = {
    "submission": "seriesuid,coordX,coordY,coordZ,probability\n1.2,0,0,0,0.9\n1.2,9,0,0,0.8\n1.3,9,0,0,0.1\n",
    "annotations": FINDINGS + "1.2,0,0,0,6\n1.2,50,0,0,6\n",
    "excluded": FINDINGS + "1.2,9,0,0,-1\n",
    "seriesuids": "1.2\n1.3\n",
}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    paths = {name: tmp_path / f"{name}.csv" for name in TEXTS}
    for name, path in paths.items():
        path.write_text(TEXTS[name])
    return paths


def words(files: dict[str, Path], *more: object) -> list[str]:
    return ["froc", *(str(word) for name, path in files.items() for word in (f"--{name}", path)), *map(str, more)]


def call(files: dict[str, Path], *more: object) -> str:
    return CliRunner().invoke(app, words(files, *more), catch_exceptions=False).output


def test_the_command_prints_the_result_and_writes_numbers_and_picture(files: dict[str, Path], tmp_path: Path) -> None:
    out, plot = tmp_path / "new" / "froc.json", tmp_path / "new" / "froc.png"
    text = call(files, "--bootstrap", 50, "--seed", 2, "--json", out, "--plot", plot)
    assert "2 nodules: 1 found, 1 missed" in text and "CPM 0.500, 95 % interval 0.500 to 0.500 (50 boot" in text
    numbers = json.loads(out.read_text(), parse_constant=pytest.fail)
    assert (numbers["cpm"], numbers["ignored_excluded"], numbers["bootstraps"], numbers["seed"]) == (0.5, 1, 50, 2)
    assert min(Image.open(plot).size) > 200


def test_without_options_nothing_is_drawn_and_nothing_written(files: dict[str, Path], tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    assert call(files).splitlines()[-1] == "CPM 0.500"
    assert sorted(tmp_path.iterdir()) == before


def test_the_limit_of_marks_and_the_unknown_diameter_are_options(files: dict[str, Path]) -> None:
    assert call(files, "--max-marks", 1).startswith("2 marks in 2 scans")
    assert "2 false positives; ignored: 0 on" in call(files, "--unknown-diameter", 0)


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_that_is_missing_is_named_with_its_option(files: dict[str, Path], name: str) -> None:
    files[name].unlink()
    with pytest.raises(InputError, match=f"--{name} .*{name}.csv: no such file"):
        call(files)


@pytest.mark.parametrize(
    ("option", "name"), [("--json", "submission.csv/x.json"), ("--plot", "submission.csv/x.png"), ("--plot", "x.pdf")]
)
def test_a_place_that_cannot_be_written_is_said_before_the_scoring(
    files: dict[str, Path], tmp_path: Path, option: str, name: str
) -> None:
    files["submission"].write_text("no submission")
    with pytest.raises(InputError, match=f"^{option} .*{name}: "):
        call(files, option, tmp_path / name)


@pytest.mark.slow
def test_bad_input_is_one_line_and_no_network_library_is_loaded(files: dict[str, Path]) -> None:
    files["submission"].write_text(TEXTS["submission"].replace("0.8", "high"))
    code = (
        "import sys; from lunaops.__main__ import app; from lunaops.command import run_app\n"
        "try: run_app(app)\n"
        "finally: print(sorted({'torch', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words(files)],
        cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "[]\n")
    assert done.stderr.splitlines() == [
        f"error: {files['submission']}, line 3: probability must be a number, got 'high'"
    ]
