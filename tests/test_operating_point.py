import numpy as np
import pandas as pd
import pytest
from test_evaluation import PARAMS, tables

from lunaops.calibration import fit_temperature, scale
from lunaops.errors import InputError
from lunaops.operating_point import OperatingPoint, operating_point
from lunaops.params import EvaluateParams
from lunaops.scored_split import Reference

# On val: one nodule found at 0.4, others at 0.3 and 0.6.
VAL = [(16, 0.0, True, 3, 0.4), (17, 90.0, False, -1, 0.3), (18, 60.0, False, -1, 0.6)]


def point(changes=None, **params):
    frames = tables()
    predictions = frames.pop("predictions")
    val = predictions[predictions["split"] == "val"]
    rows = [val.assign(candidate_id=i, x=x, is_nodule=n, nodule_id=k, score=s) for i, x, n, k, s in VAL]
    predictions = pd.concat([predictions[predictions["split"] == "test"], *rows], ignore_index=True)
    if changes:
        predictions = changes(predictions)
    reference = Reference(frames["nodules"], frames["excluded"], frames["scans"])
    return operating_point(predictions, reference, EvaluateParams(**{**PARAMS, **params}))


def test_a_fixed_threshold_needs_no_val():
    assert point(lambda rows: rows[rows["split"] == "test"]) == OperatingPoint(0.5, 1.0)


@pytest.mark.parametrize(
    ("params", "threshold"),
    [
        ({"threshold_rule": "best_f1"}, 0.4),
        ({"threshold_rule": "sensitivity", "min_sensitivity": 1.0}, 0.4),
        ({"threshold_rule": "fps_per_scan", "max_fps_per_scan": 1.0}, 0.4),
        ({"threshold_rule": "fps_per_scan", "max_fps_per_scan": 2.0}, 0.3),
    ],
)
def test_each_rule_chooses_a_score_of_val_whatever_test_holds(params, threshold):
    assert point(**params) == OperatingPoint(threshold, 1.0)
    turned = point(lambda rows: rows.assign(score=rows["score"].where(rows["split"] == "val", 0.123)), **params)
    assert turned.threshold == threshold


def test_a_rule_on_calibrated_scores_calls_the_same_candidates():
    chosen = point(threshold_rule="best_f1", calibrate=True)
    temperature = fit_temperature([row[2] for row in VAL], [row[4] for row in VAL])
    assert chosen == OperatingPoint(float(scale(0.4, temperature)), temperature)
    assert (scale([0.3, 0.4, 0.6], temperature) >= chosen.threshold).tolist() == [False, True, True]


def test_a_fixed_threshold_is_one_of_calibrated_scores():
    assert point(calibrate=True).threshold == 0.5 and point(calibrate=True).temperature != 1


@pytest.mark.parametrize(
    ("params", "asking"),
    [
        ({"threshold_rule": "best_f1"}, "evaluate.threshold_rule best_f1 decides on val"),
        ({"calibrate": True}, "evaluate.calibrate decides on val"),
        (
            {"threshold_rule": "best_f1", "calibrate": True},
            "evaluate.threshold_rule best_f1 and evaluate.calibrate decide on val",
        ),
    ],
)
def test_predictions_without_val_name_the_rule_and_the_remedy(params, asking):
    with pytest.raises(
        InputError, match=rf"no scored candidate is in the split 'val', only in test: {asking}.*predict"
    ):
        point(lambda rows: rows[rows["split"] == "test"], **params)


def test_a_temperature_wants_both_classes_on_val():
    with pytest.raises(InputError, match=r"evaluate.calibrate: all 3 scored candidates of val are of one class"):
        point(lambda rows: rows.assign(is_nodule=False), calibrate=True)


def test_a_temperature_at_the_end_of_its_range_is_said(caplog):
    point(lambda rows: rows.assign(score=np.where(rows["is_nodule"], 0.9, 0.1)), calibrate=True)
    assert "the temperature ended at 0.05, a better one lies beyond" in caplog.text


def test_val_that_is_evaluated_itself_is_said_to_flatter(caplog):
    point(threshold_rule="best_f1", split="val")
    assert "best_f1 decides on val, which is also evaluated: its numbers flatter" in caplog.text
