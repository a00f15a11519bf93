"""Journals are delivered to MLflow in the background of a run."""

import json
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from lunaops.tracking_journal import (
    Delivered,
    Entry,
    delivery_lock,
    end_if_abandoned,
    files_of,
    find_journals,
    is_delivered,
    last_entry,
    leaving_unreadable,
    read_delivered,
    read_entries,
    remove_journal,
    store_name_of,
    write_delivered,
)
from lunaops.tracking_store import Store, reason_of, store_errors
from lunaops.tracking_stored_run import StoredRun

logger = logging.getLogger(__name__)

JOURNALS = "tracking"  # this folder of the project holds the journals
_POINTS_A_REQUEST = 1000  # MLflow's limit
_PAUSES = (1.0, 60.0)  # seconds between attempts: the first, doubled until the last
_LAST_PAUSE = 1.0  # seconds, once the run is over
_PATIENCE_WITH_THE_DEAD = 5.0  # seconds that a run that is over waits for a store that is not there
_PATIENCE_WITH_A_REQUEST = 1.0  # seconds
_PATIENCE_ONCE_STOPPED = 5.0  # seconds: a scheduler's SIGKILL follows its SIGTERM, often after 30
_DAYS_RESUMABLE = 30  # so long the journal of a run that can be resumed is kept for that


