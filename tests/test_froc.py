"""LUNA16's rules on cases small enough to work by hand, and against a slow, literal reading of them.

Findings and marks lie on the x axis: (series, x, diameter) and (series, x, score).
"""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from lunaops.errors import InputError
from lunaops.froc import froc

RATES = (0.125, 0.25, 0.5, 1, 2, 4, 8)


@pytest.fixture(autouse=True)
def silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def table(rows, value):
    frame = pd.DataFrame(rows, columns=["series_uid", "x", value])
    return frame.assign(x=frame["x"].astype(float), y=0.0, z=0.0, **{value: frame[value].astype(float)})


def score(marks, nodules, excluded=(), series=("a",), **options):
    return froc(
        table(marks, "score"),
        table(nodules, "diameter_mm"),
        table(excluded, "diameter_mm"),
        list(series),
        **{"fps_per_scan": RATES, "unknown_diameter_mm": 10, **options},
    )


def sensitivities(result):
    return list(result.sensitivity_at.values())


def test_all_found_without_a_false_positive_is_perfect_at_every_rate():
    result = score([("a", 0, 0.9), ("b", 50, 0.1)], [("a", 0, 6), ("b", 50, 6)], series="ab")
    assert sensitivities(result) == [1.0] * 7 and result.cpm == 1.0
    assert (result.true_positives, result.false_positives, result.false_negatives) == (2, 0, 0)


def test_a_nodule_that_no_mark_hits_stays_in_the_denominator():
    result = score([("a", 0, 0.9)], [("a", 0, 6), ("a", 90, 6)])
    assert result.cpm == 0.5
    assert (result.nodules, result.true_positives, result.false_negatives) == (2, 1, 1)


def test_of_two_marks_on_a_nodule_the_higher_counts_and_the_other_not_at_all():
    result = score([("a", 0, 0.2), ("a", 1, 0.8), ("a", 90, 0.5)], [("a", 0, 6)])
    assert (result.true_positives, result.false_positives, result.ignored_double) == (1, 1, 1)
    assert result.threshold.tolist() == [math.inf, 0.8, 0.5]
    assert result.sensitivity.tolist() == [0, 1, 1] and result.fps_per_scan.tolist() == [0, 0, 1]


def test_a_mark_in_two_nodules_finds_both():
    result = score([("a", 5, 0.9)], [("a", 0, 12), ("a", 10, 12)])
    assert (result.true_positives, result.false_positives, result.ignored_double) == (2, 0, 0)
    assert result.cpm == 1.0


def test_a_mark_on_an_excluded_finding_is_ignored_unless_it_hits_a_nodule():
    excluded = [("a", 2, 10), ("a", 90, 10)]
    result = score([("a", 0, 0.9), ("a", 90, 0.8), ("a", 50, 0.7)], [("a", 0, 6)], excluded)
    assert (result.true_positives, result.false_positives, result.ignored_excluded) == (1, 1, 1)
    assert result.candidates == 3


def test_a_finding_that_is_excluded_twice_ignores_a_mark_once():
    result = score([("a", 0, 0.9)], [("a", 90, 6)], [("a", 0, 10), ("a", 0, 10)])
    assert (result.ignored_excluded, result.false_positives) == (1, 0)


def test_a_mark_exactly_on_the_radius_misses():
    assert score([("a", 3, 0.9)], [("a", 0, 6)]).true_positives == 0
    assert score([("a", math.nextafter(3, 0), 0.9)], [("a", 0, 6)]).true_positives == 1


def test_distance_is_measured_in_space():
    marks = table([("a", 0, 0.9)], "score").assign(x=2.0, y=2.0, z=2.0)  # 3.46 mm away
    for diameter, found in ((6.9, 0), (7.0, 1)):
        nodules = table([("a", 0, diameter)], "diameter_mm")
        result = froc(marks, nodules, nodules[:0], ["a"], fps_per_scan=RATES, unknown_diameter_mm=10)
        assert result.true_positives == found


