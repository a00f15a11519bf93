"""LUNA16's rules on cases small enough to work by hand, and against a slow, literal reading of them."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from luna16_rules import RATES, findings_of_scans, literally, marks_of_scans, table
from sklearn.metrics import roc_curve

from lunaops.errors import InputError
from lunaops.froc import LUNA16_RATES, froc, match


@pytest.fixture(autouse=True)
def silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def score(marks, nodules, excluded=(), series=("a",), rates=RATES, **options):
    events = match(
        table(marks, "score"),
        table(nodules, "diameter_mm"),
        table(excluded, "diameter_mm"),
        list(series),
        **{"unknown_diameter_mm": 10, **options},
    )
    return froc(events, fps_per_scan=rates)


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


def test_a_mark_in_two_nodules_is_the_best_of_one_and_a_second_one_on_the_other():
    result = score([("a", 5, 0.4), ("a", 0, 0.9)], [("a", 0, 12), ("a", 10, 12)])
    assert (result.true_positives, result.false_positives, result.ignored_double) == (2, 0, 1)
    assert result.threshold.tolist() == [math.inf, 0.9, 0.4]


def test_a_finding_that_is_excluded_twice_ignores_a_mark_once():
    result = score([("a", 0, 0.9)], [("a", 90, 6)], [("a", 0, 10), ("a", 0, 10)])
    assert (result.ignored_excluded, result.false_positives) == (1, 0)


def test_a_mark_exactly_on_the_radius_misses():
    assert score([("a", 3, 0.9)], [("a", 0, 6)]).true_positives == 0
    assert score([("a", math.nextafter(3, 0), 0.9)], [("a", 0, 6)]).true_positives == 1


def test_a_mark_exactly_on_the_radius_of_an_excluded_finding_is_a_false_positive():
    assert score([("a", 3, 0.9)], [("a", 90, 6)], [("a", 0, 6)]).false_positives == 1
    assert score([("a", math.nextafter(3, 0), 0.9)], [("a", 90, 6)], [("a", 0, 6)]).false_positives == 0


def test_a_nodule_without_extent_is_never_hit():
    assert score([("a", 0, 0.9)], [("a", 0, 0)]).true_positives == 0


def test_distance_is_measured_in_space():
    marks = table([("a", 0, 0.9)], "score").assign(x=2.0, y=2.0, z=2.0)  # 3.46 mm away
    for diameter, found in ((6.9, 0), (7.0, 1)):
        nodules = table([("a", 0, diameter)], "diameter_mm")
        events = match(marks, nodules, nodules[:0], ["a"], unknown_diameter_mm=10)
        assert froc(events, fps_per_scan=RATES).true_positives == found


def test_a_negative_diameter_counts_as_the_unknown_one():
    assert score([("a", 4.9, 0.9)], [("a", 90, 6)], [("a", 0, -1)]).ignored_excluded == 1
    assert score([("a", 5, 0.9)], [("a", 90, 6)], [("a", 0, -1)]).ignored_excluded == 0
    assert score([("a", 6, 0.9)], [("a", 90, 6)], [("a", 0, -1)], unknown_diameter_mm=14).ignored_excluded == 1
    assert score([("a", 4.9, 0.9)], [("a", 0, -1)]).true_positives == 1
    assert score([("a", 5, 0.9)], [("a", 0, -0.1)]).true_positives == 0


def test_scans_without_nodules_or_marks_lower_the_false_positive_rate():
    marks, nodules = [("a", 90, 0.9), ("a", 0, 0.5)], [("a", 0, 6)]
    assert sensitivities(score(marks, nodules)) == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    assert sensitivities(score(marks, nodules, series="abcdefgh")) == [1.0] * 7  # one in eight scans


def test_the_curve_is_joined_linearly_where_scores_tie():
    result = score([("a", 0, 0.5), ("a", 90, 0.5)], [("a", 0, 6)])
    assert sensitivities(result) == pytest.approx([0.125, 0.25, 0.5, 1, 1, 1, 1])
    assert result.cpm == pytest.approx((0.125 + 0.25 + 0.5 + 4) / 7)


def test_a_tie_of_many_is_one_point():
    marks = [("a", 90, 0.9), ("a", 0, 0.5), ("a", 90, 0.5), ("a", 90, 0.5), ("a", 90, 0.1)]
    result = score(marks, [("a", 0, 6)], rates=[1, 1.5, 2, 3])
    assert result.fps_per_scan.tolist() == [0, 1, 3, 4] and result.sensitivity.tolist() == [0, 0, 1, 1]
    assert sensitivities(result) == [0, 0.25, 0.5, 1]


def test_no_false_positives_at_all():
    result = score([("a", 0, 0.9), ("a", 50, 0.2)], [("a", 0, 6), ("a", 50, 6), ("a", 90, 6)])
    assert result.fps_per_scan.tolist() == [0, 0, 0] and sensitivities(result) == [2 / 3] * 7


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


def test_a_finding_that_is_not_all_numbers_is_named():
    with pytest.raises(InputError, match=r"1 nodules are not all numbers, the first on series a: .* nan"):
        score([], [("a", 0, math.nan)])
    with pytest.raises(InputError, match=r"1 excluded findings are not all numbers"):
        score([], [], [("a", math.inf, 3)])


def test_a_mark_too_far_to_be_squared_is_a_false_positive_without_a_warning():
    result = score([("a", 1e200, 0.9), ("a", 0, 0.8)], [("a", 0, 6)])
    assert (result.true_positives, result.false_positives) == (1, 1)


def test_what_is_not_a_number_in_a_scan_that_is_not_listed_does_not_matter():
    assert score([("a", 0, 0.9), ("x", math.nan, 0.9)], [("a", 0, 6)]).cpm == 1.0


def test_the_rates_are_the_challenges():
    assert LUNA16_RATES == (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)


def test_an_empty_list_of_scans_is_refused():
    with pytest.raises(InputError, match="list of scans is empty"):
        score([("a", 0, 0.9)], [("a", 0, 6)], series=())


@settings(max_examples=80)
@given(marks_of_scans, findings_of_scans, findings_of_scans, st.sampled_from([None, 1, 3]))
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


@settings(max_examples=80)
@given(marks_of_scans, findings_of_scans, findings_of_scans)
def test_read_as_the_challenges_script_reads_it_between_the_points_that_scikit_learn_keeps(marks, nodules, excluded):
    rates = [0.1, 0.4, 0.9, 1.9, 5.1]  # no multiple of a third: on a point, the script's rounding decides
    series = ["a", "b", "c"]
    label, value, _ = literally(marks, nodules, excluded, series)
    if 0 < sum(label) < len(label):
        fpr, tpr, _ = roc_curve(label, value)
        num_nodules = sum(nodule[0] in series for nodule in nodules)
        there = np.interp(rates, fpr * (len(label) - sum(label)) / 3, tpr * sum(label) / num_nodules)
        np.testing.assert_allclose(sensitivities(score(marks, nodules, excluded, series, rates)), there)


def test_a_point_at_exactly_the_wanted_rate_counts_where_the_scripts_rounding_passes_it():
    label = [0] * 31 + [1] + [0] * 28  # the 32nd mark hits; 31 of 59 false positives in 8 scans lie before it
    value = [1 - k / 64 for k in range(60)]
    fpr, tpr, _ = roc_curve(label, value)
    assert np.interp(31 / 8, fpr * 59 / 8, tpr) < 1e-9
    marks = [("a", 0 if is_hit else 90, score) for is_hit, score in zip(label, value, strict=True)]
    assert sensitivities(score(marks, [("a", 0, 6)], series="abcdefgh", rates=[31 / 8])) == [1.0]


def same(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True)
        for name in ("fps_per_scan", "sensitivity", "cpm", "ignored_excluded", "ignored_double", "candidates")
    )


@settings(max_examples=40)
@given(marks_of_scans, findings_of_scans, findings_of_scans, st.sampled_from([None, 2]), st.randoms())
def test_the_order_of_rows_and_of_scans_changes_nothing(marks, nodules, excluded, max_marks, random):
    tables = marks, nodules, excluded, list("abcd")
    shuffled = [random.sample(rows, len(rows)) for rows in tables]
    assert same(score(*tables, max_marks_per_scan=max_marks), score(*shuffled, max_marks_per_scan=max_marks))


@settings(max_examples=40)
@given(marks_of_scans, findings_of_scans, findings_of_scans, st.sampled_from([None, 2]))
def test_only_the_order_of_scores_matters(marks, nodules, excluded, max_marks):
    bent = [(scan, x, value**3 + 5) for scan, x, value in marks]
    one, other = (score(rows, nodules, excluded, series="abcd", max_marks_per_scan=max_marks) for rows in (marks, bent))
    assert same(one, other)


@settings(max_examples=40)
@given(marks_of_scans, findings_of_scans.filter(len), findings_of_scans)
def test_a_lower_mark_on_a_found_nodule_changes_nothing(marks, nodules, excluded):
    scan, x, _ = nodules[0]
    nodules = [(scan, x, 8), *nodules[1:]]
    series = ["a", "b", "c", "d"]
    others = [mark for mark in marks if mark[0] != scan or abs(mark[1] - x) >= 4]  # a nodule's only marks are known
    apart = [nodule for nodule in nodules[1:] if nodule[0] != scan or abs(nodule[1] - x) >= 5]
    before = score([*others, (scan, x, 0.9)], [nodules[0], *apart], excluded, series)
    after = score([*others, (scan, x, 0.9), (scan, x, 0.3)], [nodules[0], *apart], excluded, series)
    assert after.candidates == before.candidates + 1
    assert np.array_equal(before.sensitivity, after.sensitivity)
    assert np.array_equal(before.fps_per_scan, after.fps_per_scan)
