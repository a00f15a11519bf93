"""One tracker for a stage: MLflow for whoever compares runs, TensorBoard for whoever watches one."""

import json
import logging
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lunaops.errors import InputError
from lunaops.tracking_mlflow import MlflowRun, Status
from lunaops.tracking_names import Kind, provenance_tags, run_name
from lunaops.tracking_runs import fetch_artifact_of
from lunaops.tracking_tensorboard import Boards

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

logger = logging.getLogger(__name__)

_DVC_COPIES = (".dvc", "tmp", "exps")  # below the project: where `dvc exp run --temp` and --queue run, and then delete


@dataclass(frozen=True)
class RunLink:
    """What a later stage must know of a run to hang its own below it: its journal, which MLflow keeps as a tag.

    `journal_id` is None if MLflow was off.
    """

    journal_id: str | None
    name: str


class Tracker:
    """Takes numbers, files and models; an MLflow or a TensorBoard that is off does nothing with them.

    No call waits for MLflow. Metric names are split/metric ('val/loss/all'), steps are training samples seen.
    """

    def __init__(self, name: str, mlflow_run: MlflowRun, boards: Boards) -> None:
        self._name = name
        self._mlflow = mlflow_run
        self._boards = boards

    @property
    def run_id(self) -> str | None:
        """MLflow's id of this run; None if there is no such run, or not yet."""
        return self._mlflow.run_id

    @property
    def link(self) -> RunLink:
        """This run, for a later stage."""
        return RunLink(self._mlflow.journal_id, self._name)

    @property
    def position(self) -> dict[str, Any]:
        """Where this run is, for start_run(resume=...): small and JSON-able. What is logged is then on disk."""
        self._mlflow.flush()
        return {"name": self._name, "journal": self._mlflow.journal_id, **self._boards.position}

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Log numbers; those that are undefined (NaN or infinite) are left out."""
        defined = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        self._mlflow.log_metrics(defined, step=step)
        self._boards.log_metrics(defined, step=step)

    def log_scores(
        self, is_positive: NDArray[np.bool_], scores: NDArray[np.floating], *, step: int, split: Literal["train", "val"]
    ) -> None:
        """Log a PR curve and each class's histogram of scores to TensorBoard; both arrays (n,)."""
        self._boards.log_scores(is_positive, scores, step=step, split=split)

    def log_dataset(
        self,
        frame: "pd.DataFrame",
        *,
        name: str,
        context: Literal["training", "validation", "test"],
        digest: str,
        source: Path,
    ) -> None:
        """Log which rows were used for what: the frame's schema and counts, not its rows.

        `name` tells the rows ('candidates train'), `digest` is the hash of the file `source` that holds them.
        """
        self._mlflow.log_dataset(frame, name=name, context=context, digest=digest, source=source)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a file, into a folder of the run's artifacts."""
        assert path.is_file(), path
        self._mlflow.log_files(path, folder)

    def log_artifacts(self, folder_path: Path, folder: str | None = None) -> None:
        """Log all files below a folder but hidden ones, into a folder of the run's artifacts."""
        assert folder_path.is_dir(), folder_path
        self._mlflow.log_files(folder_path, folder)

    def log_checkpoint(self, folder_path: Path, *, epoch: int, best_epoch: int, keep: int) -> None:
        """Log an epoch's model as checkpoints/epoch-EPOCH; the last `keep` and the best stay, older ones are deleted.

        A store that lets nothing be deleted keeps what it got, and the log says so.
        """
        assert folder_path.is_dir(), folder_path
        self._mlflow.log_checkpoint(folder_path, epoch=epoch, best_epoch=best_epoch, keep=keep)

    def log_model(
        self,
        model: "nn.Module",
        example_hu: NDArray[np.float32],
        *,
        name: str = "model",
        metrics: Mapping[str, float],
        step: int,
    ) -> None:
        """Log the model for use elsewhere, without pickle; once a run.

        `model` returns (logits, probabilities); what is logged takes (n, 1, I, R, C) HU as float32 and returns the
        probabilities (n, 2). `example_hu` is one crop, (1, 1, I, R, C). `metrics` are those of the chosen epoch, as
        log_metrics was given them at `step`. Takes some seconds: the export is done here and now.
        """
        defined = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
        self._mlflow.log_model(model, example_hu, name=name, metrics=defined, step=step)

    def register_model(self, name: str, *, evidence: Mapping[str, str], description: str) -> None:
        """Register the parent run's model in MLflow as a version of `name`, once, with the alias challenger.

        `evidence` becomes its tags, with this run's id and commit. Where MLflow is off, or has no such model, a line
        says so.
        """
        self._mlflow.register_model(name, evidence=evidence, description=description)


