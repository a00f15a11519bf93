"""A block of crops on disk: its file, mapped into memory, and the digests that its crops are held against.

Each crop has its xxh3_64; the xxh3_128 of these is the block's digest, which the manifest names. So a block is checked
as it is used: opening it checks its size and the list of digests, and each crop is held against its own digest when a
process first reads it. Digesting whole blocks when they are opened would have every worker read LUNA16's 81 GB before
it trains; digesting a crop costs a fifth of copying it, and only the first time.

Reading a map behind the end of its file kills a process (SIGBUS), so the file's size is looked at before a crop is
first read. What remains is a file that is cut short between that look and the reading, or after the crop was checked:
nothing of ours shortens a block, it is replaced by another file.
"""

import mmap
import resource
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from lunaops.ct import HuArray
from lunaops.errors import InputError

Digests = NDArray[np.uint64]

_MANY_FILES = 8192


def block_digest(digests: Digests) -> str:
    """xxh3_128 of the digests of a block's crops: the name of its content."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(digests, "<u8").data)


class StoredBlock:
    """One scan's crops, `hu` (n, slices, rows, columns), memory-mapped and read-only; `digest` names its content."""

    def __init__(self, file: mmap.mmap, shape: tuple[int, ...], digests: Digests) -> None:
        self.hu: HuArray = np.frombuffer(file, np.int16).reshape(shape)
        self._file = file
        self.digest = block_digest(digests)
        self._digests: list[int] = digests.tolist()
        self.checked = bytearray(len(self.hu))  # 1: this process has held the crop against its digest

    def is_sound(self, row: int) -> bool:
        """Whether the crop at `row` is what was written; looks once, then remembers."""
        if not self.checked[row] and self._file.size() >= self.hu.nbytes:
            self.checked[row] = xxhash.xxh3_64_intdigest(self.hu[row].data) == self._digests[row]
        return bool(self.checked[row])


@dataclass(frozen=True)
class Entry:
    """A block as the index names it."""

    key: str
    file: Path
    size: int  # bytes
    digests: Digests

    @property
    def digest(self) -> str:
        """The name of its content."""
        return block_digest(self.digests)

    def is_whole(self) -> bool:
        """Whether its file has the size that was written."""
        with suppress(OSError):
            return len(self.digests) > 0 and self.file.stat().st_size == self.size
        return False

    def mapped(self, shape: tuple[int, ...]) -> StoredBlock | None:
        """The block, memory-mapped; None where it has been removed, replaced or cut short by now."""
        _allow_many_files()
        try:
            with self.file.open("rb") as file:
                return StoredBlock(mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ), shape, self.digests)
        except (FileNotFoundError, ValueError):  # a ValueError: it has been cut short by now
            return None
        except OSError as error:
            raise InputError(f"{self.file}: a block of crops cannot be read: {error.strerror}") from error

    def num_damaged(self) -> int:
        """Read all of it: how many of its crops are not what was written."""
        if not self.is_whole():
            return max(len(self.digests), 1)
        crop_bytes = self.size // len(self.digests)
        with self.file.open("rb", buffering=0) as file:
            read = (xxhash.xxh3_64_intdigest(file.read(crop_bytes)) for _ in self.digests)
            return sum(found != wanted for found, wanted in zip(read, self.digests.tolist(), strict=True))


class Unnamed(NamedTuple):
    """Files of blocks that the index does not name: how many, and their bytes."""

    files: int = 0
    size: int = 0

    @classmethod
    def of(cls, paths: Iterable[Path]) -> "Unnamed":
        """The amount of these files, of those that are still there."""
        sizes = []
        for path in paths:
            with suppress(FileNotFoundError):
                sizes.append(path.stat().st_size)
        return cls(len(sizes), sum(sizes))

    def __str__(self) -> str:
        amount = f"{self.size} bytes ({self.size / 1e9:.2f} GB)"
        return f"{self.files} files of blocks, {amount}, that the index does not name"


def _allow_many_files() -> None:
    """Lift this process's limit of open files as far as it may: Python keeps a mapped file open.

    LUNA16's 888 blocks and a loader's own files meet the usual limit of 1024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, _MANY_FILES)
    if soft < wanted:
        with suppress(ValueError):  # macOS refuses what its kernel does not allow
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
