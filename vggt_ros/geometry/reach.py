"""How far a camera can have come while it was lost, by the time that passed and the speed that it had.

Where the sequence of windows breaks, nothing is measured of the camera's motion, but its speed is known. Images that
are found in the map farther away show another place that looks alike, such as the next floor of a staircase.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array

_RECENT = 50
"""Keyframes before the break from which the speed is taken."""
_FASTER = 3.0
"""A lost camera moves at most this many times as fast as it did: the 90th percentile of the speed between keyframes."""
_LEAST_SPEED = 0.25
"""Speed that any camera can have, median depths per second."""
_TOLERANCE = 0.2
"""Error of a relocalized position, median depths."""


def reach(stamps: NDArray[np.int64], centers: Array, depth: float, stamp: int) -> float | None:
    """Return how far a camera can have come from the last of its positions until `stamp`; None if that is unknown.

    Args:
        stamps: (n,), of the keyframes before, nanoseconds, ascending.
        centers: (n, 3), their positions.
        depth: median depth of the last one, in the unit of the positions.
        stamp: nanoseconds; if it is not later than the last keyframe, the clock has changed, and nothing is known.

    """
    if not len(stamps) or stamp <= stamps[-1] or not np.isfinite(depth):
        return None
    stamps, centers = stamps[-_RECENT:], centers[-_RECENT:]
    seconds = np.diff(stamps) * 1e-9
    speeds = np.linalg.norm(np.diff(centers, axis=0), axis=1)[seconds > 0] / seconds[seconds > 0]
    speed = max(float(np.percentile(speeds, 90)) if len(speeds) else 0.0, _LEAST_SPEED * depth)
    return _FASTER * speed * (stamp - int(stamps[-1])) * 1e-9 + _TOLERANCE * depth
