"""The crop cache on disk: blocks of crops by key, in a folder that many processes share.

diskcache keeps each block as a file of its own, its int16 crops and nothing else, and an index, cache.db, in SQLite. A
block's row in it carries the digests of its crops (crop_block.py says why).

Readers ask SQLite for a row and keep no connection: they may be forked, and the folder may be read-only. Writers take a
shared lock on the folder, so that what a killed one left can be told from what a living one is writing. SQLite's
locks want a local disk for writers: over a network file system share a folder that is finished, read-only.
"""

import errno
import fcntl
import json
import logging
import math
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import diskcache
import numpy as np
import platformdirs
import xxhash

from lunaops.crop_block import Digests, Entry, StoredBlock, Unnamed, block_digest
from lunaops.crop_index import (
    INDEX,
    LOCKED_FOR_SECONDS,
    PLAIN_VALUE,
    WELL_FORMED,
    check_integrity,
    connect,
    drop_malformed,
    identity,
    is_writable,
    open_writer,
    shows_damage,
)
from lunaops.ct import HuArray
from lunaops.errors import InputError

logger = logging.getLogger(__name__)

T = TypeVar("T")


def cache_folder() -> Path:
    """Where crops are kept: LUNAOPS_CACHE_DIR, or the user's cache folder by the system's convention."""
    chosen = os.environ.get("LUNAOPS_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("lunaops") / "crops"


class CropCache:
    """Blocks of crops by key. Raises InputError wherever the folder cannot be used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index = folder / INDEX
        self._writer: diskcache.Cache | None = None
        self._writes_to: tuple[int, int] | None = None

    def __enter__(self) -> "CropCache":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def entry(self, key: str, num_crops: int, crop_bytes: int) -> Entry | None:
        """The block kept under `key`, if its file and its list of digests have the right size; its bytes are not read.

        Reading them is what readers and `cache verify` do.
        """
        found = next(iter(self.entries(key)), None)
        if found is None:
            return None
        if len(found.digests) == num_crops and found.size == num_crops * crop_bytes and found.is_whole():
            return found
        logger.warning("a block of crops in %s is damaged and will be cut again: %s", self.folder, key)
        return None

    def open(self, key: str, shape: tuple[int, ...]) -> StoredBlock | None:
        """The block kept under `key`, memory-mapped; None where there is none, or one of another size."""
        entry = self.entry(key, shape[0], 2 * math.prod(shape[1:]))
        return None if entry is None else entry.mapped(shape)

    def put(self, key: str, cut: Callable[[], Iterable[HuArray]], num_crops: int) -> str:
        """Keep the crops that `cut` yields, (k, slices, rows, columns) at a time; the block's digest.

        What was kept under `key` is replaced; readers that have mapped it keep it. Raises InputError on a full disk,
        and keeps nothing then.
        """
        digests = np.empty(num_crops, "<u8")

        def write(cache: diskcache.Cache) -> None:
            # diskcache binds the tag after it has read the stream to its end: by then the digests are in it
            cache.set(key, _Stream(cut(), digests), read=True, tag=digests.data)
            if not self.entries(key):
                check_integrity(self._index)  # sorted wrongly, it finds nothing

        try:
            self._write(write)
        except InputError:
            self.sweep()
            raise
        return block_digest(digests)

    def recall(self, name: str) -> str | None:
        """The word that was remembered under `name`."""
        rows = self._select(f"SELECT value FROM Cache WHERE key = ? AND {PLAIN_VALUE}", (name,))
        return str(rows[0][0]) if rows else None

    def remember(self, name: str, word: str) -> None:
        """Keep a short word beside the blocks."""
        self._write(lambda cache: cache.set(name, word))

    def entries(self, key: str | None = None) -> list[Entry]:
        """Every block, by key, or the one under `key`; what no version of lunaops wrote so is dropped, and logged."""
        query = f"SELECT key, filename, size, tag FROM Cache WHERE {WELL_FORMED}"
        if key is None:
            self._drop_malformed()
            rows = self._select(f"{query} ORDER BY key")
        else:
            rows = self._select(f"{query} AND key = ?", (key,))
        return [Entry(key, self.folder / file, size, np.frombuffer(tag, "<u8")) for key, file, size, tag in rows]

    def remove(self, keys: Iterable[str]) -> None:
        """Remove entries; readers that have mapped a block keep it."""
        for key in keys:
            self._write(lambda cache, key=key: cache.delete(key))  # type: ignore[misc]

    def clear(self) -> None:
        """Remove everything, whatever state it is in."""
        with self._locked(fcntl.LOCK_EX):
            self.__exit__()
            for path in (*self.folder.glob(f"{INDEX}*"), *self._files()):
                path.unlink(missing_ok=True)

    def unnamed(self) -> Unnamed:
        """What the index does not name, while nobody writes: left by a build that was killed, or by a lost index."""
        return Unnamed.of(self._unnamed())

    def sweep(self) -> Unnamed:
        """Remove what the index does not name; how much that was.

        Does nothing while another process writes: the next build comes by.
        """
        if not self.folder.is_dir() or not os.access(self.folder, os.W_OK):
            return Unnamed()
        try:
            with self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB):
                paths = self._unnamed()
                amount = Unnamed.of(paths)
                for path in paths:
                    path.unlink(missing_ok=True)
                return amount
        except BlockingIOError:
            return Unnamed()

    def _files(self) -> Iterator[Path]:
        return self.folder.glob("??/??/*.val")

    def _unnamed(self) -> list[Path]:
        entered = {entry.file for entry in self.entries()}
        return [path for path in self._files() if path not in entered]

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Hold the folder: shared by those who write blocks, alone to tell whether anybody does."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _flock(self.folder / "writers.lock", how):
                yield
        except BlockingIOError:
            raise
        except OSError as error:
            raise self._unusable(error) from error

    def _write(self, action: Callable[[diskcache.Cache], Any]) -> None:
        def with_writer() -> None:
            if self._writer is None or self._writes_to != identity(self._index):  # cleared, or put aside
                self.__exit__()
                self._writer = open_writer(self.folder)
                self._writes_to = identity(self._index)
                self._log_dropped(drop_malformed(self._index))
            action(self._writer)

        try:
            with self._locked(fcntl.LOCK_SH):
                self._healed(with_writer)
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        except diskcache.Timeout as error:
            raise InputError(
                f"{self.folder}: another process has held {INDEX} for {LOCKED_FOR_SECONDS:.0f} s: end it, or wait"
            ) from error

    def _select(self, query: str, values: tuple[str, ...] = ()) -> list[tuple[Any, ...]]:
        def select() -> list[tuple[Any, ...]]:
            with closing(connect(self._index)) as index:
                return index.execute(query, values).fetchall()

        return self._read(select, [])

    def _drop_malformed(self) -> None:
        self._log_dropped(self._read(lambda: drop_malformed(self._index), 0))

    def _log_dropped(self, num_dropped: int) -> None:
        if num_dropped:
            logger.warning(
                "%s: %d damaged entries are dropped: their blocks will be cut again", self._index, num_dropped
            )

    def _read(self, action: Callable[[], T], nothing: T) -> T:
        def of_table() -> T:
            if not self._index.is_file():
                return nothing
            try:
                return action()
            except sqlite3.OperationalError as error:
                if "no such table: Cache" in str(error):  # another process is just making it, or it was emptied
                    return nothing
                raise

        try:
            return self._healed(of_table)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def _healed(self, action: Callable[[], T]) -> T:
        """What `action` gives; an index that is damaged is put aside and begun anew, without any block."""
        before = identity(self._index)
        try:
            return action()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if not shows_damage(error) or not is_writable(self._index):
                raise  # nothing is damaged, or nothing can be mended
            self._put_index_aside(error, before or identity(self._index))
            return action()

    def _put_index_aside(self, error: Exception, damaged: tuple[int, int] | None) -> None:
        self.__exit__()
        with _flock(self.folder / "healing.lock", fcntl.LOCK_EX):
            if identity(self._index) == damaged:  # else another process was first
                logger.warning(
                    "%s is damaged (%s): it is now %s.damaged, and every block will be cut again",
                    *(self._index, error, INDEX),
                )
                for name in (f"{INDEX}-wal", f"{INDEX}-shm"):
                    (self.folder / name).unlink(missing_ok=True)
                with suppress(FileNotFoundError):
                    self._index.replace(self.folder / f"{INDEX}.damaged")

    def _unusable(self, error: Exception) -> InputError:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if full or "full" in str(error):
            return InputError(f"{self.folder}: a block of crops cannot be written: {error}; make room there")
        return InputError(f"{self.folder}: no crop cache can be kept there: {error}; set LUNAOPS_CACHE_DIR")


def file_name(kind: str, path: Path) -> str:
    """A name for what is remembered of a file, until it is replaced or written to, as git and DVC know a file by."""
    status = path.stat()
    place = str(path.resolve())
    return json.dumps([kind, place, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns])


class _Stream:
    """What diskcache reads a file's bytes from: chunks of crops, each digested while it is still at hand."""

    def __init__(self, chunks: Iterable[HuArray], digests: Digests) -> None:
        self._chunks = iter(chunks)
        self._digests = digests
        self._done = 0

    def read(self, _: int) -> memoryview | bytes:
        chunk = next(self._chunks, None)
        if chunk is None:
            return b""
        for crop in chunk:
            self._digests[self._done] = xxhash.xxh3_64_intdigest(crop.data)
            self._done += 1
        return chunk.data.cast("B")


@contextmanager
def _flock(path: Path, how: int) -> Iterator[None]:
    """Hold a lock that ends with the process, however that ends."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, how)
        yield
    finally:
        os.close(lock)
