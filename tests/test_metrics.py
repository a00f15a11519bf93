import math
import time
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as reference
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from lunaops.metrics import (
    classification_metrics,
    metrics_of_others,
    precision_recall,
    ranking,
    roc,
    sensitivity_by_diameter,
    wilson_interval,
)

# Four others and two nodules; at 0.5 one false alarm (0.9), one miss (0.3).
IS_NODULE = [False, False, False, False, True, True]
SCORES = [0.1, 0.2, 0.4, 0.9, 0.3, 0.8]
LOSSES = [1.0, 1.0, 2.0, 4.0, 5.0, 7.0]

labelled_scores = st.lists(st.tuples(st.booleans(), st.integers(0, 8).map(lambda k: k / 8)), min_size=1, max_size=40)


@pytest.fixture(autouse=True)
def silent():
    """An undefined number is a decision, not a division by zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_each_number_is_the_one_worked_by_hand():
    metrics = classification_metrics(IS_NODULE, SCORES, LOSSES, threshold=0.5)
    assert metrics == pytest.approx(
        {
            "loss/all": 20 / 6,
            "loss/neg": 2.0,
            "loss/pos": 6.0,
            "correct/all": 100 * 4 / 6,
            "correct/neg": 75.0,
            "correct/pos": 50.0,
            "pr/precision": 0.5,
            "pr/recall": 0.5,
            "pr/f1_score": 0.5,
            "roc_auc": 5 / 8,  # of 2 x 4 pairs the nodule of 0.3 wins two, that of 0.8 three
            "average_precision": 1 / 2 * 1 / 2 + 2 / 4 * 1 / 2,
            "num_neg": 4,
            "num_pos": 2,
            "num_correct_neg": 3,
            "num_correct_pos": 1,
        }
    )


def test_a_score_at_the_threshold_is_called_nodule():
    assert classification_metrics([True], [0.5], [0.0], threshold=0.5)["pr/recall"] == 1.0


def undefined(is_nodule, scores):
    metrics = classification_metrics(is_nodule, scores, np.zeros(len(scores)), threshold=0.5)
    return {name for name, value in metrics.items() if math.isnan(value)}


def test_without_nodules_what_asks_for_them_is_undefined():
    assert undefined([False], [0.9]) == {"loss/pos", "correct/pos", "pr/recall", "roc_auc", "average_precision"}


def test_without_others_only_what_asks_for_them_is_undefined():
    assert undefined([True], [0.9]) == {"loss/neg", "correct/neg", "roc_auc"}


def test_precision_is_undefined_where_nothing_is_called_nodule_but_f1_is_zero():
    metrics = classification_metrics([True, False], [0.1, 0.2], [0, 0], threshold=0.5)
    assert math.isnan(metrics["pr/precision"]) and metrics["pr/f1_score"] == 0.0


def test_f1_is_undefined_where_there_is_neither_a_nodule_nor_a_call():
    assert "pr/f1_score" in undefined([False], [0.1])


def test_without_candidates_everything_but_the_counts_is_undefined():
    metrics = classification_metrics([], [], [], threshold=0.5)
    assert {name for name, value in metrics.items() if value == 0.0} == {
        "num_neg",
        "num_pos",
        "num_correct_neg",
        "num_correct_pos",
    }
    assert sum(math.isnan(value) for value in metrics.values()) == len(metrics) - 4


def test_a_score_that_is_not_a_number_is_never_a_call_and_leaves_nothing_ranked():
    metrics = classification_metrics([True, False], [math.nan, 0.1], [math.nan, 0.2], threshold=0.0)
    assert metrics["num_correct_pos"] == 0
    assert math.isnan(metrics["roc_auc"]) and math.isnan(metrics["average_precision"])
    assert len(roc([True, False], [math.nan, 0.1]).threshold) == 0


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="one length"):
        classification_metrics([True], [0.1, 0.2], [0.0], threshold=0.5)


@given(labelled_scores)
def test_areas_and_curves_equal_scikit_learns(rows):
    label, score = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    metrics = classification_metrics(label, score, score, threshold=0.5)
    if label.any():
        assert metrics["average_precision"] == pytest.approx(reference.average_precision_score(label, score))
        curve, (precision, recall, threshold) = (
            precision_recall(label, score),
            reference.precision_recall_curve(label, score),
        )
        np.testing.assert_allclose(curve.precision[::-1], precision[:-1])
        np.testing.assert_allclose(curve.recall[::-1], recall[:-1])
        np.testing.assert_array_equal(curve.threshold[::-1], threshold)
    if label.any() and not label.all():
        assert metrics["roc_auc"] == pytest.approx(reference.roc_auc_score(label, score))
        curve, expected = roc(label, score), reference.roc_curve(label, score, drop_intermediate=False)
        for got, wanted in zip(
            (curve.false_positive_rate, curve.true_positive_rate, curve.threshold), expected, strict=True
        ):
            np.testing.assert_allclose(got, wanted)
    else:
        assert len(roc(label, score).threshold) == 0


def test_the_precision_recall_curve_of_no_nodule_is_empty():
    assert len(precision_recall([False, False], [0.1, 0.2]).recall) == 0


def test_an_epoch_of_100000_candidates_takes_no_time():
    generator = np.random.default_rng(0)
    label, score = generator.random(100_000) < 0.01, generator.random(100_000)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        classification_metrics(label, score, score, threshold=0.5)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05


def bands_of(nodules, predictions, bands_mm):
    table = sensitivity_by_diameter(
        pd.DataFrame(nodules, columns=["nodule_id", "diameter_mm"]),
        pd.DataFrame(predictions, columns=["nodule_id", "score"]),
        threshold=0.5,
        bands_mm=bands_mm,
    )
    return list(table[["low_mm", "high_mm", "nodules", "found"]].itertuples(index=False, name=None)), table


def test_a_nodule_is_found_by_its_best_candidate_and_counts_without_any():
    rows, table = bands_of([(0, 5.0), (1, 5.0), (2, 5.0)], [(0, 0.1), (0, 0.5), (1, 0.4)], [4, 6])
    assert rows == [(4, 6, 3, 1)]  # 0 found at the threshold; 1 below it; 2 has no candidate
    assert table["sensitivity"].tolist() == [pytest.approx(1 / 3)]


def test_a_candidate_of_no_nodule_finds_none():
    assert bands_of([(0, 5.0)], [(-1, 0.9)], [4, 6])[0] == [(4, 6, 1, 0)]


def test_a_band_holds_its_lower_end_and_not_its_upper_and_may_be_empty():
    rows, table = bands_of([(0, 4.0), (1, 6.0)], [], [0, 4, 6, 8, 10])
    assert [nodules for _, _, nodules, _ in rows] == [0, 1, 1, 0]
    assert table["sensitivity"].isna().tolist() == [True, False, False, True]


@given(labelled_scores)
def test_the_other_class_has_scikit_learns_numbers(rows):
    label, score = (np.array(column) for column in zip(*rows, strict=True))
    others = metrics_of_others(classification_metrics(label, score, score, threshold=0.5))
    precision, recall, f1_score, _ = (
        values[0]
        for values in reference.precision_recall_fscore_support(
            label, score >= 0.5, labels=[False, True], zero_division=np.nan
        )
    )
    assert others == pytest.approx(
        {"specificity": recall, "other/precision": precision, "other/recall": recall, "other/f1_score": f1_score},
        nan_ok=True,
    )


def test_wilsons_interval_is_scipys_and_undefined_of_nothing():
    low, high = wilson_interval([0, 3, 7, 10], [10, 10, 10, 10])
    for count, got in zip((0, 3, 7, 10), zip(low, high, strict=True), strict=True):
        wanted = binomtest(count, 10).proportion_ci(method="wilson")
        assert got == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert low[0] == 0.0 and high[3] == 1.0
    assert np.isnan(wilson_interval([0], [0])).all()


def test_average_precision_is_that_of_the_metrics():
    metrics = classification_metrics(IS_NODULE, SCORES, LOSSES, threshold=0.5)
    assert ranking(IS_NODULE, SCORES) == {name: metrics[name] for name in ("roc_auc", "average_precision")}
    assert math.isnan(ranking([False], [0.5])["average_precision"])
