"""A folder that is complete or not there."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lunaops.sources.disk import writing


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it becomes `folder`, by one rename, when the block ends without an error.

    It lies beside `folder`, on the same file system. What stood at `folder` is then replaced; until then it stays,
    whatever happens. What was left by a process that died is cleared away first.
    """
    staging = folder.with_name(f".{folder.name}.unfinished")
    replaced = folder.with_name(f".{folder.name}.replaced")
    with writing(folder):
        if replaced.exists() and not folder.exists():  # it died between the two renames
            replaced.rename(folder)
        _remove(replaced)
        _remove(staging)
        staging.mkdir(parents=True)
    try:
        yield staging
        with writing(folder):
            if folder.exists():
                folder.rename(replaced)
            staging.rename(folder)
            _remove(replaced)
    finally:
        _remove(staging)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
