"""A block of crops on disk: its file, mapped into memory, and the digests that its crops are held against.

Each crop has its xxh3_64; the xxh3_128 of these is the block's digest, which the manifest names. So a block is checked
as it is used: opening it checks its size and the list of digests, and each crop is held against its own digest when a
process first reads it. Digesting whole blocks when they are opened would have every worker read LUNA16's 81 GB before
it trains; digesting a crop costs a fifth of copying it, and only the first time.
"""

import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

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

    def __init__(self, hu: HuArray, digests: Digests) -> None:
        self.hu = hu
        self.digest = block_digest(digests)
        self._digests: list[int] = digests.tolist()
        self.checked = bytearray(len(hu))  # 1: this process has held the crop against its digest

    def is_sound(self, row: int) -> bool:
        """Whether the crop at `row` is what was written; looks once, then remembers."""
        if not self.checked[row]:
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
        """The block, memory-mapped; None where another process has removed or replaced it by now."""
        _allow_many_files()
        try:
            with self.file.open("rb") as file:
                return StoredBlock(np.asarray(np.memmap(file, np.int16, "r", shape=shape)), self.digests)
        except FileNotFoundError:
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


def _allow_many_files() -> None:
    """Lift this process's limit of open files as far as it may: Python keeps a mapped file open.

    LUNA16's 888 blocks and a loader's own files meet the usual limit of 1024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, _MANY_FILES)
    if soft < wanted:
        with suppress(ValueError):  # macOS refuses what its kernel does not allow
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
