"""How certain the cameras and the lens of an adjusted window are, from the Hessian of bundle adjustment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, inverse, pose
from vggt_ros.geometry.sim3 import adjoint
from vggt_ros.reconstruction.adjustment.bundle import PIXEL_SIGMA, AdjustmentOptions, Prior, Problem, Scene

_DEPTH_SIGMA = 0.02
"""Relative standard deviation to which the depth of a point may be known, at best."""


def uncertainty(scene: Scene, observations: Array, visible: NDArray[np.bool_], options: AdjustmentOptions,
                priors: Sequence[Prior] = ()) -> tuple[Array, float]:
    """Return how uncertain the poses are from camera to camera, and the focal length.

    The inverse of the reduced Hessian, scaled by the variance of the residuals. Arguments as for `bundle.adjust`; the
    first camera is fixed.

    Returns:
        Covariances (S - 1, 6, 6) of each camera's pose in the frame of the one before it, of perturbations on the
        right, [rotation, translation], radians and units of the scene; and the relative standard deviation of the
        focal length, 0 where it is given.

    """
    problem = Problem.of(scene, observations, visible, options, priors=priors)
    matrix, _ = problem.linearize(scene).reduced(1e-9)
    square = (scene.residuals(observations) ** 2).sum(-1)[visible]
    weight = 1 / (1 + square / options.loss_scale**2)
    variance = float((weight * square).sum() / max(2 * weight.sum() - 3 * visible.any(1).sum() - len(matrix), 1.0))
    count = len(scene.rotation)
    # The scale is free: the pseudo-inverse leaves it out.
    free = variance * np.linalg.pinv(matrix, rcond=1e-10, hermitian=True)
    poses = np.zeros((6 * count, 6 * count))
    poses[6:, 6:] = free[:6 * count - 6, :6 * count - 6]
    blocks = poses.reshape(count, 6, count, 6).swapaxes(1, 2)
    cameras = np.array([pose(*both) for both in zip(scene.rotation, scene.translation, strict=True)])
    second_first = cameras[1:] @ np.array([inverse(camera) for camera in cameras[:-1]])
    carry = adjoint(second_first)[:, :6, :6]
    first, second = np.arange(count - 1), np.arange(1, count)
    cross = carry @ blocks[first, second]
    steps = carry @ blocks[first, first] @ carry.swapaxes(1, 2) + blocks[second, second] - cross - cross.swapaxes(1, 2)
    return np.asarray(steps), float(np.sqrt(free[-1, -1])) if options.focal_sigma else 0.0


def lens_sigmas(scene: Scene, observations: Array, visible: NDArray[np.bool_],
                options: AdjustmentOptions) -> tuple[float, float]:
    """Return the standard deviations of the logarithm of the focal length and of the radial distortion of a solution.

    The arguments are those of `bundle.adjust`, which returned the scene; the first camera is fixed. What was kept has
    the sigma 0.
    """
    problem = Problem.of(scene, observations, visible, options)
    matrix, _ = problem.linearize(scene).reduced(1e-6)
    covariance = np.linalg.inv(matrix) * PIXEL_SIGMA**2
    shared = np.sqrt(np.maximum(np.diag(covariance)[6 * len(problem.free):], 0.0)).tolist()
    return (shared.pop(0) if options.focal_sigma else 0.0), (shared.pop(0) if options.radial_sigma else 0.0)


def scale_sigma(scene: Scene, observations: Array, visible: NDArray[np.bool_], fixed: NDArray[np.bool_],
                newest: NDArray[np.bool_]) -> float:
    """Return the standard deviation of the logarithm of the scale at the newest cameras, against the fixed ones.

    It is that of the mean log depth of the points in the newest cameras, each of which counts as much as the others, if
    an observation is off by `PIXEL_SIGMA`. In a camera each depth counts as well as it is known under the given
    cameras, down to `_DEPTH_SIGMA`, so that points without parallax say little; the covariance of the mean has all that
    the cameras may do together. The camera need not move for it: while it turns on the spot, points that are known keep
    the scale, and new ones lose it.

    Args:
        scene: an adjusted scene; the scale is that of its `fixed` cameras (S,), which are two or more.
        observations: (n, S, 2) pixels from the principal point.
        visible: (n, S), the observations that were used.
        fixed: (S,), the cameras whose poses were held fixed.
        newest: (S,), the cameras at which the scale is asked.

    """
    columns, rows = np.flatnonzero(visible.any(0)), np.flatnonzero(visible[:, ~fixed].any(1))
    part = scene.part(columns, rows)
    used = visible[np.ix_(rows, columns)]
    problem = Problem.of(part, observations[np.ix_(rows, columns)], used, AdjustmentOptions(), fixed[columns])
    system = problem.linearize(part)
    in_cameras = part.in_cameras()
    point, camera = np.nonzero(used & newest[columns] & (in_cameras[..., 2] > 1e-9))
    if not len(point):
        return np.inf
    x, y, z = in_cameras[point, camera].T
    slope = part.rotation[camera, 2] / z[:, None]  # of the log depth by the point
    of_points = np.linalg.inv(system.points.transpose(2, 0, 1) + 1e-9 * np.eye(3))
    variance = np.einsum("ni,nij,nj->n", slope, of_points[point], slope) * PIXEL_SIGMA**2
    weight = 1 / (variance + _DEPTH_SIGMA**2)
    of_camera = np.bincount(camera, weight, len(columns))
    weight /= np.count_nonzero(of_camera) * of_camera[camera]
    by_points, by_cameras = np.zeros((len(rows), 3)), np.zeros((len(columns), 6))
    np.add.at(by_points, point, weight[:, None] * slope)
    np.add.at(by_cameras, camera, (weight / z)[:, None] * np.stack([y, -x, 0 * z, 0 * z, 0 * z, np.ones_like(z)], 1))
    mean = replace(system, cameras_gradient=by_cameras[problem.free].ravel(), points_gradient=by_points.T)
    cameras, points = mean.solve(1e-10)
    return float(PIXEL_SIGMA * np.sqrt(max(-(cameras @ mean.cameras_gradient + (points * by_points.T).sum()), 0.0)))
