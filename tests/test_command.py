import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

SCRIPT = '''
"""x"""
from pathlib import Path
from lunaops.command import run
from lunaops.errors import InputError

def main(input_file: Path, times: int = 2) -> None:
    """Say a file's name."""
    if times < 1:
        raise InputError(f"times must be positive, got {times}")
    if times > 9:
        raise ValueError("a bug")
    print(type(input_file).__name__, input_file, times)

run(main)
'''


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def call(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, script, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_parameters_are_options(script: Path) -> None:
    done = call(script, "--input-file", "a.csv", "--times", "3")
    assert (done.returncode, done.stdout.split()[1:]) == (0, ["a.csv", "3"])


def test_bad_input_is_one_line_and_exit_1(script: Path) -> None:
    done = call(script, "--input-file", "a", "--times", "0")
    assert (done.returncode, done.stderr) == (1, "error: times must be positive, got 0\n")


def test_debug_shows_where_it_was_found(script: Path) -> None:
    done = call(script, "--input-file", "a", "--times", "0", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_bug_keeps_its_traceback(script: Path) -> None:
    done = call(script, "--input-file", "a", "--times", "10")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_help_is_the_docstring_and_the_signature(script: Path) -> None:
    text = call(script, "--help").stdout
    assert "Say a file's name." in text
    assert "--input-file" in text
    assert "[default: 2]" in text
