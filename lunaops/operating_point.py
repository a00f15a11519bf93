"""How a score is read: the temperature and the threshold, both decided on val and never on test."""

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lunaops.calibration import TEMPERATURES, fit_temperature, scale
from lunaops.errors import InputError
from lunaops.froc import froc
from lunaops.params import EvaluateParams
from lunaops.scored_split import Reference, ScoredSplit, scored_split
from lunaops.thresholds import best_f1, highest_sensitive, lowest_within

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OperatingPoint:
    """A score is scaled by `temperature` (1: as it is), then called positive from `threshold` on."""

    threshold: float
    temperature: float

    def read(self, predictions: pd.DataFrame) -> pd.DataFrame:
        """The predictions with scores scaled."""
        return predictions.assign(score=scale(predictions["score"], self.temperature))


def operating_point(predictions: pd.DataFrame, reference: Reference, params: EvaluateParams) -> OperatingPoint:
    """The temperature and the threshold that `params` ask for, from the candidates of val where they ask for it.

    A rule's threshold is a score of val, scaled. Raises InputError where a rule wants val and `predictions` lack it,
    or where val does not allow what the rule wants.
    """
    asking = [*_rule_asking(params), *(["evaluate.calibrate"] if params.calibrate else [])]
    if not asking:
        return OperatingPoint(params.threshold, 1.0)
    decides = f"{' and '.join(asking)} {'decides' if len(asking) == 1 else 'decide'} on val"
    remedy = f"{decides}: predict with val in predict.splits, or switch {'it' if len(asking) == 1 else 'them'} off"
    val = scored_split("val", predictions, reference, params, remedy=remedy)
    if params.split == "val":
        logger.warning("%s, which is also evaluated: its numbers flatter", decides)
    temperature = _temperature(val) if params.calibrate else 1.0
    if params.threshold_rule == "fixed":
        return OperatingPoint(params.threshold, temperature)
    return OperatingPoint(float(scale(_threshold(val, params), temperature)), temperature)


def _rule_asking(params: EvaluateParams) -> list[str]:
    return [] if params.threshold_rule == "fixed" else [f"evaluate.threshold_rule {params.threshold_rule}"]


def _temperature(val: ScoredSplit) -> float:
    label, score = val.label, val.predictions["score"]
    if label.nunique() < 2:
        raise InputError(
            f"evaluate.calibrate: all {len(label)} scored candidates of val are of one class, a temperature wants "
            "both; set evaluate.calibrate: false"
        )
    temperature = fit_temperature(label, score)
    if min(abs(np.log(temperature / np.array(TEMPERATURES)))) < 1e-6:
        logger.warning("evaluate.calibrate: the temperature ended at %.3g, a better one lies beyond", temperature)
    return temperature


def _threshold(val: ScoredSplit, params: EvaluateParams) -> float:
    if params.threshold_rule == "best_f1":
        return best_f1(val.label.to_numpy(bool), val.predictions["score"].to_numpy(np.float64))
    curve = froc(val.events, fps_per_scan=params.fps_per_scan)
    if params.threshold_rule == "sensitivity":
        return highest_sensitive(curve, params.min_sensitivity)
    return lowest_within(curve, val.predictions["score"].to_numpy(np.float64), params.max_fps_per_scan)
