"""Rolling-shutter correction: the rows of an image are exposed one after the other, which distorts it under motion.

A point in the row at relative height y, from -1/2 at the top to 1/2 at the bottom, is exposed y times the readout time
after the middle row of the image, and is therefore shifted by its motion during that time. The readout time is a
constant of the camera. Where it is not configured, the value that minimizes the residuals of bundle adjustment is
estimated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.median import median
from vggt_ros.geometry.poses import Array
from vggt_ros.reconstruction.adjustment.bundle import EXACT, AdjustmentOptions
from vggt_ros.reconstruction.adjustment.sparse_reconstruction import SparseReconstruction
from vggt_ros.reconstruction.adjustment.triangulation import triangulate_and_adjust
from vggt_ros.windows.keyframe import Keyframe

GRID = (18, 24)
"""Rows and columns of the grid on which the image motion is known."""
GRID_BLUR = 1.0
"""Blur of the grid, cells, before it is interpolated: its medians have steps."""
NEIGHBORS = 5
"""Nearest features with known velocity; their median velocity is that of a cell of the grid."""
MIN_AFFINE, AFFINE_ITERATIONS, AFFINE_PRIOR = 12, 8, 0.03
"""Fewest features for an affine image motion, steps of its robust fit, and the weight of no gradient, in features: of
features at one place the gradient is not known."""
MIN_SHIFT_RATE = 10.0
"""Smallest RMS shift of the observations per second of readout, pixels, for a window to be used in the estimate."""
MIN_CURVATURE = 0.04
"""Smallest relative increase of the cost by a shift of one pixel, RMS, for a window to say anything."""
MAX_WINDOWS = 10
"""Number of windows used; after them the estimate is kept."""
DEADBAND = 0.005
"""Shorter estimates, seconds, count as a global shutter: in forward motion, pitch rotation has the same effect."""
MIN_REVERSED = 0.015
"""Shortest estimate, seconds, of rows that are read from the bottom up, as in images that are turned upside down after
they were taken."""
MAX_TRACKS = 300
"""Number of the longest tracks, which are used for the estimate."""
READOUT_CHANGE = 0.005
"""A change of the estimate, seconds, after which a window is solved again."""
MAX_READOUT = 0.1
"""Longer estimates, seconds, are implausible and ignored."""


def velocity_grid(keyframe: Keyframe) -> Array:
    """Return the image motion (`GRID` rows, columns, 2) in pixels per second by the tracked features; 0 if unknown.

    It is an affine function of the place, as in any rotation of the camera to first order, plus the median of what that
    leaves in the nearest features. So also parts of the image without features know how they move in a roll.
    """
    grid = np.zeros((*GRID, 2))
    if keyframe.corners is None:
        return grid
    known = np.isfinite(keyframe.corners.velocity[:, 0])
    if known.sum() < NEIGHBORS:
        return grid
    height, width = keyframe.image.shape[:2]
    x, y = np.meshgrid((np.arange(GRID[1]) + 0.5) * width / GRID[1], (np.arange(GRID[0]) + 0.5) * height / GRID[0])
    places = np.stack([x.ravel(), y.ravel()], 1)
    pixels = keyframe.corners.pixels[known].astype(np.float64)
    velocity = keyframe.corners.velocity[known].astype(np.float64)
    design = _homogeneous(pixels / width)
    affine = _affine_fit(design, velocity)
    nearest = cv2.batchDistance(places.astype(np.float32), pixels.astype(np.float32), cv2.CV_32F,
                                normType=cv2.NORM_L2SQR, K=NEIGHBORS)[1]
    left = np.median((velocity - design @ affine)[nearest], axis=1)
    return (_homogeneous(places / width) @ affine + left).reshape(grid.shape)


def _homogeneous(places: Array) -> Array:
    return np.column_stack([places, np.ones(len(places))])


def _affine_fit(design: Array, velocity: Array) -> Array:
    """Return the affine function (3, 2) of homogeneous places (n, 3) that most of the velocities (n, 2) agree with.

    With few features it is constant: their median.
    """
    affine = np.zeros((3, 2))
    affine[2] = np.median(velocity, axis=0)
    if len(design) < MIN_AFFINE:
        return affine
    for _ in range(AFFINE_ITERATIONS):
        left = np.linalg.norm(velocity - design @ affine, axis=1)
        weight = 1 / (1 + (left / max(median(left), 1.0)) ** 2)
        weighted = design * weight[:, None]
        affine = np.linalg.solve(design.T @ weighted + AFFINE_PRIOR * np.diag([1.0, 1.0, 0.0]), weighted.T @ velocity)
    return affine


def shift_per_second(pixels: Array, velocities: Sequence[Array], size: tuple[int, int]) -> Array:
    """Return the shift of observations in pixels per second of readout time (n, S, 2); 0 where they are NaN.

    Args:
        pixels: of the observations (n, S, 2) in S images.
        velocities: of each image, `velocity_grid`.
        size: width and height of the images.

    """
    shift_rate = np.zeros_like(pixels)
    for view, velocity in enumerate(velocities):
        if not velocity.any():
            continue
        at = pixels[:, view]
        visible = np.isfinite(at[:, 0])
        cell = np.clip(at[visible] * [GRID[1] / size[0], GRID[0] / size[1]], 0, [GRID[1] - 1, GRID[0] - 1]).astype(int)
        shift_rate[visible, view] = velocity[cell[:, 1], cell[:, 0]] * (at[visible, 1:] / size[1] - 0.5)
    return shift_rate


def dense_shift(motion: Array, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return the shift of every pixel of an image of this width and height (h, w, 2).

    `motion` during the readout time is that of `velocity_grid`, and interpolated; the shift is in its units.
    """
    smooth = cv2.GaussianBlur(motion, (0, 0), GRID_BLUR, borderType=cv2.BORDER_REPLICATE).astype(np.float32)
    dense = np.asarray(cv2.resize(smooth, size, interpolation=cv2.INTER_LINEAR), np.float32)
    dense *= ((np.arange(size[1], dtype=np.float32) + np.float32(0.5)) / size[1] - np.float32(0.5))[:, None, None]
    return dense


