"""A repository of the project with a tiny data set, and what a person types in it."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from pipeline import ROOT
from ruamel.yaml import YAML

TINY = {
    "fetch.parts": ["labels", "subset0", "subset1", "subset2"],
    "phantom.subsets": 4,
    "phantom.scans_per_subset": 2,
    "phantom.share_without_nodules": 0.0,
    "phantom.max_megavoxels": 0.8,
    "split.val": ["subset1"],
    "split.test": ["subset2"],
    "crop.size_irc": [16, 16, 16],
    "train.epochs": 2,
    "train.samples_per_epoch": 32,
    "train.batch_size": 16,
}


def change(repository: Path, changes: dict[str, Any]) -> None:
    yaml = YAML()
    tree = yaml.load((repository / "params.yaml").read_text())
    for key, value in changes.items():
        section, name = key.split(".")
        assert name in tree[section], key
        tree[section][name] = value
    with (repository / "params.yaml").open("w") as file:
        yaml.dump(tree, file)


def call(repository: Path, *command: str, mlflow: str = "off", code: int = 0) -> str:
    """What a command says, on both channels; `code` is its exit code."""
    environment = os.environ | {
        "LUNAOPS_CACHE_DIR": str(repository.parent / "crops"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "MLFLOW_TRACKING_URI": mlflow,
    }
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def repro(repository: Path, *arguments: str, mlflow: str = "off") -> list[str]:
    """The stages that ran."""
    return stages_run(call(repository, "dvc", "repro", *arguments, mlflow=mlflow))


def stages_run(output: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", output)


def new_repository(folder: Path) -> Path:
    """The project as it stands, committed, with the tiny data set's params."""
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file() and name != "dvc.lock" and not name.startswith(("reports/", "data/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    change(folder, TINY)
    call(folder, "git", "init", "-q", "-b", "main")
    commit(folder)
    return folder


def commit(repository: Path) -> None:
    """Everything as it stands."""
    call(repository, "git", "add", ".")
    call(repository, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a")


def copy_of(repository: Path, name: str) -> Path:
    """A copy beside it, which shares its crop cache."""
    copy = repository.parent / name
    shutil.copytree(repository, copy, symlinks=True)
    return copy