class JournalDelivery:
    """Delivers one journal, from where an earlier delivery stopped; who uses it holds the journal's delivery lock."""

    def __init__(self, store: Store, folder: Path, *, is_live: bool) -> None:
        self._store = store
        self._folder = folder
        self._is_live = is_live
        self._run: StoredRun | None = None
        self._delivered = read_delivered(folder)
        self.is_ended = False
        self.num_delivered = 0

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None until MLflow has it."""
        return self._delivered.run_id

    def deliver(self) -> Iterator[None]:
        """Deliver what the journal holds now, yielding after each step; raises the store's errors, then goes on."""
        if self._run is None:
            self._run = self._begin()
        for offset, entries in _batches(self._folder, self._delivered.offset):
            for entry in entries:
                self._run.note(entry)
            self._deliver(self._run, entries)
            self._delivered.offset = offset
            write_delivered(self._folder, self._delivered)
            self.is_ended = entries[-1]["do"] == "end"
            self.num_delivered += len(entries)
            if "files" in entries[0]:
                shutil.rmtree(files_of(self._folder, entries[0]["files"]), ignore_errors=True)
            yield

    def _begin(self) -> StoredRun:
        run = StoredRun(self._store, self._folder, self._delivered)
        if self._delivered.run_id is not None and not self._is_still_there(run):
            run = StoredRun(self._store, self._folder, self._delivered)
        for offset, entry in read_entries(self._folder):
            if offset > self._delivered.offset:
                break
            run.note(entry)
        return run

    def _is_still_there(self, run: StoredRun) -> bool:
        """Whether MLflow has the run. One that is lost is delivered anew; one that was deleted only if it lives."""
        state = run.state()
        if state == "active":
            return True
        old = self._delivered.run_id
        if state == "deleted" and not self._is_live:
            logger.warning("run %s was deleted in MLflow: what was left of it is not delivered", old)
            self._delivered.offset = (self._folder / "journal.jsonl").stat().st_size
            self.is_ended = True
        else:
            logger.warning("run %s is no longer in MLflow: it is delivered anew, but for files delivered before", old)
            self._delivered = Delivered()
        write_delivered(self._folder, self._delivered)
        return False

    def _deliver(self, run: StoredRun, entries: list[Entry]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            run.deliver(entries)
        except MlflowException as error:
            if error.error_code not in {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"}:
                raise
            if self._delivered.run_id is not None and run.state() != "active":
                self._run = None  # begin anew
                raise
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                raise
            if len(entries) > 1:
                for entry in entries:
                    self._deliver(run, [entry])
            else:
                text = json.dumps(entries[0])[:100]
                logger.warning("MLflow refuses %s…, left out: %s", text, reason_of(error))


class Delivery:
    """A thread that delivers older journals and then the run's own, while the run goes on.

    It keeps nothing in memory that grows: the journal is the queue.
    """

    def __init__(self, store: Store, project: Path, own: Path) -> None:
        self._store = store
        self._project = project
        self._folder = own
        self._own = JournalDelivery(store, own, is_live=True)
        self._more, self._closing, self._stopped = threading.Event(), threading.Event(), threading.Event()
        self._failed_since: float | None = None
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the own run; None until MLflow has it."""
        return self._own.run_id

    def notify(self) -> None:
        """The journal has grown."""
        self._more.set()

    def finish(self, seconds: float, stop: threading.Event) -> bool:
        """The journal has its end: wait for the delivery; returns whether all is delivered.

        At most so long, and once `stop` is set at most a few seconds more.
        """
        self._closing.set()
        self._more.set()
        began = time.monotonic()
        end = began + seconds
        self._wait(began, end, stop)
        if stop.is_set():
            self._wait(began, min(end, time.monotonic() + _PATIENCE_ONCE_STOPPED), threading.Event())
        self._stopped.set()
        self._more.set()
        self._thread.join(_PATIENCE_WITH_A_REQUEST)  # then the journal is free for whoever delivers the rest
        return not self._thread.is_alive() and self._own.is_ended

    def _wait(self, began: float, end: float, stop: threading.Event) -> None:
        while self._thread.is_alive() and time.monotonic() < end and not stop.is_set():
            if self._is_dead(since=began):
                return
            self._thread.join(0.05)

    def _is_dead(self, *, since: float) -> bool:
        failed_since = self._failed_since
        return failed_since is not None and time.monotonic() > max(since, failed_since) + _PATIENCE_WITH_THE_DEAD

    def _work(self) -> None:
        for folder in pending(self._project, self._store):
            if folder != self._folder:
                with leaving_unreadable(folder), delivery_lock(folder) as is_mine:
                    if is_mine:
                        self._deliver(JournalDelivery(self._store, folder, is_live=False))
        remove_done(self._project)
        while not self._stopped.is_set():
            with delivery_lock(self._folder) as is_mine:
                if is_mine:
                    self._deliver_own()
                    return
            self._stopped.wait(0.2)  # another process still delivers what an earlier start of this run logged

    def _deliver_own(self) -> None:
        while not self._stopped.is_set():
            self._more.clear()
            is_last = self._closing.is_set()
            self._deliver(self._own)
            if is_last and self._own.is_ended:
                if _is_done(self._folder, self._project):
                    remove_journal(self._folder)
                return
            self._more.wait()

    def _deliver(self, journal: JournalDelivery) -> None:
        """Deliver a journal as far as it goes, however often the store fails; until the run no longer waits."""
        pause = _PAUSES[0]
        while not self._stopped.is_set():
            try:
                for _ in journal.deliver():
                    self._worked()
                    pause = _PAUSES[0]
                    if self._stopped.is_set():
                        return
            except store_errors() as error:
                self._failed(error)
                self._pause(pause)
                pause = min(2 * pause, _PAUSES[1])
            else:
                return

    def _pause(self, seconds: float) -> None:
        if not self._closing.wait(seconds):
            return
        self._stopped.wait(_LAST_PAUSE)

    def _worked(self) -> None:
        if self._failed_since is not None:
            seconds = time.monotonic() - self._failed_since
            logger.info(
                "MLflow (%s) is back after %.0f s; what it missed is being delivered", self._store.name, seconds
            )
            self._failed_since = None

    def _failed(self, error: Exception) -> None:
        if self._failed_since is None:
            self._failed_since = time.monotonic()
            text = "MLflow (%s) failed; the run goes on, is recorded in %s/ and delivered when it is back: %s"
            logger.warning(text, self._store.name, JOURNALS, reason_of(error))


def pending(project: Path, store: Store) -> list[Path]:
    """The journals of this store that are not delivered to their end, the oldest first; the killed get their end."""
    return [folder for folder in find_journals(project / JOURNALS) if _is_pending(folder, store)]


def _is_pending(folder: Path, store: Store) -> bool:
    with leaving_unreadable(folder):
        if store_name_of(folder) == store.name:
            end_if_abandoned(folder)
            return not is_delivered(folder)
    return False


def remove_done(project: Path) -> None:
    """Remove the journals of which nothing more can come, whatever their store; who delivers one keeps it."""
    for folder in find_journals(project / JOURNALS):
        with leaving_unreadable(folder):
            _remove_if_done(folder, project)


def _remove_if_done(folder: Path, project: Path) -> None:
    if not _is_done(folder, project):  # a lock taken in vain would hide the journal from who delivers it
        return
    with delivery_lock(folder) as is_mine:
        if is_mine and _is_done(folder, project):
            remove_journal(folder)


def _is_done(folder: Path, project: Path) -> bool:
    """Whether a journal is delivered and its run is finished, or too old to be resumed.

    Even a finished run is resumed, where its process was killed before it could remove the file to resume from.
    """
    last = last_entry(folder)
    is_finished = last is not None and last["do"] == "end" and last["status"] == "FINISHED"
    age_days = (time.time() - (folder / "journal.jsonl").stat().st_mtime) / 86400
    can_go = (is_finished and not _is_resumable(folder, project)) or age_days > _DAYS_RESUMABLE
    return can_go and is_delivered(folder)


def _is_resumable(folder: Path, project: Path) -> bool:
    resume_file = None
    for _, entry in read_entries(folder):
        if "resume_file" in entry:  # the start, and a resumption: from another file perhaps
            resume_file = entry["resume_file"]
    return resume_file is not None and (project.resolve() / resume_file).exists()


def _batches(folder: Path, offset: int) -> Iterator[tuple[int, list[Entry]]]:
    """The entries, those of metrics that follow each other together, with the offset of the last one's end."""
    batch: list[Entry] = []
    num_points, end = 0, offset
    for next_end, entry in read_entries(folder, offset):
        points = len(entry["values"]) if entry["do"] == "metrics" else _POINTS_A_REQUEST
        if batch and num_points + points > _POINTS_A_REQUEST:
            yield end, batch
            batch, num_points = [], 0
        batch.append(entry)
        num_points += points
        end = next_end
    if batch:
        yield end, batch
