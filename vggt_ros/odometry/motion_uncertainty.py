"""The uncertainty of the motion between two images, by what each feature contributes to it.

Two poses that were measured against the same landmarks share most of their errors: those of the landmarks. So the
covariance of the motion is not the sum of the covariances of the poses. Each feature moves the estimated pose by its
influence, the product of its residual with the gain of the estimator; it moves the estimated motion by the difference
of its influences in the two images, in which the error of its landmark cancels. The covariance is the sum of the
squares of these differences (the sandwich estimator of White, Econometrica 48, 1980): it needs no assumption on the
noise of the pixels, which is not the same for all features. A pose follows each feature a little, so that residuals are
smaller than errors; each residual is therefore taken against the pose without its feature (the jackknife HC3 of
MacKinnon and White, Journal of Econometrics 29, 1985). The gain is that of a robust estimator (Huber, Robust
Statistics, 1981): its information is the second derivative of the loss, in which large residuals count negatively.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.pnp import geman_mcclure, projection_jacobian
from vggt_ros.geometry.poses import Array, adjoint, inverse

_PIXEL_FLOOR = 0.02
"""Smallest error of the motion of a feature that is assumed, px: a camera at rest has residuals without differences."""
_MAX_LEVERAGE = 0.5
"""Largest leverage of a feature on its own residual that is corrected; the jackknife has no meaning near one."""
_MIN_INFORMATION = 0.05
"""Smallest part of the information of least squares, with the same weights, that the robust loss is taken to have."""


@dataclass(frozen=True, eq=False)
class PoseInfluences:
    """What each feature contributed to a pose.

    Attributes:
        world_camera: pose 4x4.
        ids: int64 (n,), rising, of the feature tracks.
        influences: float64 (n, 6), the perturbation of the pose on the right [rotation, translation] by each feature.
        inverse_information: (6, 6), covariance of the pose for errors of one pixel.

    """

    world_camera: Array
    ids: NDArray[np.int64]
    influences: Array
    inverse_information: Array


def pose_influences(world_camera: Array, ids: NDArray[np.int64], points: Array, pixels: Array, intrinsics: Array,
                    max_error: float) -> PoseInfluences:
    """Return what the tracks `ids` (n,) at `pixels` (n, 2) of map `points` (n, 3) contributed to a pose.

    The pose is one that `geometry.pnp.refine_pose` found with this `max_error`; so the weights are those that it used.
    """
    local = (points - world_camera[:3, 3]) @ world_camera[:3, :3]
    depth = np.maximum(local[:, 2], 1e-6)
    residual = local[:, :2] / depth[:, None] * intrinsics[[0, 1], [0, 1]] + intrinsics[:2, 2] - pixels
    weight, curvature = (np.where(local[:, 2] > 1e-6, value, 0.0) for value in geman_mcclure(residual, max_error))
    jacobian = projection_jacobian(local, intrinsics)
    gradient = (jacobian * residual[:, :, None]).sum(1)
    stacked = jacobian.reshape(-1, 6)
    least_squares = (stacked * np.repeat(weight, 2)[:, None]).T @ stacked + 1e-9 * np.eye(6)
    root = np.linalg.cholesky(least_squares)
    whitened = np.linalg.solve(root, (curvature[:, None] * gradient).T @ gradient) @ np.linalg.inv(root).T
    lost, axes = np.linalg.eigh(whitened)
    half = np.linalg.solve(root.T, axes)
    inverse_information = half / np.maximum(1 - lost, _MIN_INFORMATION) @ half.T
    gain = (stacked @ inverse_information).reshape(-1, 2, 6)
    without = _without_own(weight, gain, jacobian, residual)
    gradient = (jacobian * without[:, :, None]).sum(1)
    return PoseInfluences(world_camera, ids, -(weight[:, None] * gradient) @ inverse_information, inverse_information)


def _without_own(weight: Array, gain: Array, jacobian: Array, residual: Array) -> Array:
    """Return the residuals (n, 2) against the pose without the own feature, from those against the pose with it.

    The leverage of a feature, `weight gain jacobian^T`, is a symmetric matrix (2, 2): all in closed form.
    """
    xx, yy = (weight[:, None] * (gain * jacobian).sum(2)).T
    xy = weight * (gain[:, 0] * jacobian[:, 1]).sum(1)
    size = (xx + yy) / 2 + np.hypot((xx - yy) / 2, xy)  # the larger eigenvalue
    factor = np.minimum(1.0, _MAX_LEVERAGE / np.maximum(size, 1e-12))
    xx, yy, xy = 1 - factor * xx, 1 - factor * yy, factor * xy
    determinant = xx * yy - xy**2
    x, y = residual.T
    return np.stack([(yy * x + xy * y) / determinant, (xy * x + xx * y) / determinant], axis=1)


def motion_covariance(previous: PoseInfluences, current: PoseInfluences) -> Array:
    """Return the covariance (6, 6) of the motion `previous_current`, perturbed on the right [rotation, translation]."""
    to_current = adjoint(inverse(current.world_camera) @ previous.world_camera)
    ids = np.union1d(previous.ids, current.ids)
    differences = np.zeros((len(ids), 6))
    differences[np.searchsorted(ids, current.ids)] += current.influences
    differences[np.searchsorted(ids, previous.ids)] -= previous.influences @ to_current.T
    floor = 2 * _PIXEL_FLOOR**2 * current.inverse_information
    return differences.T @ differences + floor