class ReadoutEstimator:
    """The readout time of a camera, configured or estimated from its first windows.

    Attributes:
        seconds: the readout time to correct with; negative if the rows are read from the bottom up.

    """

    def __init__(self, setting: float) -> None:
        """Take the configured readout time in seconds; if it is negative, it is estimated."""
        self._estimate = self._weight = 0.0
        self._windows_left = MAX_WINDOWS if setting < 0 else 0
        self.seconds = max(setting, 0.0)

    @property
    def state(self) -> tuple[float, float, int, float]:
        """All that it knows, to set another estimator to."""
        return self._estimate, self._weight, self._windows_left, self.seconds

    @state.setter
    def state(self, values: tuple[float, float, int, float]) -> None:
        self._estimate, self._weight, self._windows_left, self.seconds = values

    def update(self, solution: SparseReconstruction, tracked: NDArray[np.bool_], shift_rate: Array) -> None:
        """Update the estimate with a solved window, from the cost at readout times around the lowest one.

        All tracked observations (n, S) are used, not only the inliers of the solution: those were selected with the
        previous estimate. `shift_rate` (n, S, 2) is in pixels per second of readout time. The radial distortion is
        kept: where both are free, either takes what is the other's.
        """
        rms_rate = float(np.sqrt((shift_rate[tracked] ** 2).mean())) if self._windows_left else 0.0
        if rms_rate < MIN_SHIFT_RATE:
            return
        self._windows_left -= 1
        step = 1.0 / rms_rate  # seconds of readout that shift the observations by one pixel
        used = solution.registered & tracked.any(0)
        fixed = int(np.argmax(used))
        rows = np.argsort(-(tracked & used).sum(1), kind="stable")[:MAX_TRACKS]
        tracked, shift_rate, initial = tracked[rows], shift_rate[rows], replace(
            solution.scene, points=solution.scene.points[rows])

        def cost(offset: float) -> float:
            observations = solution.observations[rows] - offset * shift_rate
            scene, _ = triangulate_and_adjust(initial, observations, tracked, used, fixed, AdjustmentOptions(25, EXACT))
            square = (scene.residuals(observations) ** 2).sum(-1)[tracked & used]
            return float(np.log1p(np.minimum(np.nan_to_num(square, nan=4.0), 4.0)).mean())

        if (found := self._lowest(cost, step)) is None:
            return
        middle, (before, lowest, after) = found
        curvature = (before - 2 * lowest + after) / (2 * lowest)
        if curvature < MIN_CURVATURE:  # no distinct minimum
            return
        minimum = self.seconds + middle + step * float(np.clip((before - after) / (4 * curvature * lowest), -1, 1))
        # Older windows have less weight: they were evaluated with a worse estimate.
        weight = curvature * rms_rate**2
        self._weight = 0.7 * self._weight + weight
        self._estimate += weight / self._weight * (minimum - self._estimate)
        shortest = DEADBAND if self._estimate > 0 else MIN_REVERSED
        self.seconds = self._estimate if shortest < abs(self._estimate) < MAX_READOUT else 0.0

    def _lowest(self, cost: Callable[[float], float], step: float) -> tuple[float, tuple[float, float, float]] | None:
        """Return the offset to the readout time, a multiple of `step`, with the lowest cost, and the costs around it.

        Until there is an estimate, the search goes downhill, since far from the minimum the robust cost is not a
        parabola. None if the cost still falls at the longest readout time that is plausible.
        """
        middle, costs = 0, {offset: cost(offset * step) for offset in (-1, 0, 1)}
        while not self._weight and (lowest := min((middle, middle - 1, middle + 1), key=costs.__getitem__)) != middle:
            if abs(self.seconds + lowest * step) > MAX_READOUT:
                return None
            middle, beyond = lowest, 2 * lowest - middle
            if beyond not in costs:
                costs[beyond] = cost(beyond * step)
        return middle * step, (costs[middle - 1], costs[middle], costs[middle + 1])
