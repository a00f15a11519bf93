import math

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from luna16_rules import RATES, bootstrap, findings_of_scans, marks_of_scans, table

from lunaops import bootstrap as ours
from lunaops.bootstrap import froc_intervals, interval, ranking_of_draws, sensitivity_of_draws
from lunaops.froc import froc, match

pytestmark = pytest.mark.filterwarnings("error")


def events(marks, nodules, excluded=(), series=("a",)):
    tables = table(marks, "score"), table(nodules, "diameter_mm"), table(excluded, "diameter_mm")
    return match(*tables, list(series), unknown_diameter_mm=10)


@settings(max_examples=60)
@given(marks_of_scans, findings_of_scans, findings_of_scans, st.integers(0, 2**40))
def test_equal_to_a_slow_bootstrap_that_copies_the_scans_drawn(marks, nodules, excluded, seed):
    series, rates = ["a", "b", "c", "e"], [*RATES, 0.3]  # d is not listed, e has nothing
    found = sensitivity_of_draws(events(marks, nodules, excluded, series), rates, num_draws=6, seed=seed)
    draws = [np.random.default_rng([seed, draw]).integers(4, size=4) for draw in range(6)]
    np.testing.assert_allclose(found, bootstrap(marks, nodules, excluded, series, rates, draws), atol=1e-15)


def test_of_one_scan_every_draw_is_the_result_itself():
    one = events([("a", 0, 0.5), ("a", 90, 0.5), ("a", 50, 0.2), ("a", 80, 0.7)], [("a", 0, 6), ("a", 50, 6)])
    result = froc(one, fps_per_scan=RATES)
    expected = [list(result.sensitivity_at.values())] * 3
    assert sensitivity_of_draws(one, RATES, num_draws=3, seed=0).tolist() == expected


def test_a_draw_is_the_same_whatever_the_number_of_draws_and_however_many_are_made_at_once(monkeypatch):
    many = events(
        [(scan, 0, k / 9) for k, scan in enumerate("abcdefgh")], [(scan, 0, 6) for scan in "abcz"], series="abcdefghz"
    )
    draws = sensitivity_of_draws(many, RATES, num_draws=50, seed=7)
    monkeypatch.setattr(ours, "DRAWS_AT_ONCE", 8)
    assert np.array_equal(draws, sensitivity_of_draws(many, RATES, num_draws=50, seed=7), equal_nan=True)
    assert np.array_equal(draws[:5], sensitivity_of_draws(many, RATES, num_draws=5, seed=7), equal_nan=True)
    assert not np.array_equal(draws, sensitivity_of_draws(many, RATES, num_draws=50, seed=8), equal_nan=True)


def test_a_draw_without_a_nodule_is_left_out():
    half = events([("a", 0, 0.5)], [("a", 0, 6)], series="ab")
    draws = sensitivity_of_draws(half, RATES, num_draws=40, seed=0)
    assert set(np.isnan(draws).sum(axis=1)) == {0, 7}
    known = interval(draws)
    assert known.mean.tolist() == known.low.tolist() == known.high.tolist() == [1.0] * 7


def test_without_nodules_or_marks_the_intervals_are_undefined_or_zero():
    none = froc_intervals(events([("a", 0, 0.5)], []), fps_per_scan=RATES, num_draws=5, seed=0)
    assert np.isnan(none.sensitivity.mean).all() and math.isnan(none.cpm.low) and np.isnan(none.curve.high).all()
    zero = froc_intervals(events([], [("a", 0, 6)]), fps_per_scan=RATES, num_draws=5, seed=0)
    assert zero.sensitivity.high.tolist() == [0.0] * 7 and zero.cpm.high == 0.0


def test_the_interval_is_from_the_2_5th_to_the_97_5th_percentile():
    known = interval(np.arange(101.0)[:, None])
    assert (known.mean[0], known.low[0], known.high[0]) == (50.0, 2.5, 97.5)


def test_the_intervals_hold_the_result_and_the_cpms_is_that_of_the_means():
    rng = np.random.default_rng(0)
    series = [str(k) for k in range(60)]
    nodules = [(scan, 0, 6) for scan in series[:40]]
    marks = [(scan, 0, rng.beta(3, 2)) for scan in series[:35]] + [(scan, 90, rng.beta(2, 3)) for scan in series * 5]
    sample = events(marks, nodules, series=series)
    result = froc(sample, fps_per_scan=RATES)
    intervals = froc_intervals(sample, fps_per_scan=RATES, num_draws=400, seed=1)
    at = np.array(list(result.sensitivity_at.values()))
    assert (intervals.sensitivity.low < at).all() and (at < intervals.sensitivity.high).all()
    assert intervals.cpm.mean == pytest.approx(intervals.sensitivity.mean.mean())
    assert result.cpm - 0.2 < intervals.cpm.low < result.cpm < intervals.cpm.high < result.cpm + 0.2
    assert intervals.curve_fps_per_scan[[0, -1]] == pytest.approx([0.125, 8])
    np.testing.assert_allclose(intervals.curve.low[[0, -1]], intervals.sensitivity.low[[0, -1]])


def test_no_draws_no_intervals():
    assert froc_intervals(events([], []), fps_per_scan=RATES, num_draws=0, seed=0) is None


candidates_of_scans = st.lists(
    st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 6).map(lambda k: k / 6)), max_size=30
)


def ranked(rows, series, **draws):
    table = pd.DataFrame(rows, columns=["series_uid", "is_nodule", "score"])
    return ranking_of_draws(table, "is_nodule", series, **draws)


@settings(max_examples=60)
@given(candidates_of_scans, st.integers(0, 2**40))
def test_the_ranking_of_a_draw_is_scikit_learns_with_scans_weighted(rows, seed):
    series = ["a", "b", "c", "empty"]
    found = ranked(rows, series, num_draws=5, seed=seed)
    label, score = np.array([row[1] for row in rows], bool), np.array([row[2] for row in rows])
    for draw in range(5):
        drawn = np.random.default_rng([seed, draw]).integers(4, size=4)
        weight = np.array([(drawn == series.index(row[0])).sum() for row in rows])
        used = weight > 0
        has = [used.any() and (label[used] == kind).any() for kind in (True, False)]
        if has[0]:
            expected = reference.average_precision_score(label[used], score[used], sample_weight=weight[used])
            assert found["average_precision"][draw] == pytest.approx(expected)
        else:
            assert np.isnan(found["average_precision"][draw])
        if all(has):
            expected = reference.roc_auc_score(label[used], score[used], sample_weight=weight[used])
            assert found["roc_auc"][draw] == pytest.approx(expected)
        else:
            assert np.isnan(found["roc_auc"][draw])


def test_where_all_scores_are_equal_the_area_of_every_draw_is_one_half():
    rows = [(scan, k == 0, 0.5) for scan in "abc" for k in range(3)]
    found = ranked(rows, list("abc"), num_draws=20, seed=1)
    assert set(found["roc_auc"]) == {0.5} and found["average_precision"] == pytest.approx(np.full(20, 1 / 3))


def test_the_ranking_of_one_scan_is_the_same_in_every_draw():
    rows = [("a", True, 0.9), ("a", False, 0.8), ("a", True, 0.7)]
    found = ranked(rows, ["a"], num_draws=3, seed=0)
    assert found["roc_auc"].tolist() == [0.5] * 3 and found["average_precision"] == pytest.approx([5 / 6] * 3)
