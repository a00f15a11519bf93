"""git and DVC as programs, run in a checkout of the project."""

import os
import subprocess
import sys
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

from lunaops.errors import InputError

_DVC = (sys.executable, "-m", "dvc")


def git(*arguments: str, folder: Path = Path()) -> str:
    """What git prints; raises InputError with what it says of the error."""
    return _output(("git", *arguments), folder)


def dvc(*arguments: str, folder: Path = Path()) -> str:
    """What DVC prints; raises InputError with what it says of the error."""
    return _output((*_DVC, *arguments), folder)


def has_remote(folder: Path = Path()) -> bool:
    """Whether DVC has a remote here; without one `dvc repro --pull` fails where data are missing."""
    return bool(dvc("remote", "list", folder=folder).strip())


def run_dvc(*arguments: str, folder: Path = Path(), environment: Mapping[str, str] | None = None) -> int:
    """Run DVC and return its exit code; it and the stages that it runs speak to standard error as they go."""
    everything = {**_environment(), **(environment or {})}
    return subprocess.run((*_DVC, *arguments), cwd=folder, env=everything, stdout=2, check=False).returncode


def _output(command: tuple[str, ...], folder: Path) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, env=_environment(), capture_output=True, encoding="utf-8", check=False
        )
    except FileNotFoundError as error:
        raise InputError(f"{command[0]}: no such program; install it") from error
    if done.returncode:
        said = " ".join(Path(word).name if word == sys.executable else word for word in command)
        raise InputError(f"`{said}` failed: {_reason(done.stderr)}")
    return done.stdout


def _reason(spoken: str) -> str:
    """Why a program failed, in one line: its error; of a file that DVC cannot read what is wrong and where."""
    lines = [line for line in spoken.splitlines() if line.strip()] or ["it says nothing"]
    for line in lines:
        if line.lower().startswith(("error", "fatal")):
            return line
    for place, line in enumerate(lines):
        if " is invalid" in line or " validation failed" in line:
            rest = takewhile(lambda each: not each[0].isspace(), lines[place + 1 :])  # then the file's lines, indented
            return " ".join(" ".join([line, *rest]).split())
    return lines[-1]


def _environment() -> dict[str, str]:
    """Ours, with this Python's programs first: the stages' commands say `python`."""
    return os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}
