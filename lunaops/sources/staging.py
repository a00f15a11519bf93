"""A folder that is complete or not there, and has room."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lunaops.errors import InputError


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it becomes `folder`, by one rename, when the block ends without an error.

    It lies beside `folder`, on the same file system. What was left by a process that died is cleared away, and
    what stood at `folder` is replaced.
    """
    staging = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_room(folder: Path, num_bytes: int) -> None:
    """Raise InputError where the disk of `folder` has fewer bytes free."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise InputError(f"{folder}: needs {num_bytes / 1e9:.3g} GB, but {free / 1e9:.3g} GB are free; make room there")
