"""The crop cache on disk: blocks of crops by key, in a folder that many processes share; the one door to diskcache.

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
from urllib.parse import quote

import diskcache
import numpy as np
import platformdirs
import xxhash

from lunaops.crop_block import Digests, Entry, StoredBlock, block_digest
from lunaops.ct import HuArray
from lunaops.errors import InputError

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOCKED_FOR_SECONDS = 60.0  # how long a writer waits for another one's transaction; they take milliseconds
_INLINE_BYTES = 1024  # what is shorter lies in cache.db itself
_INDEX = "cache.db"


def cache_folder() -> Path:
    """Where crops are kept: LUNAOPS_CACHE_DIR, or the user's cache folder by the system's convention."""
    chosen = os.environ.get("LUNAOPS_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("lunaops") / "crops"


class CropCache:
    """Blocks of crops by key. Raises InputError wherever the folder cannot be used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: diskcache.Cache | None = None

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

        try:
            with self._locked(fcntl.LOCK_SH):
                self._write(write)
        except InputError:
            self.sweep()
            raise
        return block_digest(digests)

    def recall(self, name: str) -> str | None:
        """The word that was remembered under `name`."""
        rows = self._select("SELECT value FROM Cache WHERE key = ? AND filename IS NULL", (name,))
        return str(rows[0][0]) if rows else None

    def remember(self, name: str, word: str) -> None:
        """Keep a short word beside the blocks."""
        self._write(lambda cache: cache.set(name, word))

    def entries(self, key: str | None = None) -> list[Entry]:
        """Every block, by key, or the one under `key`. Raises InputError for what no version of lunaops wrote."""
        query = "SELECT key, filename, size, tag, mode FROM Cache WHERE filename IS NOT NULL"
        rows = self._select(f"{query} ORDER BY key") if key is None else self._select(f"{query} AND key = ?", (key,))
        if any(mode != diskcache.core.MODE_BINARY for *_, mode in rows):
            raise InputError(f"{self.folder}: holds an entry that no version of lunaops wrote: clear that folder")
        return [
            Entry(str(key), self.folder / file, size, np.frombuffer(tag if isinstance(tag, bytes) else b"", "<u8"))
            for key, file, size, tag, _ in rows
        ]

    def remove(self, keys: Iterable[str]) -> None:
        """Remove entries; readers that have mapped a block keep it."""
        for key in keys:
            self._write(lambda cache, key=key: cache.delete(key))  # type: ignore[misc]

    def clear(self) -> None:
        """Remove everything."""
        self._write(lambda cache: cache.clear())
        self.sweep()

    def sweep(self) -> int:
        """Remove the files of writers that were killed before they had entered them; how many there were.

        Does nothing while another process writes: the next build comes by.
        """
        if not self.folder.is_dir() or not os.access(self.folder, os.W_OK):
            return 0
        try:
            with self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB):
                entered = {entry.file for entry in self.entries()}
                orphans = [path for path in self.folder.glob("??/??/*.val") if path not in entered]
                for path in orphans:
                    path.unlink(missing_ok=True)
                return len(orphans)
        except BlockingIOError:
            return 0

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
            if self._writer is None:
                self._writer = _open_writer(self.folder)
            action(self._writer)

        try:
            self._healed(with_writer)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error
        except diskcache.Timeout as error:
            raise InputError(
                f"{self.folder}: another process has held {_INDEX} for {LOCKED_FOR_SECONDS:.0f} s: end it, or wait"
            ) from error

    def _select(self, query: str, values: tuple[str, ...] = ()) -> list[tuple[Any, ...]]:
        if not (self.folder / _INDEX).is_file():
            return []

        def with_reader() -> list[tuple[Any, ...]]:
            with closing(_connect(self.folder / _INDEX)) as index:
                return index.execute(query, values).fetchall()

        try:
            return self._healed(with_reader)
        except sqlite3.Error as error:
            if "no such table" in str(error):  # another process is just making it, or it was emptied
                return []
            raise self._unusable(error) from error

    def _healed(self, action: Callable[[], T]) -> T:
        """What `action` gives; an index that is damaged is put aside and begun anew, without any block."""
        try:
            return action()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) or not os.access(self.folder, os.W_OK):
                raise  # locked, full, read-only: nothing is damaged, or nothing can be mended
            self._put_index_aside(error)
            return action()

    def _put_index_aside(self, error: sqlite3.Error) -> None:
        self.__exit__()
        index = self.folder / _INDEX
        with _flock(self.folder / "healing.lock", fcntl.LOCK_EX):
            if _is_damaged(index):  # else another process was first
                logger.warning(
                    "%s is damaged (%s): it is now %s.damaged, and every block will be cut again", index, error, _INDEX
                )
                for name in (f"{_INDEX}-wal", f"{_INDEX}-shm"):
                    (self.folder / name).unlink(missing_ok=True)
                with suppress(FileNotFoundError):
                    index.replace(self.folder / f"{_INDEX}.damaged")

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


def _open_writer(folder: Path) -> diskcache.Cache:
    return diskcache.Cache(
        str(folder),
        timeout=LOCKED_FOR_SECONDS,
        eviction_policy="none",
        size_limit=2**62,
        disk_min_file_size=_INLINE_BYTES,
    )


def _connect(index: Path) -> sqlite3.Connection:
    """A connection that reads. In a read-only folder SQLite cannot follow writers, so there are to be none."""
    how = "mode=rw" if os.access(index.parent, os.W_OK) and os.access(index, os.W_OK) else "immutable=1"
    return sqlite3.connect(f"file:{quote(str(index.absolute()))}?{how}", uri=True, timeout=LOCKED_FOR_SECONDS)


def _is_damaged(index: Path) -> bool:
    try:
        with closing(_connect(index)) as connection:
            return bool(connection.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",))
    except sqlite3.DatabaseError:
        return True


@contextmanager
def _flock(path: Path, how: int) -> Iterator[None]:
    """Hold a lock that ends with the process, however that ends."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, how)
        yield
    finally:
        os.close(lock)
