"""MLflow's half of tracking: one run, written to its journal at once and delivered from there."""

import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lunaops.tracking_delivery import JOURNALS, Delivery
from lunaops.tracking_journal import Entry, Journal, read_entries, store_name_of
from lunaops.tracking_model import save_served_model
from lunaops.tracking_store import reason_of, store_errors, store_of
from lunaops.tracking_stored_run import described_dataset
from lunaops.tracking_system import SYSTEM, SystemMetrics

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

Status = Literal["FINISHED", "FAILED", "KILLED"]

logger = logging.getLogger(__name__)

_DEFAULT_EXPERIMENT = "lunaops"
_PARAM_LENGTH = 6000  # MLflow's limit
_PATIENCE: dict[Status, float] = {"FINISHED": 60.0, "FAILED": 15.0, "KILLED": 5.0}  # seconds


class MlflowRun:
    """A run for MLflow. Every call writes to the journal and returns; no failure of MLflow reaches the caller.

    `parent` is the journal of the training run: it makes this run that run's child and its metrics those of that run's
    model. `resume` is the journal of an interrupted run to go on with: what it has already is not logged again.
    `resume_file` is what such a run goes on from: the journal stays while that is there.
    """

    def __init__(
        self,
        *,
        name: str,
        project: Path,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent: str | None = None,
        resume: str | None = None,
        resume_file: Path | None = None,
        is_monitored: bool = False,
    ) -> None:
        self._name = name
        self._store = store_of(project)
        self._journal: Journal | None = None
        self._is_broken = False
        self._past = _Past()
        self._delivery: Delivery | None = None
        self._system: SystemMetrics | None = None
        if self._store is None:
            return
        start = {
            "do": "start",
            "store": self._store.name,
            "name": name,
            "experiment": os.environ.get("MLFLOW_EXPERIMENT_NAME") or _DEFAULT_EXPERIMENT,
            "params": {key: _param_text(value) for key, value in params.items()},
            "tags": dict(tags),
            "parent": parent,
            "resume_file": resume_file and os.path.relpath(resume_file.resolve(), project.resolve()),
        }
        with self._recording():
            self._open(project / JOURNALS, start, resume)
        if self._journal is not None:
            self._store.client()  # imports MLflow here: no other thread may while loader workers are forked
            self._delivery = Delivery(self._store, project, self._journal.folder)
            if is_monitored:
                self._system = SystemMetrics(self._log_system_metrics, first_step=self._past.num_system_steps)

    @property
    def run_id(self) -> str | None:
        """MLflow's id of this run; None until MLflow has it."""
        return self._delivery.run_id if self._delivery else None

    @property
    def journal_id(self) -> str | None:
        """The id of this run's journal, which MLflow keeps as a tag; None where MLflow is off."""
        return self._journal.id if self._journal else None

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Log finite numbers."""
        fresh = {key: value for key, value in metrics.items() if step not in self._past.steps_of.get(key, ())}
        if fresh:
            with self._recording():
                self._past.millis_of_step[step] = self._append({"do": "metrics", "step": step, "values": fresh})

    def log_dataset(self, frame: "pd.DataFrame", *, name: str, context: str, digest: str, source: Path) -> None:
        """Log the schema and the counts of the rows used; the rows stay where they are."""
        if self._journal is None or context in self._past.contexts:
            return
        described = described_dataset(frame, name=name, digest=digest, source=source, profile=_counts(frame))
        with self._recording():
            self._append({"do": "dataset", "context": context, "dataset": described})

    def log_files(self, path: Path, folder: str | None) -> None:
        """Log a file, or all files below a folder, as they are now."""
        with self._recording():
            self._append_files({"do": "files", "folder": folder}, path)

    def log_checkpoint(self, path: Path, *, epoch: int, best_epoch: int, keep: int) -> None:
        """Log the files of an epoch; the last `keep` epochs' and the best one's stay, the others' go."""
        if self._journal is None or self._is_broken:
            return
        checkpoints = self._past.checkpoints
        with self._recording():
            if epoch not in checkpoints and keep > 0:
                entry = {"do": "files", "folder": _folder_of(epoch), "epoch": epoch}
                checkpoints[epoch] = self._append_files(entry, path)
            epochs = sorted(checkpoints)
            for old in sorted(set(epochs[: max(len(epochs) - keep, 0)]) - {best_epoch}):
                self._append({"do": "drop", "folder": _folder_of(old), "epoch": old})
                self._journal.drop(checkpoints.pop(old))

    def log_model(
        self,
        model: "nn.Module",
        example_hu: NDArray[np.float32],
        *,
        name: str,
        metrics: Mapping[str, float],
        step: int,
    ) -> None:
        """Log the model and the metrics of its step. Exporting takes some seconds."""
        if self._journal is None or self._past.has_model:
            return
        folder = self._journal.files_folder()
        try:
            save_served_model(model, example_hu, folder)
        except store_errors() as error:
            shutil.rmtree(folder, ignore_errors=True)
            logger.warning("the model cannot be exported, so MLflow gets none: %s", reason_of(error))
            return
        entry = {"do": "model", "name": name, "step": step, "values": dict(metrics), "files": folder.name}
        with self._recording():  # at the time of its step: no point of the run appears twice
            self._append(entry, millis=self._past.millis_of_step.get(step))

    def register_model(self, name: str, *, evidence: Mapping[str, str], description: str) -> None:
        """Register the model of the parent run; a line says so where MLflow is off."""
        if self._journal is None:
            logger.warning("MLflow is off or gets no journal, so no version of %s is registered", name)
            return
        with self._recording():
            self._append({"do": "register", "name": name, "evidence": dict(evidence), "description": description})

    def flush(self) -> None:
        """See to it that the journal survives the machine."""
        with self._recording():
            if self._journal is not None:
                self._journal.sync()

    def close(self, status: Status, stop: threading.Event) -> None:
        """End the run and wait a while for its delivery, a short one once `stop` is set."""
        if self._system is not None:
            self._system.stop()
        with self._recording():
            self._append({"do": "end", "status": status})
        if self._journal is not None:
            self._journal.close()
        patience = _PATIENCE["KILLED" if self._is_broken else status]  # a broken journal has no end to wait for
        if self._delivery is not None and self._store is not None and not self._delivery.finish(patience, stop):
            text = "MLflow (%s) has not all of %r; `python -m lunaops sync-tracking` delivers the rest, or the next run"
            logger.warning(text, self._store.name, self._name)

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """A disk that refuses the journal costs the rest of it, not the run."""
        try:
            yield
        except OSError as error:
            self._is_broken = True
            logger.warning("%s/ cannot be written, so MLflow gets no more of this run: %s", JOURNALS, reason_of(error))

    def _open(self, journals: Path, start: Entry, resume: str | None) -> None:
        if resume:
            self._journal = _reopen(journals / resume, start["store"])
            if self._journal is not None:
                self._past = _read_past(self._journal.folder)
                self._append({"do": "resume", "resume_file": start["resume_file"]})
                return
            logger.warning("%s/%s is gone, in use or another store's: MLflow gets a new run", JOURNALS, resume)
        self._journal = Journal.create(journals)
        self._append(start)

    def _append(self, entry: Entry, *, millis: int | None = None) -> int:
        """Write an entry unless MLflow is off; returns its time."""
        if self._journal is None or self._is_broken:
            return 0
        written = self._journal.append(entry, millis=millis)
        if self._delivery is not None:
            self._delivery.notify()
        return written

    def _append_files(self, entry: Entry, path: Path) -> str:
        if self._journal is None or self._is_broken:
            return ""
        kept = self._journal.keep(path)
        self._append(entry | {"files": kept})
        return kept

    def _log_system_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        with self._recording():
            self._append({"do": "metrics", "step": step, "values": dict(metrics)})


