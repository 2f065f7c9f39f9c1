"""Scale from window to window: overlaps whose scale drifts, and sources with bursts of outliers."""

import numpy as np
import pytest

from vggt_ros.scale.chain import ScaleMeasurements, ScaleTree, smooth

PERIOD, EACH = 0.7, 3
"""Seconds of a window, and measurements of a source in it."""


def measurements(true, sigma=0.02, fault=(0.0, 0.0, 0.0), seed=0):
    """Measurements of windows of log scale `true`; from `fault[0]` to `fault[1]` seconds they are off by `fault[2]`."""
    rng = np.random.default_rng(seed)
    row = np.repeat(np.arange(len(true)), EACH)
    seconds = PERIOD * (row + np.tile(np.arange(EACH) / EACH, len(true)))
    log = true[row] + sigma * rng.standard_normal(len(row))
    log += fault[2] * ((seconds >= fault[0]) & (seconds < fault[1]))
    return ScaleMeasurements(row, log, np.full(len(row), sigma), seconds.astype(int)), float(np.median(log))


def scale_chain(count, sigma=0.01):
    return ScaleTree(np.arange(count) - 1, np.full(count, sigma))


def error(true, **kinds):
    return smooth(scale_chain(len(true)), *measurements(true, **kinds)) - true


def drift(each, count=40, seed=1):
    return np.cumsum(each * np.random.default_rng(seed).standard_normal(count))


def test_a_chain_without_drift_is_not_deformed_by_noise():
    found = smooth(scale_chain(60), *measurements(np.full(60, 0.3)))
    assert np.abs(found - 0.3).max() < 0.01
    assert np.ptp(found) < 0.004


@pytest.mark.parametrize("each", [0.005, 0.02, 0.05])
def test_gradual_drift_of_scale_is_found(each):
    """Better than with the best single factor, down to the source's noise of 2 %."""
    drifts = [drift(each, seed=seed) for seed in range(8)]
    left = np.mean([np.sqrt(np.mean(error(true, seed=seed) ** 2)) for seed, true in enumerate(drifts)])
    assert left < 0.03
    assert left < 0.35 * np.mean([true.std() for true in drifts]) + 0.006


@pytest.mark.parametrize("step", [-0.35, 0.2, 0.7])
@pytest.mark.parametrize("at", [8, 20, 30])
def test_a_break_of_scale_is_found(step, at):
    off = np.abs(error(step * (np.arange(40) >= at) + 0.1))
    assert np.delete(off, [at - 1, at]).max() < 0.015


@pytest.mark.parametrize("each", [0.0, 0.01])
@pytest.mark.parametrize("begin", [0, 10, 25])
@pytest.mark.parametrize("log", [np.log(2), np.log(0.5), -20.0])
def test_three_seconds_of_outliers_change_nothing(each, begin, log):
    true = drift(each)
    calm = np.abs(error(true)).max()
    assert np.abs(error(true, fault=(begin, begin + 3, log))).max() < max(0.03, 1.5 * calm)


def test_windows_without_measurements_follow_their_neighbors():
    """A source that begins late, on two branches: the first windows follow the first that have measurements."""
    parent = np.array([-1, 0, 1, 2, 3, 4, 5, 1, 7, 8])
    rows = np.repeat([4, 5, 6], 5)
    measured = ScaleMeasurements(rows, np.full(15, 0.25), np.full(15, 0.02), np.arange(15))
    np.testing.assert_allclose(smooth(ScaleTree(parent, np.full(10, 0.01)), measured, 0.25), 0.25, atol=1e-9)


def test_two_breaks_and_a_burst_of_outliers_at_once():
    true = -0.3 * (np.arange(80) >= 20) + 0.2 * (np.arange(80) >= 50)
    off = np.abs(error(true, fault=(28, 31, np.log(2))))
    assert np.delete(off, [19, 20, 49, 50]).max() < 0.02


@pytest.mark.parametrize("seed", range(3))
def test_windows_with_independent_scale_errors_keep_them_beside_three_seconds_of_outliers(seed):
    """Each is off by 7 % that the next has not, like short windows of a camera that hardly moves, two a second."""
    rng, count = np.random.default_rng(seed), 40
    true = drift(0.01, count, seed) + 0.07 * rng.standard_normal(count)
    seen = true + 0.015 * rng.standard_normal(count)
    seen[14:20] += np.log(2)
    measured = ScaleMeasurements(np.arange(count), seen, np.full(count, 0.015), np.arange(count), block_rate=2.0)
    off = np.abs(smooth(scale_chain(count), measured, float(np.median(seen))) - true)
    assert np.median(np.delete(off, range(14, 20))) < 0.02, "as exact as the source"
    assert off[14:20].max() < 0.3, "no outlier is followed"


def test_a_break_during_outliers_is_shared_between_both_possible_places():
    """Half the step in between: no answer is nearer to all possible truths."""
    seen = np.where(np.arange(20) < 7, 0.0, 0.4)
    seen[7:10] = 1.0
    found = smooth(scale_chain(20), ScaleMeasurements(np.arange(20), seen, np.full(20, 0.02), np.arange(20)), 0.4)
    np.testing.assert_allclose(found[:7], 0.0, atol=0.01)
    np.testing.assert_allclose(found[7:10], 0.2, atol=0.01)
    np.testing.assert_allclose(found[10:], 0.4, atol=0.01)
