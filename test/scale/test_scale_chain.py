"""Scale from window to window: overlaps that lose it, sources that lie for a while, and which is believed."""

import numpy as np
import pytest

from vggt_ros.scale.chain import Chain, Evidence, smooth

PERIOD, EACH = 0.7, 3
"""Seconds of a window, and how often a source speaks in it."""


def evidence(true, sigma=0.02, lie=(0.0, 0.0, 0.0), seed=0):
    """What a source says of windows whose logarithms are `true`; from `lie[0]` to `lie[1]` seconds it adds `lie[2]`."""
    rng = np.random.default_rng(seed)
    row = np.repeat(np.arange(len(true)), EACH)
    seconds = PERIOD * (row + np.tile(np.arange(EACH) / EACH, len(true)))
    log = true[row] + sigma * rng.standard_normal(len(row))
    log += lie[2] * ((seconds >= lie[0]) & (seconds < lie[1]))
    return Evidence(row, log, np.full(len(row), sigma), seconds.astype(int)), float(np.median(log))


def chain(count, sigma=0.01):
    return Chain(np.arange(count) - 1, np.full(count, sigma))


def error(true, **kinds):
    return smooth(chain(len(true)), *evidence(true, **kinds)) - true


def drift(each, count=40, seed=1):
    return np.cumsum(each * np.random.default_rng(seed).standard_normal(count))


def test_a_chain_that_keeps_its_scale_is_not_bent_by_noise():
    found = smooth(chain(60), *evidence(np.full(60, 0.3)))
    assert np.abs(found - 0.3).max() < 0.01
    assert np.ptp(found) < 0.004


@pytest.mark.parametrize("each", [0.005, 0.02, 0.05])
def test_scale_that_is_lost_little_by_little_is_found(each):
    """Better than by the best single factor, up to what the source's noise of 2 % hides."""
    drifts = [drift(each, seed=seed) for seed in range(8)]
    left = np.mean([np.sqrt(np.mean(error(true, seed=seed) ** 2)) for seed, true in enumerate(drifts)])
    assert left < 0.03
    assert left < 0.35 * np.mean([true.std() for true in drifts]) + 0.006


@pytest.mark.parametrize("step", [-0.35, 0.2, 0.7])
@pytest.mark.parametrize("at", [8, 20, 30])
def test_a_window_that_loses_much_at_once_is_found(step, at):
    off = np.abs(error(step * (np.arange(40) >= at) + 0.1))
    assert np.delete(off, [at - 1, at]).max() < 0.015


@pytest.mark.parametrize("each", [0.0, 0.01])
@pytest.mark.parametrize("begin", [0, 10, 25])
@pytest.mark.parametrize("log", [np.log(2), np.log(0.5), -20.0])
def test_a_source_that_lies_for_three_seconds_bends_nothing(each, begin, log):
    true = drift(each)
    calm = np.abs(error(true)).max()
    assert np.abs(error(true, lie=(begin, begin + 3, log))).max() < max(0.03, 1.5 * calm)


def test_what_is_not_said_of_a_window_follows_from_its_neighbors():
    """A source that begins late, on two branches: the first windows follow the first that it tells of."""
    parent = np.array([-1, 0, 1, 2, 3, 4, 5, 1, 7, 8])
    said = np.repeat([4, 5, 6], 5)
    told = Evidence(said, np.full(15, 0.25), np.full(15, 0.02), np.arange(15))
    np.testing.assert_allclose(smooth(Chain(parent, np.full(10, 0.01)), told, 0.25), 0.25, atol=1e-9)


def test_two_breaks_and_a_lie_at_once():
    true = -0.3 * (np.arange(80) >= 20) + 0.2 * (np.arange(80) >= 50)
    off = np.abs(error(true, lie=(28, 31, np.log(2))))
    assert np.delete(off, [19, 20, 49, 50]).max() < 0.02


@pytest.mark.parametrize("seed", range(3))
def test_windows_that_have_a_scale_of_their_own_keep_it_beside_three_seconds_of_lies(seed):
    """Each is off by 7 % that the next has not, as short windows of a camera that hardly moves are: two a second."""
    rng, count = np.random.default_rng(seed), 40
    true = drift(0.01, count, seed) + 0.07 * rng.standard_normal(count)
    seen = true + 0.015 * rng.standard_normal(count)
    seen[14:20] += np.log(2)
    told = Evidence(np.arange(count), seen, np.full(count, 0.015), np.arange(count), rate=2.0)
    off = np.abs(smooth(chain(count), told, float(np.median(seen))) - true)
    assert np.median(np.delete(off, range(14, 20))) < 0.02, "as exact as the source"
    assert off[14:20].max() < 0.3, "no lie is followed"


def test_where_a_chain_breaks_while_the_source_lies_is_taken_for_unknown():
    """Half of what is lost, between: no answer is nearer to all that may be true."""
    seen = np.where(np.arange(20) < 7, 0.0, 0.4)
    seen[7:10] = 1.0
    found = smooth(chain(20), Evidence(np.arange(20), seen, np.full(20, 0.02), np.arange(20)), 0.4)
    np.testing.assert_allclose(found[:7], 0.0, atol=0.01)
    np.testing.assert_allclose(found[7:10], 0.2, atol=0.01)
    np.testing.assert_allclose(found[10:], 0.4, atol=0.01)