@contextmanager
def start_run(
    *,
    kind: Kind,
    name: str | None = None,
    params: Mapping[str, Any],
    inputs: Mapping[str, Path],
    tags: Mapping[str, str] | None = None,
    parent: RunLink | None = None,
    tensorboard: Path | None = None,
    resume: Mapping[str, Any] | None = None,
    resume_file: Path | None = None,
    stop: threading.Event | None = None,
) -> Iterator[Tracker]:
    """Open a run; it ends as finished, killed (Ctrl-C) or failed (any other exception).

    MLflow is where MLFLOW_TRACKING_URI says (default sqlite:///mlflow.db here; 'off': nowhere), in the experiment
    MLFLOW_EXPERIMENT_NAME (default lunaops). It is told in the background, from the run's journal in tracking/; what
    it has not got when the run ends is delivered by the next run or by `python -m lunaops sync-tracking`.
    `params` are flat. `inputs` are hashed as DVC does. `parent` is the run that trained what is evaluated.
    `tensorboard` is the folder of TensorBoard's runs; None: no TensorBoard. `resume` is the position of an interrupted
    run to go on with: what it has is not logged again. `resume_file` is where the caller keeps positions until the run
    need not be resumed: while it is there the journal stays, even that of a finished run that is delivered. Once
    `stop` is set, the end waits no more than seconds for MLflow. In the copy of the project that `dvc exp run --temp`
    makes, all of these folders are those of the project itself.
    """
    project = _kept_folder()
    position = resume or {}
    name = name or position.get("name") or run_name(kind, params, parent=parent.name if parent else None)
    mlflow_run = MlflowRun(
        name=name,
        project=project,
        params=params,
        tags=provenance_tags(kind, inputs) | dict(tags or {}),
        parent=parent.journal_id if parent else None,
        resume=position.get("journal"),
        resume_file=resume_file,
        is_monitored=kind == "train",
    )
    boards = Boards(tensorboard and project / tensorboard, resume=position)
    status: Status = "FAILED"
    try:
        yield Tracker(name, mlflow_run, boards)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        boards.close()
        mlflow_run.close(status, stop or threading.Event())


def write_link(path: Path, link: RunLink) -> None:
    """Write a link as JSON, without a clock time or a machine's path."""
    path.write_text(json.dumps(asdict(link), indent=2) + "\n", encoding="utf-8")


def read_link(path: Path) -> RunLink:
    """Read what write_link wrote; raises InputError if it is not there or something else."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the train stage, which writes it")
    try:
        return RunLink(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not a link to a training run ({error}); run the train stage again") from error


def fetch_artifact(run_id: str, name: str, into: Path) -> Path:
    """Fetch a file that an MLflow run, or else the latest run below it, logged; raises InputError if there is none."""
    return fetch_artifact_of(run_id, name, into, folder=_kept_folder())


def _kept_folder() -> Path:
    """The working directory, or the project that DVC copied into it for an experiment."""
    here = Path.cwd().parts
    for depth in range(len(here)):
        if here[depth : depth + len(_DVC_COPIES)] == _DVC_COPIES:
            return Path(*here[:depth])
    return Path()
