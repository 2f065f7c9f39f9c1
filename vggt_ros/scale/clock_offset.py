"""Clock offset of another odometry, from the shape of its path.

Where a camera is shaken, by a hand or a rough floor, a clock offset of 10 ms is an error of one percent of every
motion, always in the same direction. It also deforms the path. So the estimate is the offset at which the odometry's
path inside each window fits the shape of the map's path best. Without acceleration the offset is not observable, and
has no effect either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vggt_ros.geometry.poses import Array
from vggt_ros.scale.path_ratio import path_ratio

TIME_SHIFTS = np.arange(-60, 61, 20) * 1_000_000
"""Offsets (k,) at which positions are looked up, nanoseconds; between them positions are interpolated."""
_MAX_OFFSET, _OFFSET_STEP = 0.050, 0.002
"""Largest offset that is tried, and the step between offsets, seconds."""
_MIN_PATHS = 5
"""Fewest paths."""
_MAX_PATH_COST = 60.0
"""Largest cost (chi-square) of the shape of one path, so that a path along which the odometry slipped hardly counts."""
_MAX_SIGMA = 0.005
"""Largest sigma of an estimate, seconds."""


@dataclass(frozen=True)
class ClockOffset:
    """How late the odometry's stamps are, and its sigma, both in seconds."""

    seconds: float = 0.0
    sigma: float = float("inf")


def estimate_clock_offset(paths: Sequence[tuple[Array, Array, float]], sigma_meters: float) -> ClockOffset:
    """Return how late the stamps of an odometry are; 0 with an infinite sigma if its paths do not determine it.

    Args:
        paths: for each path the odometry's positions (n, k, 3) in meters at the keyframes' stamps plus `TIME_SHIFTS`;
            the keyframes' positions (n, 3) in the map; and the sigma of a coordinate of the latter, map units.
        sigma_meters: of a coordinate of the odometry's positions.

    """
    offsets = np.arange(-_MAX_OFFSET, _MAX_OFFSET + _OFFSET_STEP / 2, _OFFSET_STEP)
    if len(paths) < _MIN_PATHS:
        return ClockOffset()
    ratios = [path_ratio(np.array([positions_at_offset(positions, offset) for offset in offsets]), units,
                         sigma_meters, sigma) for positions, units, sigma in paths]
    chi2 = np.array([ratio.chi2 for ratio in ratios])
    # The level of the shape errors is estimated at the best offset of each path.
    chi2 /= max(float(np.median(chi2.min(1) / [ratio.degrees_of_freedom[0] for ratio in ratios])), 1e-6)
    cost = (chi2 / (1 + chi2 / _MAX_PATH_COST)).sum(0)
    best = int(np.argmin(cost))
    if best in (0, len(offsets) - 1):
        return ClockOffset()
    lower, minimum, upper = cost[best - 1:best + 2]
    curvature = max(float(lower - 2 * minimum + upper) / _OFFSET_STEP**2, 1e-9)
    sigma = float(np.sqrt(2 / curvature))
    return ClockOffset(float(offsets[best] - (upper - lower) / (2 * _OFFSET_STEP * curvature)), sigma) \
        if sigma < _MAX_SIGMA else ClockOffset()


def positions_at_offset(positions: Array, seconds: float) -> Array:
    """Return positions (n, 3) at a clock offset, interpolated from those (n, k, 3) at `TIME_SHIFTS`."""
    if seconds == 0.0:
        return positions[:, len(TIME_SHIFTS) // 2]
    index = float(np.interp(1e9 * seconds, TIME_SHIFTS, np.arange(len(TIME_SHIFTS))))
    below = min(int(index), len(TIME_SHIFTS) - 2)
    return np.asarray(positions[:, below] + (index - below) * (positions[:, below + 1] - positions[:, below]))
