"""How fast the camera turned while each image was read out, by the image's own distortion.

The tracker knows the image motion between two images, which is that of the time before a keyframe. A camera that is
turned back and forth moves differently in the keyframe itself, and a rolling shutter then shifts rows by pixels that
the correction does not know of. Against points that other views determine, this shift is seen: beside the pose, each
view has an angular velocity, as in the absolute pose of a rolling-shutter camera (Albl et al., R6P, CVPR 2015).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.reconstruction.adjustment.rolling_shutter import GRID
from vggt_ros.reconstruction.adjustment.sparse_reconstruction import SparseReconstruction
from vggt_ros.reconstruction.multiview.matching.views import Measurements, View

RATE_SIGMA = 0.1
"""Standard deviation of what the image motion of the tracker leaves of each angular velocity, radians per second: 0.12
against motion capture where a hand turns a camera of 10 Hz as fast as it can, less elsewhere. Its distribution is that
of Cauchy, in three dimensions: a turn that begins between two images is far from it."""
LOSS_SCALE = 1.5
"""Scale of the Cauchy loss, pixels."""
MIN_POINTS = 40
"""Fewest points for an angular velocity."""
ITERATIONS = 6


def with_turn_rates(measured: Measurements, solved: SparseReconstruction, rows: NDArray[np.intp],
                    views: Iterable[int]) -> Measurements:
    """Return the measurements with the image motion of `views` corrected by what a solution says of their distortion.

    Without a rolling shutter, they are returned as they are.

    Args:
        measured: tracks (n, S, 2).
        solved: a solution from the tracks `rows` (k,).
        rows: see there.
        views: indices of the S views.

    """
    if not measured.readout:
        return measured
    corrected = list(measured.views)
    for view in views:
        seen = measured.visible[rows, view] & (solved.inliers.sum(1) > solved.inliers[:, view])
        if solved.registered[view] and seen.sum() >= MIN_POINTS:
            rate = _turn_rate(measured, solved, rows, view, seen)
            corrected[view] = _turned_faster(corrected[view], rate, measured.focal[view])
    return replace(measured, views=corrected)


def _turn_rate(measured: Measurements, solved: SparseReconstruction, rows: NDArray[np.intp], view: int,
               seen: NDArray[np.bool_]) -> Array:
    """Return the angular velocity (3,) of a view beside that of its image motion, radians per second.

    Pose and angular velocity are estimated together, robustly, with the points as they are.
    """
    scene, focal = solved.scene, measured.focal[view]
    points = scene.points[seen] @ scene.rotation[view].T + scene.translation[view]
    observed = measured.observations[rows[seen], view]
    height = measured.views[view].features.gray.shape[0]
    delay = measured.readout * (measured.tracks[rows[seen], view, 1] / height - 0.5)
    front = points[:, 2] > 1e-6
    points, observed, delay = points[front], observed[front], delay[front]
    if len(points) < MIN_POINTS:
        return np.zeros(3)
    ratio = points[:, :2] / points[:, 2:]
    residual = ratio * focal - observed
    turning = image_motion_of_turning(ratio, focal)
    shift = np.zeros((len(points), 2, 3))
    shift[:, 0, 0], shift[:, 1, 1] = (focal / points[:, 2:]).T
    shift[..., 2] = -ratio * focal / points[:, 2:]
    depth = float(np.median(points[:, 2]))
    jacobian = np.concatenate([-turning, shift * depth, delay[:, None, None] * turning], 2)
    solution = np.zeros(9)
    for _ in range(ITERATIONS):  # the model is linear for such small changes, but for the loss and the prior
        prior = np.diag([1e-6] * 6 + [4 / (RATE_SIGMA**2 + (solution[6:] ** 2).sum())] * 3)
        left = residual + jacobian @ solution
        weight = 1 / (1 + (left**2).sum(1) / LOSS_SCALE**2)
        weighted = jacobian * weight[:, None, None]
        information = np.einsum("nij,nik->jk", weighted, jacobian) + prior
        solution = np.asarray(-np.linalg.solve(information, np.einsum("nij,ni->j", weighted, residual)), np.float64)
    return solution[6:]


def image_motion_of_turning(ratio: Array, focal: Array) -> Array:
    """Return the image motion (n, 2, 3), pixels a second, of points at `ratio` (n, 2) by each unit angular velocity.

    `ratio` are pixels from the principal point over the `focal` length (2,). Angular velocities are radians a second
    about the axes of the camera, in which the points stand still.
    """
    x, y = ratio.T
    motion = np.stack([np.stack([x * y, -(1 + x**2), y], 1), np.stack([1 + y**2, -x * y, -x], 1)], 1)
    return motion * focal[:, None]


def _turned_faster(view: View, rate: Array, focal: Array) -> View:
    """Return a view whose image motion has that of another angular velocity (3,) added."""
    height, width = view.features.gray.shape
    x, y = np.meshgrid((np.arange(GRID[1]) + 0.5) * width / GRID[1], (np.arange(GRID[0]) + 0.5) * height / GRID[0])
    ratio = (np.stack([x.ravel(), y.ravel()], 1) - view.keyframe.intrinsics[:2, 2]) / focal
    motion = image_motion_of_turning(ratio, focal) @ rate
    return replace(view, velocity=view.velocity + motion.reshape(view.velocity.shape), tracked_velocity=view.velocity)
