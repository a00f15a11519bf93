"""A run's journal: what was logged, line by line on this disk, before anything is sent anywhere."""

import fcntl
import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import IO, Any

from lunaops.tracking_store import reason_of

logger = logging.getLogger(__name__)

Entry = dict[str, Any]

_JOURNAL, _DELIVERED, _FILES, _LOCK = "journal.jsonl", "delivered.json", "files", "delivery.lock"
_REMOVED = ".removed-"  # so begins the name of a folder that is being removed
_WAIT_FOR_WRITER = 15.0  # seconds: the loader workers of a killed process hold its lock until they notice, some 5 s


@dataclass
class Delivered:
    """How far a journal is delivered: bytes of it that MLflow has, and the ids that MLflow gave."""

    offset: int = 0
    run_id: str | None = None
    experiment_id: str | None = None
    model_id: str | None = None  # of the model that the run logged
    evaluated_model_id: str | None = None  # of the model that the run evaluates


class Journal:
    """The journal of one run, open for writing by one process: FOLDER/ID/journal.jsonl, FOLDER/ID/files.

    The first entry is {"do": "start", ...}, each entry carries its time in ms. Raises OSError where the disk refuses.
    """

    def __init__(self, folder: Path, file: IO[bytes]) -> None:
        self.folder = folder
        self._file = file
        self._append_lock = threading.Lock()

    @classmethod
    def create(cls, parent: Path) -> "Journal":
        """A new journal without an entry, in a folder of its own whose name is its id and sorts by age."""
        folder = parent / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        file = (folder / _JOURNAL).open("ab", buffering=0)
        _lock(file, 0.0)
        return cls(folder, file)

    @classmethod
    def reopen(cls, folder: Path, *, wait: float = _WAIT_FOR_WRITER) -> "Journal | None":
        """An existing journal, without the line that a killed process tore; None if it is gone or another writes it."""
        try:
            file = (folder / _JOURNAL).open("r+b", buffering=0)
        except FileNotFoundError:
            return None
        if not _lock(file, wait):
            file.close()
            return None
        file.truncate(_whole_bytes(file))
        file.seek(0, os.SEEK_END)
        return cls(folder, file)

    @property
    def id(self) -> str:
        """What MLflow's tag lunaops.journal_id of this run says."""
        return self.folder.name

    def append(self, entry: Entry, *, millis: int | None = None) -> int:
        """Write one entry as of now, or of `millis`; returns that time."""
        stamped = entry | {"millis": int(time.time() * 1000) if millis is None else millis}
        line = json.dumps(stamped, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        with self._append_lock:
            if self._file.write(line) != len(line):
                raise OSError(f"{self.folder}: the disk is full")
        return int(stamped["millis"])

    def files_folder(self) -> Path:
        """A place for files that an entry speaks of by the folder's name; it appears with the first file."""
        return self.folder / _FILES / uuid.uuid4().hex[:12]

    def keep(self, path: Path) -> str:
        """Copy a file, or the files below a folder, as they are now; returns the name for an entry.

        Hidden files of a folder are left out: DVC writes a .gitignore beside what it keeps.
        """
        kept = self.files_folder()
        if path.is_dir():
            shutil.copytree(path, kept, ignore=shutil.ignore_patterns(".*"))
        else:
            kept.mkdir(parents=True)
            shutil.copy2(path, kept)
        return kept.name

    def drop(self, name: str) -> None:
        """Delete kept files, delivered or not."""
        shutil.rmtree(files_of(self.folder, name), ignore_errors=True)

    def sync(self) -> None:
        """See to it that what was written survives the machine."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let another process write."""
        self._file.close()


def files_of(folder: Path, name: str) -> Path:
    """Where a journal keeps the files that an entry calls by `name`."""
    return folder / _FILES / name


def read_entries(folder: Path, offset: int = 0) -> Iterator[tuple[int, Entry]]:
    """The entries from `offset` on, each with the offset of its end; a line that is still being written is left out."""
    with (folder / _JOURNAL).open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield offset, json.loads(line)


def last_entry(folder: Path) -> Entry | None:
    """The last whole entry; None if there is none yet."""
    for _, entry in deque(read_entries(folder), maxlen=1):
        return entry
    return None


def store_name_of(folder: Path) -> str | None:
    """The store that a journal was written for; None if it has no whole entry yet."""
    for _, start in read_entries(folder):
        return str(start["store"])
    return None


def read_delivered(folder: Path) -> Delivered:
    """How far the journal is delivered; from the start where nothing says so."""
    try:
        return Delivered(**json.loads((folder / _DELIVERED).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Delivered()


def write_delivered(folder: Path, delivered: Delivered) -> None:
    """Write it down at once or not at all."""
    fresh = folder / f"{_DELIVERED}.new"
    with fresh.open("w", encoding="utf-8") as file:
        file.write(json.dumps(asdict(delivered)))
        file.flush()
        os.fsync(file.fileno())  # else a machine that fails may leave the new name on an empty file
    fresh.replace(folder / _DELIVERED)


def is_delivered(folder: Path) -> bool:
    """Whether the store has all that the journal holds now."""
    return not any(True for _ in read_entries(folder, read_delivered(folder).offset))


@contextmanager
def delivery_lock(folder: Path) -> Iterator[bool]:
    """Whether this process alone delivers the journal, until the block ends."""
    file = _open_lock(folder)
    if file is None:
        yield False
        return
    with file:
        yield _lock(file, 0.0) and (folder / _JOURNAL).exists()


def remove_journal(folder: Path) -> None:
    """Remove a journal, at once for all others; who does so holds its delivery lock. What the disk refuses stays."""
    aside = folder.with_name(f"{_REMOVED}{folder.name}")
    with suppress(OSError):
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def leaving_unreadable(folder: Path) -> Iterator[None]:
    """One line if the block cannot read this journal, which stays as it is; nothing if another process removed it."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError) as error:  # torn by the disk, or of another version
        if (folder / _JOURNAL).exists():
            _say_unreadable(folder, f"{type(error).__name__}: {reason_of(error)}")


def end_if_abandoned(folder: Path) -> None:
    """Write the end that a killed process could not; the journal of a living one stays as it is."""
    journal = Journal.reopen(folder, wait=0.0)
    if journal is None:
        return
    with closing(journal):
        last = last_entry(folder)
        if last is not None and last["do"] != "end":
            journal.append({"do": "end", "status": "KILLED"}, millis=last["millis"])


def find_journals(parent: Path) -> list[Path]:
    """The folders of all journals, the oldest first: a training before its evaluation."""
    folders = (file.parent for file in parent.glob(f"*/{_JOURNAL}"))
    return sorted(folder for folder in folders if not folder.name.startswith(_REMOVED))


def _open_lock(folder: Path) -> IO[bytes] | None:
    """The file that is locked; None if the journal is gone, even since it was looked for."""
    try:
        return (folder / _LOCK).open("wb") if (folder / _JOURNAL).exists() else None
    except FileNotFoundError:
        return None


@cache
def _say_unreadable(folder: Path, reason: str) -> None:
    """Once a process."""
    logger.warning("%s cannot be read, so it is left as it is; remove it if it is of no use: %s", folder, reason)


def _lock(file: IO[bytes], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.1)
        else:
            return True


def _whole_bytes(file: IO[bytes]) -> int:
    return file.read().rfind(b"\n") + 1
