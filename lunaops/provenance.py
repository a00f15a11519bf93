"""Where a run comes from: its commit, its inputs' hashes, its library versions, its device."""

import hashlib
import json
import platform
import subprocess
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lunaops.errors import InputError
from lunaops.params import read_params

LIBRARIES = ("torch", "numpy", "pandas", "SimpleITK", "mlflow", "dvc")  # lunaops itself is told by its commit
NOT_CODE = (
    "dvc.lock",  # this and the next: `dvc repro` changes them before a run can look at the tree
    "reports",
    "params.yaml",  # a run logs all of it
)
_CHUNK_BYTES = 1 << 20


def git_commit(root: Path = Path()) -> str | None:
    """The commit that is checked out, in full; None outside a git repository or without git."""
    return _git("rev-parse", "HEAD", root=root)


def is_dirty(root: Path = Path()) -> bool | None:
    """Whether a tracked file differs from the commit; params.yaml and what the pipeline itself writes do not count.

    So `dvc exp run -S` is not dirty: the commit and the run's params tell what ran.
    None where there is no commit to differ from.
    """
    excluded = [f":(exclude){path}" for path in NOT_CODE]
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *excluded, root=root)
    return None if changes is None or git_commit(root) is None else bool(changes)


def changed_params(params: Mapping[str, Any], root: Path = Path()) -> dict[str, Any]:
    """The parameters, by their full key, that differ from params.yaml as it is committed.

    Empty if there is no commit, or if its params.yaml belongs to another version of the code.
    """
    text = _git("show", "HEAD:./params.yaml", root=root)
    if text is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        committed_file = Path(folder, "params.yaml")
        committed_file.write_text(text, encoding="utf-8")
        try:
            committed = read_params(committed_file).flattened()
        except InputError:
            return {}
    return {key: value for key, value in params.items() if key in committed and committed[key] != value}


def committed_text(path: Path) -> str | None:
    """What the file held when it was last committed on this branch; None where it never was."""
    return _git("show", f"HEAD:./{path.name}", root=path.parent)


def commit_of_file(path: Path) -> str | None:
    """The last commit that changed the file, in full; None where there is none."""
    return _git("log", "-1", "--format=%H", "--", path.name, root=path.parent) or None


def content_digest(path: Path) -> str:
    """DVC's hash of a file or a folder: md5 of the bytes, or of the sorted list of files (then ends in .dir).

    Equals what dvc.lock says of the same content, unless .dvcignore hides a part of the folder.
    """
    if not path.is_dir():
        return _md5_of_file(path)
    files = sorted(entry for entry in path.rglob("*") if entry.is_file())
    listing = [{"md5": _md5_of_file(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    listing.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(listing).encode(), usedforsecurity=False).hexdigest() + ".dir"


def library_versions() -> dict[str, str]:
    """The versions of Python and of the libraries that shape a result, by name; nothing is imported."""
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def device_name(device: str) -> str:
    """A device in words that compare between machines: 'cuda: NVIDIA H200', 'cpu: x86_64'; never a host name."""
    kind = device.partition(":")[0]
    if kind != "cuda":
        return f"{kind}: {platform.machine()}"
    import torch

    return f"cuda: {torch.cuda.get_device_name(device)}"


def _git(*arguments: str, root: Path) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git here, as in a slim container
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _md5_of_file(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)  # DVC's choice
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
