"""What training leaves on disk: the best and the last model, and every epoch's metrics."""

import csv
import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lunaops.crops import Geometry
from lunaops.model import LunaModel, read_model_files, write_model, write_model_files
from lunaops.task import Task
from lunaops.training import EpochResult, validation_score

logger = logging.getLogger(__name__)

_KINDS = ("best", "last")


@dataclass(frozen=True)
class RecordedEpoch:
    """An epoch's numbers, by the names of EpochResult."""

    epoch: int
    samples: int
    metrics: dict[str, float]


class TrainingRecord:
    """Writes models/best, models/last, epochs.csv and metrics.json as the epochs come."""

    def __init__(self, models: Path, reports: Path, *, best_by: str, geometry: Geometry, task: Task) -> None:
        self.models = models
        self.reports = reports
        self._epochs: list[RecordedEpoch] = []
        self._best_by = best_by
        self._geometry = geometry
        self._task = task
        self._undefined: set[str] = set()
        reports.mkdir(parents=True, exist_ok=True)

    def add(self, result: EpochResult, model: LunaModel) -> None:
        """Take in an epoch: `model` becomes the last and, if its validation score is the highest so far, the best."""
        epoch = RecordedEpoch(result.epoch, result.samples, result.metrics)
        self._epochs.append(epoch)
        self._say(epoch)
        facts = {
            "task": self._task.facts,
            "crop": asdict(self._geometry),
            "epoch": epoch.epoch,
            "samples": epoch.samples,
            "metrics": defined(epoch.metrics),
        }
        write_model(model, self.models / "last", facts)
        if self.best_epoch is epoch:
            write_model(model, self.models / "best", facts)
        self._write_reports()

    @property
    def best_epoch(self) -> RecordedEpoch:
        """The epoch whose model is models/best: any is better than one whose score is undefined."""
        assert self._epochs, "no epoch was added"
        scores = [validation_score(epoch.metrics, self._best_by) for epoch in self._epochs]
        defined_scores = [score for score in scores if not math.isnan(score)]
        return self._epochs[scores.index(max(defined_scores)) if defined_scores else -1]

    def tensors(self) -> dict[str, Tensor]:
        """The weights of both models, none before the first epoch."""
        return {
            f"{kind}.{name}": tensor
            for kind in _KINDS
            if self._epochs
            for name, tensor in read_model_files(self.models / kind)[0].items()
        }

    def facts(self) -> dict[str, Any]:
        """The epochs, and what the models' folders say beside the weights."""
        said = {kind: read_model_files(self.models / kind)[1] for kind in _KINDS if self._epochs}
        return {"epochs": [asdict(epoch) for epoch in self._epochs], "models": said}

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Write anew what `tensors` and `facts` gave, and go on from there."""
        self._epochs = [RecordedEpoch(**epoch) for epoch in facts["epochs"]]
        for kind, said in facts["models"].items():
            weights = {k.removeprefix(f"{kind}."): tensor for k, tensor in tensors.items() if k.startswith(f"{kind}.")}
            write_model_files(self.models / kind, weights, said)
        self._write_reports()

    def _write_reports(self) -> None:
        """Write the table of the epochs anew; an undefined number is an empty cell, and null in JSON."""
        if not self._epochs:
            return
        with (self.reports / "epochs.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["epoch", "samples", *self._epochs[0].metrics])
            for one in self._epochs:
                numbers = ("" if math.isnan(value) else value for value in one.metrics.values())
                writer.writerow([one.epoch, one.samples, *numbers])
        best = self.best_epoch
        summary = {"epoch": best.epoch, "samples": best.samples, **_nested(best.metrics)}
        (self.reports / "metrics.json").write_text(json.dumps(summary, indent=1) + "\n")

    def _say(self, epoch: RecordedEpoch) -> None:
        for split in ("train", "val"):
            logger.info("epoch %d %-5s %s", epoch.epoch, split, _sentence(epoch.metrics, split))
        undefined = {name for name, value in epoch.metrics.items() if math.isnan(value)} - self._undefined
        if undefined:
            self._undefined |= undefined
            logger.warning("undefined, so empty in files and absent in MLflow: %s", ", ".join(sorted(undefined)))


def defined(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that are numbers."""
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def _sentence(metrics: dict[str, float], split: str) -> str:
    of = {name.removeprefix(f"{split}/"): value for name, value in metrics.items() if name.startswith(f"{split}/")}
    correct = ", ".join(
        f"{of[f'correct/{kind}']:.1f} % of {kind} ({of[f'num_correct_{kind}']:.0f}/{of[f'num_{kind}']:.0f})"
        for kind in ("neg", "pos")
    )
    return (
        f"loss {of['loss/all']:.4f}, correct {of['correct/all']:.1f} %: {correct}; precision {of['pr/precision']:.3f}, "
        f"recall {of['pr/recall']:.3f}, F1 {of['pr/f1_score']:.3f}, AUC {of['roc_auc']:.3f}, "
        f"AP {of['average_precision']:.3f}"
    )


def _nested(metrics: dict[str, float]) -> dict[str, dict[str, float | None]]:
    tree: dict[str, dict[str, float | None]] = {}
    for name, value in metrics.items():
        split, metric = name.split("/", 1)
        tree.setdefault(split, {})[metric] = None if math.isnan(value) else round(value, 6)
    return tree
