import math

import numpy as np
import pytest
import sklearn.calibration
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from lunaops.calibration import (
    brier_score,
    expected_calibration_error,
    fit_temperature,
    log_losses,
    reliability,
    scale,
)

scored = st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), min_size=2, max_size=50)


def arrays(rows):
    label, score = zip(*rows, strict=True)
    return np.array(label), np.array(score)


def overconfident(temperature, count=20_000):
    """Labels drawn from true probabilities, whose logits are then multiplied by the temperature."""
    generator = np.random.default_rng(0)
    logit = generator.normal(-1, 1.5, count)
    label = generator.random(count) < 1 / (1 + np.exp(-logit))
    return label, 1 / (1 + np.exp(-logit * temperature))


@given(scored)
def test_curve_and_brier_score_equal_scikit_learns(rows):
    label, score = arrays(rows)
    curve = reliability(label, score, bins=7)
    filled = curve[curve["candidates"] > 0]
    share, mean_score = sklearn.calibration.calibration_curve(label, score, n_bins=7)
    np.testing.assert_allclose(filled["share"], share)
    np.testing.assert_allclose(filled["mean_score"], mean_score)
    assert curve["candidates"].sum() == len(rows) and curve["positives"].sum() == label.sum()
    expected = sklearn.metrics.brier_score_loss(label, score, pos_label=True)
    assert brier_score(label, score) == pytest.approx(expected)


def test_the_error_is_the_gap_of_each_bin_weighted_with_its_candidates():
    curve = reliability([True, False, False, True], [0.1, 0.3, 0.2, 0.9], bins=2)
    assert curve[["low", "high", "candidates", "positives"]].to_numpy().tolist() == [[0, 0.5, 3, 1], [0.5, 1, 1, 1]]
    assert expected_calibration_error(curve) == pytest.approx((3 * abs(0.2 - 1 / 3) + 0.1) / 4)


def test_a_bin_holds_its_upper_end_and_an_empty_one_stays():
    curve = reliability([False, True, True], [0.0, 0.25, 1.0], bins=4)
    assert curve["candidates"].tolist() == [2, 0, 0, 1]
    assert curve["share"].isna().tolist() == [False, True, True, False]


def test_of_no_candidates_all_is_undefined():
    assert math.isnan(expected_calibration_error(reliability([], [], bins=3)))
    assert math.isnan(brier_score([], []))


def test_a_score_that_is_not_a_number_is_in_no_bin():
    assert reliability([True, True], [math.nan, 0.7], bins=2)["candidates"].tolist() == [0, 1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(temperature):
    assert fit_temperature(*overconfident(temperature)) == pytest.approx(temperature, rel=0.05)


def test_the_temperature_is_where_scikit_learns_log_loss_is_smallest():
    label, score = overconfident(2.0, count=300)
    found = fit_temperature(label, score)
    best = minimize_scalar(lambda t: sklearn.metrics.log_loss(label, scale(score, t)), bounds=(0.05, 20)).x
    assert found == pytest.approx(best, rel=1e-3)
    loss = log_losses(label, score, found)
    assert loss.mean() == pytest.approx(sklearn.metrics.log_loss(label, scale(score, found)))


def test_scaling_back_makes_scores_probabilities_again():
    label, score = overconfident(3.0)
    before, after = (reliability(label, s, bins=10) for s in (score, scale(score, fit_temperature(label, score))))
    assert expected_calibration_error(before) > 0.1
    assert expected_calibration_error(after) < 0.02


def test_where_every_score_is_on_its_side_the_temperature_ends_at_its_bound_and_where_none_is_at_the_other():
    assert fit_temperature([False, True], [0.2, 0.8]) == pytest.approx(0.05)
    assert fit_temperature([True, False], [0.2, 0.8]) == pytest.approx(20)
    assert fit_temperature([False, True], [0.5, 0.5]) == 1.0


@pytest.mark.parametrize(
    ("label", "score"), [([True], [0.9]), ([False, False], [0.1, 0.2]), ([True, False], [0.5, math.nan])]
)
def test_without_both_classes_there_is_no_temperature(label, score):
    with pytest.raises(ValueError, match="both classes"):
        fit_temperature(label, score)


@given(scored, st.floats(0.05, 20))
def test_scaling_never_turns_an_order_round_and_stays_a_probability(rows, temperature):
    _, score = arrays(rows)
    scaled = scale(np.sort(score), temperature)
    assert (np.diff(scaled) >= 0).all() and (scaled >= 0).all() and (scaled <= 1).all()
    assert np.isfinite(log_losses(np.ones(len(score)), score, temperature)).all()


def test_of_temperature_1_a_score_stays_as_it_is_and_half_always_does():
    assert scale([0.1, 1e-30, 1.0], 1.0).tolist() == [0.1, 1e-30, 1.0]
    assert scale(0.5, 7.0) == pytest.approx(0.5)
    assert scale([np.inf], 2.0).tolist() == [np.inf]
    assert scale([0.8], 2.0).tolist() == [pytest.approx(2 / 3)]  # odds 4 -> 2
