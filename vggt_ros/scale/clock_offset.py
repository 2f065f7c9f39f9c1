"""How late another odometry's stamps are, by the shape of its path.

Where a hand or a rough floor shakes the camera, 10 ms of offset are one percent of every motion, always to the same
side. They bend the path, too: so the offset is the one at which the paths inside windows have the shape that the map
gives them. Where nothing accelerates nothing tells, and it does not matter either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vggt_ros.geometry.poses import Array
from vggt_ros.scale.path_ratio import path_ratio

SHIFTS = np.arange(-60, 61, 20) * 1_000_000
"""Offsets (k,) at which places are looked up, nanoseconds; between them they are interpolated."""
_REACH, _STEP = 0.050, 0.002
"""Largest offset that is looked for, and the steps in which it is, seconds."""
_LEAST = 5
"""Paths that are needed."""
_WORST = 60.0
"""Most that the shape of one path costs (chi-square): one along which the odometry slipped says nothing."""
_SURE = 0.005
"""Sigma, seconds, beyond which nothing is said."""


@dataclass(frozen=True)
class ClockOffset:
    """How late stamps are, and the sigma of that, both in seconds."""

    seconds: float = 0.0
    sigma: float = float("inf")


def clock_offset(paths: Sequence[tuple[Array, Array, float]], sigma_meters: float) -> ClockOffset:
    """Return how late the stamps of an odometry are; 0 with an infinite sigma if its paths do not tell.

    Args:
        paths: the places (n, k, 3) in meters of one at a camera's stamps plus `SHIFTS`; the camera's own (n, 3), in
            the map; and the sigma of their coordinates.
        sigma_meters: that of the odometry's.

    """
    offsets = np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
    if len(paths) < _LEAST:
        return ClockOffset()
    compared = [path_ratio(np.array([shifted(places, offset) for offset in offsets]), units, sigma_meters, sigma)
                for places, units, sigma in paths]
    squares = np.array([one.squares for one in compared])
    # How exact the shapes are is seen where they fit best.
    squares /= max(float(np.median(squares.min(1) / [one.free[0] for one in compared])), 1e-6)
    cost = (squares / (1 + squares / _WORST)).sum(0)
    best = int(np.argmin(cost))
    if best in (0, len(offsets) - 1):
        return ClockOffset()
    before, least, after = cost[best - 1:best + 2]
    curvature = max(float(before - 2 * least + after) / _STEP**2, 1e-9)
    sigma = float(np.sqrt(2 / curvature))
    return ClockOffset(float(offsets[best] - (after - before) / (2 * _STEP * curvature)), sigma) \
        if sigma < _SURE else ClockOffset()


def shifted(places: Array, seconds: float) -> Array:
    """Return places (n, 3) at an offset, from those (n, k, 3) at `SHIFTS`."""
    if seconds == 0.0:
        return places[:, len(SHIFTS) // 2]
    at = float(np.interp(1e9 * seconds, SHIFTS, np.arange(len(SHIFTS))))
    below = min(int(at), len(SHIFTS) - 2)
    return np.asarray(places[:, below] + (at - below) * (places[:, below + 1] - places[:, below]))
