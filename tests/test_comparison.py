import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from test_evaluation import PARAMS, tables

from lunaops.bootstrap import ranking_of_draws
from lunaops.comparison import Difference, check_same_candidates, compare, mcnemar
from lunaops.errors import InputError
from lunaops.params import EvaluateParams
from lunaops.scored_split import Reference


def compared(change, **params):
    """The predictions of test_evaluation, then with `change` as the baseline."""
    frames = tables()
    predictions = frames.pop("predictions")
    baseline = change(predictions.copy())
    return compare(predictions, baseline, Reference(**frames), EvaluateParams(**{**PARAMS, **params}))


def scored(**score_of):
    """A change of the scores of these candidates: c12=0.6."""
    changed = {int(name[1:]): score for name, score in score_of.items()}
    return lambda rows: rows.assign(score=rows["candidate_id"].map(changed).fillna(rows["score"]))


def test_against_itself_in_another_order_nothing_differs():
    same = compared(lambda rows: rows[::-1])
    assert (same.differences["cpm"].difference, same.differences["cpm"].low, same.differences["cpm"].high) == (0, 0, 0)
    assert (same.only_this_right, same.only_baseline_right, same.mcnemar_p) == (0, 0, 1.0)
    assert same.num_candidates == 6


def test_each_number_is_this_ones_less_the_baselines():
    # The baseline finds nodule 1 (candidate 12), but calls the other 14 a nodule as well.
    result = compared(scored(c12=0.95, c14=0.85))
    cpm = result.differences["cpm"]
    assert cpm.this == pytest.approx(5 / 9) and cpm.baseline == pytest.approx(6 / 9)
    assert cpm.difference == pytest.approx(-1 / 9)
    assert cpm.low <= cpm.difference <= cpm.high
    assert (result.only_this_right, result.only_baseline_right) == (1, 1)
    assert set(result.metrics) == {
        *("versus/cpm", "versus/cpm_lo", "versus/cpm_hi", "versus/average_precision", "versus/average_precision_lo"),
        *("versus/average_precision_hi", "versus/mcnemar_p", "versus/only_this_right", "versus/only_baseline_right"),
    }


def test_both_meet_the_same_draws():
    params = {"bootstraps": 200, "seed": 5}
    result = compared(scored(c12=0.95), **params)
    rows = tables()["predictions"][:6]
    draws = [
        ranking_of_draws(table, "is_nodule", list("abcd"), num_draws=200, seed=5)["average_precision"]
        for table in (rows, scored(c12=0.95)(rows))
    ]
    difference = (draws[0] - draws[1])[~np.isnan(draws[0])]
    assert [result.differences["average_precision"].low, result.differences["average_precision"].high] == pytest.approx(
        np.percentile(difference, [2.5, 97.5]).tolist()
    )


def test_each_is_called_at_its_own_threshold_of_val():
    frames = tables()["predictions"]
    val = frames[frames["split"] == "val"]

    def shifted(rows):
        return rows.assign(score=rows["score"] / 2)

    result = compared(shifted, threshold_rule="best_f1")
    assert len(val) == 1 and (result.only_this_right, result.only_baseline_right) == (0, 0)
    assert compared(shifted, threshold=0.4).only_this_right == 1


def test_without_draws_there_is_no_interval_and_the_sentence_has_none():
    result = compared(scored(c12=0.95), bootstraps=0)
    assert math.isnan(result.differences["cpm"].low)
    assert "interval" not in result.sentence


def test_without_nodules_the_differences_are_undefined():
    result = compared(lambda rows: rows, fps_per_scan=(1.0,))
    frames = tables()
    none = frames["predictions"].assign(is_nodule=False)
    reference = Reference(frames["nodules"][:0], frames["excluded"], frames["scans"])
    result = compare(none, none, reference, EvaluateParams(**PARAMS))
    assert math.isnan(result.differences["cpm"].difference) and math.isnan(result.differences["average_precision"].low)
    assert "CPM is undefined" in result.sentence


def test_the_sentence_says_how_much_and_whether_it_is_shown():
    assert Difference(0.8, 0.7, 0.1, 0.02, 0.2).sentence("CPM") == (
        "CPM 0.800 against 0.700: 0.100 higher, 95 % interval +0.020 to +0.200, so a difference is shown"
    )
    assert (
        Difference(0.7, 0.8, -0.1, -0.2, 0.02)
        .sentence("CPM")
        .endswith("0.100 lower, 95 % interval -0.200 to +0.020, so no difference is shown")
    )
    assert "McNemar p = 1" in compared(scored(c12=0.95, c14=0.9)).sentence


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows[1:],
            r"5 candidates here, this model 6, and 1 are of one only, the first candidate 10",
        ),
        (
            lambda rows: rows.assign(x=rows["x"] + (rows["candidate_id"] == 13)),
            r"1 candidates have another series, place",
        ),
        (
            lambda rows: rows.assign(is_nodule=rows["is_nodule"] | (rows["candidate_id"] == 15)),
            r"the first candidate 15",
        ),
    ],
)
def test_other_candidates_are_refused(change, message):
    with pytest.raises(InputError, match=message + r".*compare_with: null"):
        compared(change)


@pytest.mark.parametrize(
    ("change", "params", "message"),
    [
        (
            lambda rows: rows[rows["split"] == "test"],
            {"threshold_rule": "best_f1"},
            r"no scored candidate is in the split 'val', only in test: .*best_f1 decides on val: predict with val",
        ),
        (lambda rows: rows.drop(columns="is_nodule"), {}, r"have no column is_nodule"),
        (lambda rows: rows.assign(score=math.nan), {}, r"6 marks are not all numbers"),
    ],
)
def test_what_the_baseline_lacks_is_said_to_be_the_baselines(change, params, message):
    with pytest.raises(InputError, match=rf"^evaluate.compare_with b.parquet: the baseline's predictions: .*{message}"):
        compared(change, compare_with="b.parquet", **params)


def test_the_same_candidates_may_hold_their_series_as_categories():
    rows = tables()["predictions"]
    check_same_candidates(rows.astype({"series_uid": "category"}), rows, "is_nodule")
    check_same_candidates(rows, rows.astype({"series_uid": "category"}), "is_nodule")


@given(st.integers(0, 60), st.integers(0, 60))
def test_of_few_pairs_mcnemars_p_is_the_binomial_tests(ours, theirs):
    expected = scipy.stats.binomtest(ours, ours + theirs).pvalue if ours + theirs else 1.0
    assert mcnemar(ours, theirs) == mcnemar(theirs, ours) == pytest.approx(expected)


def test_of_many_pairs_it_is_chi_squareds_and_meets_the_binomial_ones():
    assert mcnemar(560, 641) == pytest.approx(scipy.stats.chi2.sf((641 - 560 - 1) ** 2 / 1201, 1))
    assert mcnemar(560, 641) == pytest.approx(scipy.stats.binomtest(560, 1201).pvalue, rel=0.01)
    assert mcnemar(600, 601) == mcnemar(5000, 5000) == 1.0
    assert pd.notna(mcnemar(0, 100_000))
