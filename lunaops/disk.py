"""Room on the disk: asked for before it is needed, missed in one line."""

import io
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lunaops.errors import InputError
from lunaops.progress import bytes_said


def check_space(needs: Mapping[Path, int]) -> None:
    """Raise InputError where the disks of these folders have fewer bytes free; two may be on one disk."""
    wanted: Counter[int] = Counter()
    for folder, num_bytes in needs.items():
        wanted[folder.stat().st_dev] += num_bytes
    for folder in needs:
        free, need = shutil.disk_usage(folder).free, wanted[folder.stat().st_dev]
        if free < need:
            raise InputError(f"{folder}: needs {bytes_said(need)}, but {bytes_said(free)} are free; make room there")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says against writing to `path`, such as that the disk is full, into an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}; mend that and run again") from error


def write_whole(path: Path, content: bytes) -> None:
    """Replace `path`, all at once, in a folder that is made; raises InputError where it cannot, and leaves it be.

    A process that is killed leaves the old file, and at most one beside it that the next writes over. It is for files
    that one process at a time writes.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except OSError:
            unfinished.unlink(missing_ok=True)  # a part of it would keep the disk full
            raise


def write_block(file: io.FileIO, block: bytes) -> None:
    """Write all of `block`; of an unbuffered file nothing is then left for close(), where a full disk would be missed.

    Raises InputError where it cannot; what fitted stays.
    """
    rest = memoryview(block)
    with writing(Path(str(file.name))):
        while rest:
            rest = rest[file.write(rest) :]
