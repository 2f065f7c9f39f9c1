"""Perspective-n-point: the camera pose from known 3D points, by RANSAC, then robust refinement."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, inverse, orthonormalize, robust_sigma, so3_exp

_UNKNOWN_SIGMA = 1e3
"""Sigma of a pose that is not known, radians and map units."""
_MAX_ITERATIONS = 8
_MIN_DECREASE = 1e-4
"""Decrease of the squared reprojection error by a step after which the pose has converged, px^2: the next step would be
less than a hundredth of the pose's sigma, with errors of a pixel."""


def pnp_ransac(points: Array, pixels: NDArray[np.floating], intrinsics: Array,
               max_error: float) -> tuple[Array, NDArray[np.int64]] | None:
    """Return the pose `world_camera` with the most inliers and their indices, or None if there is none.

    P3P in RANSAC on `points` (n, 3) seen at `pixels` (n, 2); inliers reproject within `max_error` pixels.
    """
    if len(points) < 6:
        return None
    try:
        found, rotation, translation, inliers = cv2.solvePnPRansac(
            points, np.ascontiguousarray(pixels, np.float64), intrinsics, None, iterationsCount=200,
            reprojectionError=max_error, confidence=0.999, flags=cv2.SOLVEPNP_AP3P)
    except cv2.error:  # raised for degenerate points, such as points on a line: no pose
        return None
    if not found or inliers is None:
        return None
    camera_world = np.eye(4)
    camera_world[:3, :3], camera_world[:3, 3] = cv2.Rodrigues(rotation)[0], translation[:, 0]
    return inverse(camera_world), inliers[:, 0].astype(np.int64)


def refine_pose(world_camera: Array, points: Array, pixels: Array, intrinsics: Array,
                max_error: float) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Minimize the reprojection error of `points` (n, 3) seen at `pixels` (n, 2) by robust Gauss-Newton.

    The loss is Geman-McClure. The width of its kernel is twice the median error, never rising from one iteration to
    the next and never below half of `max_error`. A narrower kernel would give most points hardly any weight while the
    pose is many pixels off, and the steps would become too short to converge.

    Returns:
        The pose `world_camera` 4x4; the covariance (6, 6) of its perturbation on the right, [rotation, translation];
        and which points reproject within `max_error` pixels (n,): none of them, if the points do not determine a pose.

    """
    try:
        refined = _refine(world_camera, points, pixels, intrinsics, max_error)
    except np.linalg.LinAlgError:  # singular: it walked away from the points, or they are degenerate
        refined = None
    if refined is None or not np.isfinite(refined[0]).all() or not np.isfinite(refined[1]).all():
        return world_camera.copy(), np.diag([_UNKNOWN_SIGMA**2] * 6), np.zeros(len(points), np.bool_)
    return refined


def _refine(world_camera: Array, points: Array, pixels: Array, intrinsics: Array,
            max_error: float) -> tuple[Array, Array, NDArray[np.bool_]] | None:
    """Return the same, or None if a step leaves the numbers; raises LinAlgError where the information is singular."""
    pose, kernel_scale = world_camera.copy(), float("inf")
    for _ in range(_MAX_ITERATIONS):
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        visible, normalized = _projected(local)
        residual = normalized * intrinsics[[0, 1], [0, 1]] + intrinsics[:2, 2] - pixels
        squared_error = (residual**2).sum(1)
        kernel_scale = min(kernel_scale, _kernel_scale(squared_error, max_error))
        weight = np.where(visible, 1 / (1 + squared_error / kernel_scale**2) ** 2, 0.0)
        jacobian = projection_jacobian(local, intrinsics).reshape(-1, 6)
        weighted = jacobian * np.repeat(weight, 2)[:, None]
        information = weighted.T @ jacobian + 1e-9 * np.eye(6)
        step = -np.linalg.solve(information, weighted.T @ residual.ravel())
        if not np.isfinite(step).all():
            return None
        pose[:3, 3] += pose[:3, :3] @ step[3:]
        pose[:3, :3] = pose[:3, :3] @ so3_exp(step[:3])
        if step @ information @ step < _MIN_DECREASE:
            break
    pose[:3, :3] = orthonormalize(pose[:3, :3])
    inliers = (squared_error < max_error**2) & visible
    sigma = max(robust_sigma(residual[inliers].ravel()), 0.1) if inliers.any() else max_error
    return pose, sigma**2 * np.linalg.inv(information), inliers


def geman_mcclure(residual: Array, max_error: float) -> tuple[Array, Array]:
    """Return weights (n,) and curvatures (n,) of residuals r (n, 2), px, in the last iteration of `refine_pose`.

    The second derivative of the loss by the residual is `weight I - curvature r r^T`.
    """
    squared_error = (residual**2).sum(1)
    squared_scale = _kernel_scale(squared_error, max_error) ** 2
    ratio = 1 + squared_error / squared_scale
    return 1 / ratio**2, 4 / (squared_scale * ratio**3)


def _kernel_scale(squared_error: Array, max_error: float) -> float:
    return max(max_error / 2, 2 * float(np.sqrt(_median(squared_error))))


def _median(values: Array) -> float:
    """Return the median of finite values (n,), as `np.median`, which takes four times as long for a few hundred."""
    middle = len(values) // 2
    if len(values) % 2:
        return float(np.partition(values, middle)[middle])
    parted = np.partition(values, (middle - 1, middle))
    return float(parted[middle - 1] + parted[middle]) / 2


def _projected(local: Array) -> tuple[NDArray[np.bool_], Array]:
    """Return which points (n, 3) are in front of the camera, and their projections (n, 2) at depth 1."""
    return local[:, 2] > 1e-6, local[:, :2] / np.maximum(local[:, 2:], 1e-6)


def projection_jacobian(local: Array, intrinsics: Array) -> Array:
    """Return the Jacobian (n, 2, 6) of pixels by a right perturbation [rotation, translation] of the camera.

    `local` (n, 3) are points in the camera's frame; the perturbation [w, v] moves them by -w x p - v.
    """
    inverse_depth = 1 / np.maximum(local[:, 2], 1e-6)
    u, v = (local[:, :2] * inverse_depth[:, None]).T
    jacobian = np.zeros((len(local), 2, 6))
    x, y = jacobian[:, 0], jacobian[:, 1]
    x[:, 0], x[:, 1], x[:, 2], x[:, 3], x[:, 5] = u * v, -1 - u * u, v, -inverse_depth, u * inverse_depth
    y[:, 0], y[:, 1], y[:, 2], y[:, 4], y[:, 5] = 1 + v * v, -u * v, -u, -inverse_depth, v * inverse_depth
    x *= intrinsics[0, 0]
    y *= intrinsics[1, 1]
    return jacobian