@dataclass
class _Past:
    """What was logged that later calls depend on; `steps_of`, `contexts`, `has_model`: before a resumption."""

    steps_of: dict[str, set[int]] = field(default_factory=dict)
    contexts: set[str] = field(default_factory=set)
    has_model: bool = False
    num_system_steps: int = 0
    millis_of_step: dict[int, int] = field(default_factory=dict)
    checkpoints: dict[int, str] = field(default_factory=dict)  # the names of the files by their epoch


def _reopen(folder: Path, store_name: str) -> Journal | None:
    journal = Journal.reopen(folder)
    if journal is not None and store_name_of(folder) != store_name:
        journal.close()
        return None
    return journal


def _read_past(folder: Path) -> _Past:
    past = _Past()
    for _, entry in read_entries(folder):
        if entry["do"] == "metrics" and any(key.startswith(SYSTEM) for key in entry["values"]):
            past.num_system_steps = entry["step"] + 1
        elif entry["do"] == "metrics":
            past.millis_of_step[entry["step"]] = entry["millis"]
            for key in entry["values"]:
                past.steps_of.setdefault(key, set()).add(entry["step"])
        elif entry["do"] == "dataset":
            past.contexts.add(entry["context"])
        elif entry["do"] == "model":
            past.has_model = True
        elif entry["do"] == "files" and "epoch" in entry:
            past.checkpoints[entry["epoch"]] = entry["files"]
        elif entry["do"] == "drop":
            past.checkpoints.pop(entry["epoch"], None)
    return past


def _folder_of(epoch: int) -> str:
    return f"checkpoints/epoch-{epoch:03d}"


def _param_text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return text if len(text) <= _PARAM_LENGTH else text[: _PARAM_LENGTH - 1] + "…"


def _counts(frame: "pd.DataFrame") -> dict[str, int]:
    counts = {"num_rows": len(frame)}
    if "series_uid" in frame:
        counts["num_scans"] = int(frame["series_uid"].nunique())
    for label, name in (("is_nodule", "num_nodule_rows"), ("is_malignant", "num_malignant_rows")):
        if label in frame:
            counts[name] = int(frame[label].sum())
    return counts
