"""A folder that is complete or not there."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lunaops.disk import writing
from lunaops.errors import InputError

_NO_LOCKS = (errno.EBADF, errno.ENOLCK, errno.ENOTSUP)  # of a folder: over NFS


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it becomes `folder`, by one rename, when the block ends without an error.

    It lies beside `folder`, on the same file system. What stood at `folder` is then replaced; until then it stays,
    whatever happens. What was left by a process that died is cleared away first. Raises InputError where one that
    lives is filling it: two would spoil each other's work, and the download that a part comes from.
    """
    staging = folder.with_name(f".{folder.name}.unfinished")
    replaced = folder.with_name(f".{folder.name}.replaced")
    with writing(folder):
        if not folder.parent.exists():  # a file is refused below, by its name
            folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent, fcntl.LOCK_EX):  # one looks and makes at a time
            if staging.is_dir():
                _check_left(staging, folder)
            if replaced.exists() and not folder.exists():  # it died between the two renames
                replaced.rename(folder)
            _remove(replaced)
            _remove(staging)
            staging.mkdir()
            lock = _lock(staging, fcntl.LOCK_EX)
    try:
        yield staging
        with writing(folder):
            if folder.exists():
                folder.rename(replaced)
            staging.rename(folder)
            _remove(replaced)
    except BaseException:
        _remove(staging)  # after the rename it would be another's
        raise
    finally:
        os.close(lock)


def _check_left(staging: Path, folder: Path) -> None:
    try:
        with _locked(staging, fcntl.LOCK_EX | fcntl.LOCK_NB):
            pass
    except BlockingIOError as error:
        raise InputError(f"{folder}: another process is filling it; wait until it has ended, or end it") from error


@contextmanager
def _locked(place: Path, how: int) -> Iterator[None]:
    lock = _lock(place, how)
    try:
        yield
    finally:
        os.close(lock)


def _lock(place: Path, how: int) -> int:
    """Lock a folder until what is given is closed or the process ends; where folders have no locks, do without."""
    lock = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(lock, how)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            os.close(lock)
            raise
    return lock


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
