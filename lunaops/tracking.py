"""One tracker for a stage: MLflow for whoever compares runs, TensorBoard for whoever watches one."""

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lunaops import provenance
from lunaops.errors import InputError
from lunaops.tracking_mlflow import MlflowRun
from lunaops.tracking_tensorboard import Boards

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

Kind = Literal["train", "evaluate"]

logger = logging.getLogger(__name__)

_NOT_IN_THE_NAME = {  # sections whose changes cannot have changed the result of this kind of run
    "train": ("predict", "evaluate"),
    "evaluate": ("fetch", "phantom", "merge", "split", "crop", "model", "train", "augment"),
}
_NAMED_CHANGES = 3
_DVC_COPIES = (".dvc", "tmp", "exps")  # below the project: where `dvc exp run --temp` and --queue run, and then delete
_OF_A_MACHINE = ("fetch.directory", "fetch.labels_directory")  # a path says nothing to whoever compares


@dataclass(frozen=True)
class RunLink:
    """What a later stage must know of a run to hang its own below it; the ids are None if MLflow was off."""

    run_id: str | None
    model_id: str | None
    name: str


class Tracker:
    """Takes numbers, files and models; an MLflow or a TensorBoard that is off does nothing with them.

    Metric names are split/metric ('val/loss/all'), steps are training samples seen.
    """

    def __init__(self, name: str, mlflow_run: MlflowRun, boards: Boards) -> None:
        self._name = name
        self._mlflow = mlflow_run
        self._boards = boards

    @property
    def run_id(self) -> str | None:
        """MLflow's id of this run; None if there is no such run."""
        return self._mlflow.run_id

    @property
    def link(self) -> RunLink:
        """This run, for a later stage; complete once the model is logged."""
        return RunLink(self._mlflow.run_id, self._mlflow.model_id, self._name)

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Log numbers; those that are undefined (NaN or infinite) are left out."""
        defined = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        self._mlflow.log_metrics(defined, step=step)
        self._boards.log_metrics(defined, step=step)

    def log_scores(
        self, is_nodule: NDArray[np.bool_], scores: NDArray[np.floating], *, step: int, split: Literal["train", "val"]
    ) -> None:
        """Log a PR curve and each class's histogram of scores to TensorBoard; both arrays (n,)."""
        self._boards.log_scores(is_nodule, scores, step=step, split=split)

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
        self._mlflow.log_artifact(path, folder)

    def log_artifacts(self, folder_path: Path, folder: str | None = None) -> None:
        """Log all files below a folder, into a folder of the run's artifacts."""
        assert folder_path.is_dir(), folder_path
        self._mlflow.log_artifacts(folder_path, folder)

    def log_model(
        self,
        model: "nn.Module",
        example_hu: NDArray[np.float32],
        *,
        name: str = "model",
        metrics: Mapping[str, float],
        step: int,
    ) -> str | None:
        """Log the model for use elsewhere, without pickle, and return its id (None if MLflow is off).

        `model` returns (logits, probabilities); what is logged takes (n, 1, I, R, C) HU as float32 and returns the
        probabilities (n, 2). `example_hu` is one crop, (1, 1, I, R, C). `metrics` are those of the chosen epoch, as
        log_metrics was given them at `step`. Takes some seconds.
        """
        defined = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
        return self._mlflow.log_model(model, example_hu, name=name, metrics=defined, step=step)


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
) -> Iterator[Tracker]:
    """Open a run; it ends as finished, killed (Ctrl-C) or failed (any other exception).

    MLflow is where MLFLOW_TRACKING_URI says (default sqlite:///mlflow.db here; 'off': nowhere), in the experiment
    MLFLOW_EXPERIMENT_NAME (default lunaops). If it fails, one line says so and the stage goes on without it.
    `params` are flat. `inputs` are hashed as DVC does. `parent` is the run that trained what is evaluated.
    `tensorboard` is the folder of TensorBoard's runs; None: no TensorBoard. In the copy of the project that
    `dvc exp run --temp` makes, both are those of the project itself.
    """
    folder = _kept_folder()
    name = name or _run_name(kind, params, parent)
    all_tags = _provenance_tags(kind, inputs) | dict(tags or {})
    mlflow_run = MlflowRun(
        name=name,
        folder=folder,
        params=params,
        tags=all_tags,
        parent=(parent.run_id, parent.model_id) if parent else (None, None),
    )
    boards = Boards(tensorboard and folder / tensorboard)
    status: Literal["FINISHED", "FAILED", "KILLED"] = "FAILED"
    try:
        yield Tracker(name, mlflow_run, boards)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        boards.close()
        mlflow_run.close(status)


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


def _kept_folder() -> Path:
    """The working directory, or the project that DVC copied into it for an experiment."""
    here = Path.cwd().parts
    for depth in range(len(here)):
        if here[depth : depth + len(_DVC_COPIES)] == _DVC_COPIES:
            return Path(*here[:depth])
    return Path()


def _run_name(kind: Kind, params: Mapping[str, Any], parent: RunLink | None) -> str:
    """What tells this run from its neighbours, the telling part first: lists cut names off at their end.

    'learning_rate=0.01 3b9faae': what was changed since the commit, and the commit; 'train 3b9faae': nothing was.
    In `dvc exp run`, the experiment's name takes the commit's place.
    """
    changes = [
        f"{key.rpartition('.')[2]}={value}"
        for key, value in provenance.changed_params(params).items()
        if key.partition(".")[0] not in _NOT_IN_THE_NAME[kind] and key not in _OF_A_MACHINE
    ]
    if len(changes) > _NAMED_CHANGES:
        changes[_NAMED_CHANGES:] = [f"+{len(changes) - _NAMED_CHANGES}"]
    if parent:
        return " ".join([kind, *changes, parent.name])
    origin = os.environ.get("DVC_EXP_NAME") or (provenance.git_commit() or "")[:7]
    return " ".join([*(changes or [kind]), origin]).strip()


def _provenance_tags(kind: Kind, inputs: Mapping[str, Path]) -> dict[str, str]:
    tags = {
        "lunaops.kind": kind,
        "mlflow.source.name": f"stages/{kind}.py",  # MLflow's own choice would be a path of this machine
        "mlflow.source.type": "LOCAL",
    }
    commit, is_dirty = provenance.git_commit(), provenance.is_dirty()
    if commit is not None:
        tags |= {"mlflow.source.git.commit": commit, "git.dirty": str(is_dirty).lower()}
    tags |= {f"version.{library}": version for library, version in provenance.library_versions().items()}
    return tags | {f"dvc.{name}": provenance.content_digest(path) for name, path in inputs.items()}