def test_a_negative_diameter_counts_as_the_unknown_one():
    assert score([("a", 4.9, 0.9)], [("a", 90, 6)], [("a", 0, -1)]).ignored_excluded == 1
    assert score([("a", 5, 0.9)], [("a", 90, 6)], [("a", 0, -1)]).ignored_excluded == 0
    assert score([("a", 6, 0.9)], [("a", 90, 6)], [("a", 0, -1)], unknown_diameter_mm=14).ignored_excluded == 1


def test_scans_without_nodules_or_marks_lower_the_false_positive_rate():
    marks, nodules = [("a", 90, 0.9), ("a", 0, 0.5)], [("a", 0, 6)]
    assert sensitivities(score(marks, nodules)) == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    assert sensitivities(score(marks, nodules, series="abcdefgh")) == [1.0] * 7  # one in eight scans


def test_the_curve_is_joined_linearly_where_scores_tie():
    result = score([("a", 0, 0.5), ("a", 90, 0.5)], [("a", 0, 6)])
    assert sensitivities(result) == pytest.approx([0.125, 0.25, 0.5, 1, 1, 1, 1])
    assert result.cpm == pytest.approx((0.125 + 0.25 + 0.5 + 4) / 7)


def test_beyond_the_last_rate_the_last_sensitivity_holds():
    result = score([("a", 0, 0.9), ("a", 90, 0.5)], [("a", 0, 6), ("a", 50, 6)])
    assert sensitivities(result) == [0.5] * 7


def test_without_marks_sensitivity_is_zero():
    result = score([], [("a", 0, 6)], [("a", 50, 6)])
    assert sensitivities(result) == [0.0] * 7 and result.cpm == 0.0
    assert (result.candidates, result.false_negatives) == (0, 1)


def test_false_positives_alone_have_sensitivity_zero():
    assert score([("a", 90, 0.9)], [("a", 0, 6)]).cpm == 0.0


def test_without_nodules_sensitivity_is_undefined():
    result = score([("a", 90, 0.9)], [])
    assert math.isnan(result.cpm) and all(map(math.isnan, sensitivities(result)))
    assert result.false_positives == 1


def test_what_belongs_to_no_scan_of_the_list_does_not_count():
    result = score([("a", 0, 0.9), ("x", 0, 0.8)], [("a", 0, 6), ("x", 50, 6)], [("x", 0, 6)])
    assert (result.nodules, result.candidates, result.ignored_excluded) == (1, 1, 0)


def test_a_mark_hits_nothing_of_another_scan():
    result = score([("b", 0, 0.9)], [("a", 0, 6)], [("a", 0, 10)], series="ab")
    assert (result.true_positives, result.false_positives) == (0, 1)


def test_a_scan_listed_twice_is_one_scan():
    assert score([("a", 90, 0.9)], [("a", 0, 6)], series="aab").fps_per_scan.tolist() == [0, 0.5]


def test_with_too_many_marks_those_above_the_first_superfluous_one_are_kept():
    marks = [("a", 100 + 20 * k, value) for k, value in enumerate([0.9, 0.8, 0.7, 0.6])]
    assert score(marks, [("a", 0, 6)], max_marks_per_scan=4).candidates == 4
    assert score(marks, [("a", 0, 6)], max_marks_per_scan=2).threshold.tolist() == [math.inf, 0.9, 0.8]


def test_marks_that_tie_with_the_first_superfluous_one_go_with_it():
    marks = [("a", 100 + 20 * k, value) for k, value in enumerate([0.9, 0.5, 0.5, 0.1])]
    assert score(marks, [("a", 0, 6)], max_marks_per_scan=2).candidates == 1


def test_the_limit_of_marks_is_for_each_scan():
    marks = [("a", 100, 0.9), ("a", 120, 0.8), ("b", 100, 0.1)]
    assert score(marks, [("a", 0, 6)], series="ab", max_marks_per_scan=1).candidates == 2


def test_a_mark_that_is_not_all_numbers_is_named_by_series():
    with pytest.raises(InputError, match=r"1 marks are not all numbers, the first on series a: .* nan"):
        score([("a", 0, 0.9), ("a", 0, math.nan)], [("a", 0, 6)])


