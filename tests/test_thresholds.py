import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from luna16_rules import table

from lunaops.errors import InputError
from lunaops.froc import froc, match
from lunaops.thresholds import best_f1, highest_sensitive, lowest_within

# Two scans, three nodules, found at 0.9, 0.5 and never; false positives at 0.7 and 0.3.
MARKS = [("a", 0, 0.9), ("a", 50, 0.7), ("b", 0, 0.5), ("b", 50, 0.3)]
NODULES = [("a", 0, 6), ("b", 0, 6), ("b", 90, 6)]


def curve(marks=MARKS, nodules=NODULES):
    tables = table(marks, "score"), table(nodules, "diameter_mm"), table([], "diameter_mm")
    return froc(match(*tables, ["a", "b"], unknown_diameter_mm=10), fps_per_scan=[1])


def test_the_sensitive_threshold_is_the_highest_that_finds_enough():
    assert highest_sensitive(curve(), 1 / 3) == 0.9
    assert highest_sensitive(curve(), 0.34) == highest_sensitive(curve(), 2 / 3) == 0.5


def test_a_sensitivity_out_of_reach_says_what_is_in_reach():
    with pytest.raises(
        InputError, match=r"no threshold finds 0.7 of val's nodules, all marks together find 2 of 3; low"
    ):
        highest_sensitive(curve(), 0.7)
    with pytest.raises(InputError, match="find 0 of 0"):
        highest_sensitive(curve(nodules=[]), 0.1)


def within(max_fps_per_scan, marks=MARKS):
    return lowest_within(curve(marks), np.array([score for *_, score in marks]), max_fps_per_scan)


def test_the_threshold_within_a_rate_is_the_lowest_that_keeps_to_it():
    assert within(0.0) == 0.9
    assert within(0.49) == 0.9
    assert within(0.5) == 0.5
    assert within(100.0) == 0.3


def test_a_mark_that_counts_neither_way_may_be_the_lowest_within_a_rate():
    second_on_a_nodule = ("a", 1, 0.4)
    assert within(0.5, [*MARKS, second_on_a_nodule]) == 0.4
    assert within(0.5, [*MARKS, ("a", 1, 0.3)]) == 0.5  # 0.3 is a false positive's, too


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from([0, 1, 50, 51]), st.integers(0, 8)), min_size=1, max_size=12
    ),
    st.integers(0, 6).map(lambda k: k / 4),
)
def test_no_lower_score_keeps_to_the_rate(rows, max_fps_per_scan):
    marks = [(scan, x, k / 8) for scan, x, k in rows]
    false_positives_per_scan = {
        threshold: sum(x >= 50 and score >= threshold for _, x, score in marks) / 2 for *_, threshold in marks
    }
    keep = [score for score, rate in false_positives_per_scan.items() if rate <= max_fps_per_scan]
    if keep:
        assert within(max_fps_per_scan, marks) == min(keep)
    else:
        with pytest.raises(InputError, match="already the highest score"):
            within(max_fps_per_scan, marks)


def test_where_the_highest_score_is_a_false_positive_too_many_there_is_no_threshold():
    with pytest.raises(InputError, match=r"already the highest score has more than 0.25 false positives .* raise"):
        within(0.25, [("a", 50, 0.9), *MARKS[2:]])


def test_where_all_scores_are_equal_there_is_one_threshold():
    equal = curve(marks=[(scan, x, 0.5) for scan, x, _ in MARKS])
    assert highest_sensitive(equal, 0.1) == lowest_within(equal, np.full(4, 0.5), 1.0) == 0.5
    assert best_f1(np.array([True, False]), np.array([0.5, 0.5])) == 0.5


def test_the_best_f1_is_the_highest_of_several():
    # F1 at 0.9: 2/3, at 0.7: 1/2, at 0.5: 4/5, at 0.3: 2/3
    assert best_f1(np.array([True, False, True, False]), np.array([0.9, 0.7, 0.5, 0.3])) == 0.5
    # F1 at 0.9: 2/3, at 0.3: 4/6
    assert best_f1(np.array([True, False, False, True]), np.array([0.9, 0.7, 0.5, 0.3])) == 0.9


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8).map(lambda k: k / 8)), min_size=1, max_size=40))
def test_no_other_score_has_a_higher_f1(rows):
    label, score = (np.array(column) for column in zip(*rows, strict=True))
    if not label.any():
        with pytest.raises(InputError, match=r"best_f1: no candidate of val is positive.*fixed"):
            best_f1(label, score)
        return
    f1_of = {t: sklearn.metrics.f1_score(label, score >= t) for t in np.unique(score)}
    best = max(f1_of.values())
    assert best_f1(label, score) == max(t for t, f1 in f1_of.items() if f1 > best - 1e-12)
