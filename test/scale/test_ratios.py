"""Scale from many ratios with outliers: the estimate, and whether its sigma is consistent."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vggt_ros.scale.ratios import ScaleRatios, estimate_scale


def simulated_ratios(rng, seconds=20.0, count=40, sigma=0.05, common=0.02, log=0.4):
    """Ratios about `log` with independent errors, and one that varies from second to second."""
    times = np.sort(rng.uniform(0, seconds, count))
    wander = np.interp(times, np.arange(seconds + 2), common * rng.standard_normal(int(seconds) + 2))
    values = log + sigma * rng.standard_normal(count) + wander
    return ScaleRatios(values, np.full(count, sigma), (times * 1e9).astype(np.int64), np.zeros(count, np.int64))


def spoiled(ratios, begin, end, log):
    """The same ratios, but with the value `log` between two times in seconds."""
    times = ratios.stamps / 1e9
    return ScaleRatios(np.where((times >= begin) & (times < end), log, ratios.log), ratios.sigma, ratios.stamps,
                       ratios.windows)


def test_no_ratios_give_no_estimate():
    assert estimate_scale(ScaleRatios.join([])) is None


def test_exact_ratios_are_exact():
    found = estimate_scale(ScaleRatios(np.full(30, np.log(3.0)), np.full(30, 0.05), np.arange(30) * 10**9,
                                       np.zeros(30, np.int64)))
    assert found.log == pytest.approx(np.log(3.0), abs=1e-12)
    assert found.inlier_fraction == 1 and found.seconds == 30 and found.count == 30


@pytest.mark.parametrize("fault", [None, (0.0, 3.0), (8.0, 11.0), (17.0, 20.0)])
@pytest.mark.parametrize("log", [0.4 + np.log(2), 0.4 - np.log(1.2), -20.0])
def test_sigma_is_consistent_also_with_three_seconds_of_outliers(fault, log):
    """150 runs: the error over its sigma has a deviation of about 1, whatever the ratios in those seconds are."""
    rng = np.random.default_rng(0)
    found = [estimate_scale(simulated_ratios(rng) if fault is None else spoiled(simulated_ratios(rng), *fault, log))
             for _ in range(150)]
    scores = np.array([(one.log - 0.4) / one.sigma for one in found])
    assert 0.7 < scores.std() < 1.4
    assert np.abs(scores).max() < 4.5
    assert np.median([one.sigma for one in found]) < 0.015


def test_outliers_in_most_seconds_win_and_the_inlier_fraction_shows_it():
    """They cannot be told from the truth; the remaining true ratios lower the inlier fraction."""
    found = estimate_scale(spoiled(simulated_ratios(np.random.default_rng(1)), 0, 11, 1.0))
    assert abs(found.log - 1.0) < 0.02
    assert found.inlier_fraction < 0.65


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(-3, 3))
def test_a_change_of_unit_changes_nothing_else(seed, shift):
    ratios = spoiled(simulated_ratios(np.random.default_rng(seed)), 4, 7, 2.0)
    moved = ScaleRatios(ratios.log + shift, ratios.sigma, ratios.stamps, ratios.windows)
    one, other = estimate_scale(ratios), estimate_scale(moved)
    assert other.log - one.log == pytest.approx(shift, abs=1e-6)
    assert other.sigma == pytest.approx(one.sigma, rel=1e-3)