def test_an_empty_list_of_scans_is_refused():
    with pytest.raises(InputError, match="list of scans is empty"):
        score([("a", 0, 0.9)], [("a", 0, 6)], series=())


def literally(marks, nodules, excluded, series, unknown_diameter_mm, max_marks):
    """The rules, one after another, in plain loops; (labels, scores) for roc_curve and the counts."""
    label, value, doubles, ignored, num_marks = [], [], 0, 0, 0
    for scan in series:
        here = [mark for mark in marks if mark[0] == scan]
        if max_marks is not None and len(here) > max_marks:
            limit = sorted((mark[2] for mark in here), reverse=True)[max_marks]
            here = [mark for mark in here if mark[2] > limit]
        num_marks += len(here)
        free = set(range(len(here)))
        for findings, is_excluded in ((nodules, False), (excluded, True)):
            for finding in findings:
                if finding[0] != scan:
                    continue
                diameter = unknown_diameter_mm if finding[2] < 0 else finding[2]
                near = {k for k in range(len(here)) if (here[k][1] - finding[1]) ** 2 < (diameter / 2) ** 2}
                if is_excluded:
                    ignored += len(near & free)
                elif near:
                    label.append(1)
                    value.append(max(here[k][2] for k in near))
                    doubles += len(near) - 1
                free -= near
        for k in free:
            label.append(0)
            value.append(here[k][2])
    return label, value, {"ignored_double": doubles, "ignored_excluded": ignored, "candidates": num_marks}


scans = st.sampled_from("abcd")
places = st.integers(0, 12)
findings = st.lists(st.tuples(scans, places, st.sampled_from([-1, 0, 2, 3, 5, 8])), max_size=8)
marks_of = st.lists(st.tuples(scans, places, st.integers(0, 6).map(lambda k: k / 8)), max_size=25)


@settings(max_examples=80)
@given(marks_of, findings, findings, st.sampled_from([None, 1, 3]))
def test_equal_to_the_literal_reading_of_the_rules(marks, nodules, excluded, max_marks):
    series = ["a", "b", "c"]  # d is not listed
    result = score(marks, nodules, excluded, series, max_marks_per_scan=max_marks)
    label, value, counts = literally(marks, nodules, excluded, series, 10, max_marks)
    num_nodules = sum(nodule[0] in series for nodule in nodules)
    assert {name: getattr(result, name) for name in counts} == counts
    assert (result.nodules, result.true_positives) == (num_nodules, sum(label))
    assert result.false_positives == len(label) - sum(label)
    if 0 < sum(label) < len(label):
        fpr, tpr, threshold = roc_curve(label, value, drop_intermediate=False)
        np.testing.assert_allclose(result.fps_per_scan, fpr * (len(label) - sum(label)) / 3)
        np.testing.assert_allclose(result.sensitivity, tpr * sum(label) / num_nodules)
        np.testing.assert_array_equal(result.threshold, threshold)


def same(one, other):
    return np.array_equal(sensitivities(one), sensitivities(other), equal_nan=True)


@settings(max_examples=25)
@given(marks_of, findings, st.randoms())
def test_the_order_of_rows_changes_nothing(marks, nodules, random):
    shuffled = random.sample(marks, len(marks)), random.sample(nodules, len(nodules))
    assert same(score(marks, nodules, series="abcd"), score(*shuffled, series="abcd"))


@settings(max_examples=25)
@given(marks_of, findings)
def test_only_the_order_of_scores_matters(marks, nodules):
    bent = [(scan, x, value**3 + 5) for scan, x, value in marks]
    assert same(score(marks, nodules, series="abcd"), score(bent, nodules, series="abcd"))


@settings(max_examples=25)
@given(marks_of, findings.filter(len))
def test_a_lower_mark_on_a_found_nodule_changes_nothing(marks, nodules):
    scan, x, _ = nodules[0]
    nodules[0] = (scan, x, 8)
    before = score([*marks, (scan, x, 0.9)], nodules, series="abcd")
    after = score([*marks, (scan, x, 0.9), (scan, x, 0.3)], nodules, series="abcd")
    assert same(before, after)
