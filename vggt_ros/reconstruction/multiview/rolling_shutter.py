"""Rolling shutters: the rows of an image are exposed one after the other, so that a moving camera bends it.

A point of the row at height y, from -1/2 at the top to 1/2 at the bottom, is seen y times the readout time after the
image's middle row, and therefore shifted by that time's motion. The readout time is the camera's; where it is not
given it is the one with which bundle adjustment leaves the smallest residuals.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.reconstruction.multiview.poses import Solved, refit
from vggt_ros.windows.keyframe import Keyframe

Array = NDArray[np.float64]

NEAREST = 5
"""Corners of known velocity around a track whose median is taken as its own."""
SLOWEST = 10.0
"""Pixels that a second of readout must shift the observations (root mean square) to say anything about it."""
WINDOWS = 10
"""After so many windows the readout time is known well enough."""
DEADBAND = 0.005
"""Shorter readouts are taken as a global shutter: forward motion lets a pitch look like one."""
TRACKS = 300
"""The longest tracks, on which the readout time is judged."""
LONGEST = 0.1
"""Longer ones are nonsense."""


def skew(tracks: Array, keyframes: tuple[Keyframe, ...]) -> Array:
    """Return by how many pixels a second of readout shifts each observation; tracks (n, S, 2) may be NaN.

    0 where the velocity is not known.
    """
    shift = np.zeros_like(tracks)
    for view, keyframe in enumerate(keyframes):
        if keyframe.corners is None:
            continue
        moving = np.isfinite(keyframe.corners.velocity[:, 0])
        if moving.sum() < NEAREST:
            continue
        seen = np.flatnonzero(~np.isnan(tracks[:, view, 0]))
        at = tracks[seen, view]
        distance = ((at[:, None] - keyframe.corners.pixels[None, moving]) ** 2).sum(-1)
        nearest = np.argpartition(distance, NEAREST - 1, axis=1)[:, :NEAREST]
        velocity = np.median(keyframe.corners.velocity[moving][nearest], axis=1)
        shift[seen, view] = velocity * (at[:, 1:] / keyframe.image.shape[0] - 0.5)
    return shift


class Readout:
    """The readout time of a camera, given or estimated over its first windows.

    Attributes:
        seconds: what to correct by.

    """

    def __init__(self, given: float) -> None:
        """Take the readout time in seconds; a negative one is estimated."""
        self._estimate = self._weight = 0.0
        self._left = WINDOWS if given < 0 else 0
        self.seconds = max(given, 0.0)

    def learn(self, solved: Solved, tracked: NDArray[np.bool_], shift: Array) -> None:
        """Improve the estimate by a solved window.

        All that was tracked (n, S) is judged, not only what agrees with the solution: that was chosen by the estimate
        of before. `shift` (n, S, 2) is what a second of readout does to the observations.
        """
        spread = float(np.sqrt((shift[tracked] ** 2).mean())) if self._left else 0.0
        if spread < SLOWEST:
            return
        self._left -= 1
        step = 1.0 / spread  # seconds that shift by a pixel
        fixed = int(np.argmax(solved.placed))
        rows = np.argsort(-(tracked & solved.placed).sum(1), kind="stable")[:TRACKS]
        tracked, shift, begun = tracked[rows], shift[rows], replace(solved.scene, points=solved.scene.points[rows])
        costs = []
        for change in (-step, 0.0, step):
            observed = solved.observed[rows] - change * shift
            scene, _ = refit(begun, observed, tracked, solved.placed, fixed, iterations=25)
            square = (scene.residuals(observed) ** 2).sum(-1)[tracked & solved.placed]
            costs.append(float(np.log1p(np.minimum(np.nan_to_num(square, nan=4.0), 4.0)).mean()))
        curvature = (costs[0] - 2 * costs[1] + costs[2]) / (2 * costs[1])
        if curvature < 0.02:  # no minimum to speak of
            return
        best = self.seconds + step * float(np.clip((costs[0] - costs[2]) / (4 * curvature * costs[1]), -2, 2))
        # Older windows count less: they were judged by a worse estimate.
        weight = curvature * spread**2
        self._weight = 0.7 * self._weight + weight
        self._estimate += weight / self._weight * (best - self._estimate)
        self.seconds = self._estimate if DEADBAND < self._estimate < LONGEST else 0.0
