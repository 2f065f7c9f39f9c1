"""Scale between two paths and the offset of their clocks, on motion that is known exactly."""

import numpy as np
import pytest

from vggt_ros.geometry.poses import so3_exp
from vggt_ros.scale.clock_offset import TIME_SHIFTS, estimate_clock_offset, positions_at_offset
from vggt_ros.scale.odometry_source import interpolate
from vggt_ros.scale.path_ratio import growing_path_ratios, path_ratio

RATE, EVERY = 30, 0.3
TURN, UNIT = so3_exp(np.array([1.0, -0.4, 2.0])), 0.4


def trajectory(times):
    """Positions (n, 3), meters, of a hand that shakes while it moves on."""
    return np.column_stack([0.4 * times + 0.08 * np.sin(4 * times), 0.1 * np.sin(2.6 * times),
                            0.05 * np.cos(5 * times)])


def paths(late, count=20, sigma=0.0, seed=0, slip=(0.0, 0.0), motion=trajectory):
    """Windows of six keyframes in a map of other axes and units, and an odometry whose stamps are `late` seconds."""
    rng = np.random.default_rng(seed)
    times = np.arange(0, EVERY * 5 * (count + 2), 1 / RATE)
    steps = np.diff(motion(times), axis=0) * np.where((times[1:] >= slip[0]) & (times[1:] < slip[1]), 2.0, 1.0)[:, None]
    odometry = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])
    stamps = np.round((times + late) * 1e9).astype(np.int64)
    found = []
    for window in range(count):
        keyframes = 0.5 + EVERY * (5 * window + np.arange(6))
        units = motion(keyframes) @ TURN.T / UNIT + sigma / UNIT * rng.standard_normal((6, 3))
        positions = np.array([interpolate(stamps, odometry, np.int64(round(1e9 * t)) + TIME_SHIFTS) for t in keyframes])
        found.append((positions, units, max(sigma, 1e-4) / UNIT))
    return found


@pytest.mark.parametrize("late", [0.0, 0.010, -0.037])
def test_clock_offset_is_found_exactly_by_the_shape_of_a_path(late):
    found = estimate_clock_offset(paths(late), 1e-4)
    assert found.seconds == pytest.approx(late, abs=0.001)
    assert found.sigma < 0.002


@pytest.mark.parametrize("seed", range(4))
def test_clock_offset_with_noise_and_three_seconds_of_slip_has_a_consistent_sigma(seed):
    found = estimate_clock_offset(paths(0.010, sigma=0.004, seed=seed, slip=(9.0, 12.0)), 0.005)
    assert found.sigma < 0.005
    assert abs(found.seconds - 0.010) < 3 * found.sigma


def test_no_clock_offset_where_the_path_does_not_determine_it():
    """Constant velocity, too few windows, and an offset out of range."""
    def even(times):
        return np.column_stack([times, 0 * times, 0 * times])
    for given in (paths(0.01, sigma=0.004, motion=even), paths(0.01, count=3), paths(0.3)):
        found = estimate_clock_offset(given, 0.005)
        assert found.seconds == 0.0 and found.sigma == np.inf


def test_a_known_clock_offset_removes_the_bias_of_the_ratios():
    """Stamps that are 30 ms late make the scale of single windows wrong by up to 2 %; corrected, it is not."""
    given = paths(0.030)
    late = np.array([path_ratio(positions[:, len(TIME_SHIFTS) // 2], units, 1e-3, sigma).log
                     for positions, units, sigma in given])
    right = np.array([path_ratio(positions_at_offset(positions, estimate_clock_offset(given, 1e-3).seconds), units,
                                 1e-3, sigma).log for positions, units, sigma in given])
    assert np.abs(late - np.log(UNIT)).max() > 0.015
    assert np.abs(right - np.log(UNIT)).max() < 0.004


@pytest.mark.parametrize("size", [0.05, 0.2, 1.0])
def test_noise_in_both_paths_makes_no_bias_and_has_the_stated_sigma(size):
    """Also with 5 cm of path and 7 mm of noise, where the ratio of two lengths is off by 2 %."""
    rng, shape = np.random.default_rng(0), trajectory(EVERY * np.arange(8)) - trajectory(np.zeros(1))
    shape *= size / np.linalg.norm(shape[-1])
    found = [path_ratio(shape + 0.007 * rng.standard_normal(shape.shape),
                        shape @ TURN / UNIT + 0.005 / UNIT * rng.standard_normal(shape.shape), 0.007, 0.005 / UNIT)
             for _ in range(3000)]
    errors = np.array([one.log for one in found]) - np.log(UNIT)
    assert abs(np.median(errors)) < 4 * np.std(errors) / np.sqrt(len(errors)) + 0.1 * np.std(errors)
    if size > 0.1:
        assert np.std(errors) == pytest.approx(np.median([one.sigma for one in found]), rel=0.15)
        assert np.median([one.chi2 / one.degrees_of_freedom for one in found]) == pytest.approx(1.0, abs=0.15)


def test_growing_path_ratios_equal_those_of_each_beginning_of_the_path():
    rng = np.random.default_rng(1)
    meters = trajectory(EVERY * np.arange(7))
    units = meters @ TURN / UNIT + 0.01 * rng.standard_normal((7, 3))
    growing = growing_path_ratios(meters, units, 0.005, np.full(7, 0.01))
    for count in range(2, 8):
        alone = path_ratio(meters[:count], units[:count], 0.005, 0.01)
        assert growing.log[count - 2] == pytest.approx(float(alone.log), abs=1e-9)
        assert growing.sigma[count - 2] == pytest.approx(float(alone.sigma), rel=1e-6)
