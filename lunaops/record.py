"""What training leaves on disk: the best and the last model, and every epoch's metrics."""

import csv
import json
import logging
import math
from dataclasses import asdict
from pathlib import Path

from lunaops.crops import Geometry
from lunaops.model import LunaModel, write_model
from lunaops.training import EpochResult

logger = logging.getLogger(__name__)


class TrainingRecord:
    """Writes models/best, models/last, epochs.csv and metrics.json as the epochs come."""

    def __init__(self, models: Path, reports: Path, *, best_by: str, geometry: Geometry) -> None:
        self.models = models
        self.reports = reports
        self._best: EpochResult | None = None
        self._best_by = best_by
        self._geometry = geometry
        self._undefined: set[str] = set()
        reports.mkdir(parents=True, exist_ok=True)

    def add(self, result: EpochResult, model: LunaModel) -> None:
        """Take in an epoch: `model` becomes the last and, if its validation score is the highest so far, the best."""
        self._say(result)
        self._append_row(result)
        facts = {
            "crop": asdict(self._geometry),
            "epoch": result.epoch,
            "samples": result.samples,
            "metrics": defined(result.metrics),
        }
        write_model(model, self.models / "last", facts)
        if self._best is None or self._is_better(result, self._best):
            self._best = result
            write_model(model, self.models / "best", facts)
            summary = {"epoch": result.epoch, "samples": result.samples, **_nested(result.metrics)}
            (self.reports / "metrics.json").write_text(json.dumps(summary, indent=1) + "\n")

    @property
    def best_epoch(self) -> EpochResult:
        """The epoch whose model is models/best."""
        assert self._best is not None, "no epoch was added"
        return self._best

    def _is_better(self, result: EpochResult, best: EpochResult) -> bool:
        """Whether the score rose (a loss: fell); any epoch is better than one whose score is undefined."""
        new, old = (one.metrics[f"val/{self._best_by}"] for one in (result, best))
        return math.isnan(old) or (new < old if self._best_by.startswith("loss/") else new > old)

    def _append_row(self, result: EpochResult) -> None:
        row = {"epoch": result.epoch, "samples": result.samples, **result.metrics}
        with (self.reports / "epochs.csv").open("w" if result.epoch == 1 else "a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if result.epoch == 1:
                writer.writerow(row)
            writer.writerow("" if isinstance(v, float) and math.isnan(v) else v for v in row.values())

    def _say(self, result: EpochResult) -> None:
        for split in ("train", "val"):
            logger.info("epoch %d %-5s %s", result.epoch, split, _sentence(result.metrics, split))
        undefined = {name for name, value in result.metrics.items() if math.isnan(value)} - self._undefined
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
