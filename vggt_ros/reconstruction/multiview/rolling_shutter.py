"""Rolling-shutter correction: the rows of an image are exposed one after the other, which distorts it under motion.

A point in the row at relative height y, from -1/2 at the top to 1/2 at the bottom, is exposed y times the readout time
after the middle row of the image, and is therefore shifted by its motion during that time. The readout time is a
constant of the camera. Where it is not configured, the value that minimizes the residuals of bundle adjustment is
estimated.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.reconstruction.adjustment.triangulation import triangulate_and_adjust
from vggt_ros.reconstruction.multiview.poses import SparseReconstruction
from vggt_ros.windows.keyframe import Keyframe

Array = NDArray[np.float64]

NEIGHBORS = 5
"""Nearest features with known velocity; their median velocity is used for a track."""
MIN_SHIFT_RATE = 10.0
"""Smallest RMS shift of the observations per second of readout, pixels, for a window to be used in the estimate."""
MAX_WINDOWS = 10
"""Number of windows used; after them the estimate is kept."""
DEADBAND = 0.005
"""Shorter estimates, seconds, count as a global shutter: in forward motion, pitch rotation has the same effect."""
MAX_TRACKS = 300
"""Number of the longest tracks, which are used for the estimate."""
MAX_READOUT = 0.1
"""Longer estimates, seconds, are implausible and ignored."""


def shift_per_second(tracks: Array, keyframes: tuple[Keyframe, ...]) -> Array:
    """Return the shift of each observation in pixels per second of readout time (n, S, 2); tracks may be NaN.

    The shift is 0 where the velocity is not known.
    """
    shift_rate = np.zeros_like(tracks)
    for view, keyframe in enumerate(keyframes):
        if keyframe.corners is None:
            continue
        has_velocity = np.isfinite(keyframe.corners.velocity[:, 0])
        if has_velocity.sum() < NEIGHBORS:
            continue
        visible = np.flatnonzero(~np.isnan(tracks[:, view, 0]))
        pixels = tracks[visible, view]
        distance = ((pixels[:, None] - keyframe.corners.pixels[None, has_velocity]) ** 2).sum(-1)
        nearest = np.argpartition(distance, NEIGHBORS - 1, axis=1)[:, :NEIGHBORS]
        velocity = np.median(keyframe.corners.velocity[has_velocity][nearest], axis=1)
        shift_rate[visible, view] = velocity * (pixels[:, 1:] / keyframe.image.shape[0] - 0.5)
    return shift_rate


class ReadoutEstimator:
    """The readout time of a camera, configured or estimated from its first windows.

    Attributes:
        seconds: the readout time to correct with.

    """

    def __init__(self, setting: float) -> None:
        """Take the configured readout time in seconds; if it is negative, it is estimated."""
        self._estimate = self._weight = 0.0
        self._windows_left = MAX_WINDOWS if setting < 0 else 0
        self.seconds = max(setting, 0.0)

    def update(self, solution: SparseReconstruction, tracked: NDArray[np.bool_], shift_rate: Array) -> None:
        """Update the estimate with a solved window, from the cost at three readout times.

        All tracked observations (n, S) are used, not only the inliers of the solution: those were selected with the
        previous estimate. `shift_rate` (n, S, 2) is in pixels per second of readout time.
        """
        rms_rate = float(np.sqrt((shift_rate[tracked] ** 2).mean())) if self._windows_left else 0.0
        if rms_rate < MIN_SHIFT_RATE:
            return
        self._windows_left -= 1
        step = 1.0 / rms_rate  # seconds of readout that shift the observations by one pixel
        fixed = int(np.argmax(solution.registered))
        rows = np.argsort(-(tracked & solution.registered).sum(1), kind="stable")[:MAX_TRACKS]
        tracked, shift_rate, initial = tracked[rows], shift_rate[rows], replace(
            solution.scene, points=solution.scene.points[rows])
        costs = []
        for offset in (-step, 0.0, step):
            observations = solution.observations[rows] - offset * shift_rate
            scene, _ = triangulate_and_adjust(initial, observations, tracked, solution.registered, fixed, iterations=25)
            square = (scene.residuals(observations) ** 2).sum(-1)[tracked & solution.registered]
            costs.append(float(np.log1p(np.minimum(np.nan_to_num(square, nan=4.0), 4.0)).mean()))
        curvature = (costs[0] - 2 * costs[1] + costs[2]) / (2 * costs[1])
        if curvature < 0.02:  # no distinct minimum
            return
        minimum = self.seconds + step * float(np.clip((costs[0] - costs[2]) / (4 * curvature * costs[1]), -2, 2))
        # Older windows have less weight: they were evaluated with a worse estimate.
        weight = curvature * rms_rate**2
        self._weight = 0.7 * self._weight + weight
        self._estimate += weight / self._weight * (minimum - self._estimate)
        self.seconds = self._estimate if DEADBAND < self._estimate < MAX_READOUT else 0.0
