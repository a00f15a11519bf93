"""The index of the crop cache: SQLite as diskcache lays it out, which rows of it are ours, and what shows damage."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import diskcache

INDEX = "cache.db"
LOCKED_FOR_SECONDS = 60.0  # how long a writer waits for another one's transaction; they take milliseconds
_INLINE_BYTES = 1024  # what is shorter lies in cache.db itself
_DAMAGE = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_READONLY)  # no such column, a header that allows no writing, ...

_HEX = "[0-9a-f]"
_PLAIN = "typeof({0}) = 'text' AND {0} NOT GLOB '*[^ -~]*'"  # keys and words are JSON and digests: ASCII
PLAIN_VALUE = _PLAIN.format("value")
# A block as lunaops enters it. A row that is not so is damaged, or another program's: nothing of it is used.
WELL_FORMED = (
    f"({_PLAIN.format('key')} AND typeof(filename) = 'text' AND typeof(size) = 'integer' AND typeof(tag) = 'blob' "
    f"AND filename GLOB '{_HEX * 2}/{_HEX * 2}/{_HEX * 28}.val' AND length(tag) > 0 AND length(tag) % 8 = 0 "
    f"AND mode IS {diskcache.core.MODE_BINARY})"
)
_MALFORMED = f"FROM Cache WHERE filename IS NOT NULL AND NOT {WELL_FORMED}"


def connect(index: Path) -> sqlite3.Connection:
    """A connection that reads. In a read-only folder SQLite cannot follow writers, so there are to be none."""
    how = "mode=rw" if is_writable(index) else "immutable=1"
    return sqlite3.connect(f"file:{quote(str(index.absolute()))}?{how}", uri=True, timeout=LOCKED_FOR_SECONDS)


def open_writer(folder: Path) -> diskcache.Cache:
    """A connection that writes; makes the index where there is none. Damaged settings are a sqlite3.DatabaseError."""
    try:
        return diskcache.Cache(
            str(folder),
            timeout=LOCKED_FOR_SECONDS,
            eviction_policy="none",
            size_limit=2**62,
            cull_limit=0,
            disk_min_file_size=_INLINE_BYTES,
        )
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise sqlite3.DatabaseError(f"its settings: {error}") from error


def drop_malformed(index: Path) -> int:
    """Remove the rows of blocks that are not well formed, where that can be; how many there were."""
    with closing(connect(index)) as connection, connection:
        count = int(connection.execute(f"SELECT count(*) {_MALFORMED}").fetchone()[0])
        if count and is_writable(index):
            connection.execute(f"DELETE {_MALFORMED}")
        return count


def check_integrity(index: Path) -> None:
    """Read all of the index; damage is a sqlite3.DatabaseError."""
    with closing(connect(index)) as connection:
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(found)


def shows_damage(error: Exception) -> bool:
    """Whether the error is of the index's content: not where it is locked, the disk full, or there is no such file."""
    if not isinstance(error, sqlite3.OperationalError):
        return isinstance(error, sqlite3.DatabaseError | UnicodeDecodeError)
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)  # text that is not UTF-8 has no code
    return code & 0xFF in _DAMAGE


def is_writable(index: Path) -> bool:
    """Whether this process may write to the index and beside it."""
    return os.access(index.parent, os.W_OK) and os.access(index, os.W_OK)


def identity(index: Path) -> tuple[int, int] | None:
    """What tells the index from another that has taken its place; None where there is none."""
    try:
        status = index.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino
