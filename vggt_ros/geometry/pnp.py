"""Perspective-n-point: the camera pose from known 3D points, by RANSAC, then robust refinement."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.median import median
from vggt_ros.geometry.poses import Array, inverse, orthonormalize, robust_sigma, so3_exp

_UNKNOWN_SIGMA = 1e3
"""Sigma of a pose that is not known, radians and map units."""
_IDENTITY = np.eye(6)
_MAX_SAMPLES, _CONFIDENCE, _SAMPLE = 200, 0.999, 4
"""Of RANSAC: most samples, the probability to find the best pose, and the points of a sample."""
_MAX_ITERATIONS = 8
_WIDE = 16 / 9
"""Width over height of the widest images that are usual."""
_MIN_DECREASE = 1e-3
"""Decrease of the squared reprojection error by a step, px^2, below which the pose has converged: such a step is a
thirtieth of the pose's sigma with errors of a pixel."""


def pnp_ransac(points: Array, pixels: NDArray[np.floating], intrinsics: Array,
               max_error: float, least: int = 6) -> tuple[Array, NDArray[np.int64]] | None:
    """Return the pose `world_camera` with the most inliers and their indices, or None if there is none.

    P3P in RANSAC on `points` (n, 3) seen at `pixels` (n, 2); inliers reproject within `max_error` pixels. A pose with
    fewer than `least` inliers is None: nothing is tried beyond what finds one with so many.
    """
    if len(points) < max(least, 6):
        return None
    try:
        found, rotation, translation, inliers = cv2.solvePnPRansac(
            points, np.ascontiguousarray(pixels, np.float64), intrinsics, None,
            iterationsCount=_iterations(least / len(points)), reprojectionError=max_error, confidence=_CONFIDENCE,
            flags=cv2.SOLVEPNP_AP3P)
    except cv2.error:  # raised for degenerate points, such as points on a line: no pose
        return None
    if not found or inliers is None or len(inliers) < least:
        return None
    camera_world = np.eye(4)
    camera_world[:3, :3], camera_world[:3, 3] = cv2.Rodrigues(rotation)[0], translation[:, 0]
    return inverse(camera_world), inliers[:, 0].astype(np.int64)


def _iterations(inliers: float) -> int:
    """Return how many samples find a pose with this share of inliers, as certainly as OpenCV finds the best one.

    OpenCV stops there by itself, but only once it has found such a pose.
    """
    miss = 1 - min(inliers, 1.0) ** _SAMPLE
    if miss <= 0:
        return 1
    return int(min(_MAX_SAMPLES, np.ceil(np.log(1 - _CONFIDENCE) / np.log(miss)) + 1))


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
    seen, principal = pixels.T, intrinsics[:2, 2:]
    focal = intrinsics[[0, 1], [0, 1]][:, None]
    for _ in range(_MAX_ITERATIONS):
        local = pose[:3, :3].T @ (points - pose[:3, 3]).T  # coordinates in rows: their parts are contiguous
        inverse_depth = 1 / np.maximum(local[2], 1e-6)
        residual = local[:2] * inverse_depth * focal + principal - seen
        squared_error = residual[0] ** 2 + residual[1] ** 2
        kernel_scale = min(kernel_scale, _kernel_scale(squared_error, max_error))
        weight = (local[2] > 1e-6) / (1 + squared_error / kernel_scale**2) ** 2
        jacobian = _jacobian(local[:2] * inverse_depth, inverse_depth, intrinsics)
        weighted = jacobian * weight
        information = weighted.reshape(6, -1) @ jacobian.reshape(6, -1).T + 1e-9 * _IDENTITY
        step = -np.linalg.solve(information, weighted.reshape(6, -1) @ residual.ravel())
        if not np.isfinite(step).all():
            return None
        pose[:3, 3] += pose[:3, :3] @ step[3:]
        pose[:3, :3] = pose[:3, :3] @ so3_exp(step[:3])
        if step @ information @ step < _MIN_DECREASE:
            break
    pose[:3, :3] = orthonormalize(pose[:3, :3])
    inliers = (squared_error < max_error**2) & (local[2] > 1e-6)
    sigma = max(robust_sigma(residual[:, inliers].ravel()), 0.1) if inliers.any() else max_error
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
    return max(max_error / 2, 2 * float(np.sqrt(median(squared_error))))


def spread(pixels: NDArray[np.floating], size: tuple[int, int]) -> float:
    """Return the smaller standard deviation, x or y, of `pixels` (n, 2) over the width of an image of `size` (h, w).

    Pixels in a narrow band, or in a small part of the image, hardly tell a rotation from a translation. What tells
    them apart is the product of both deviations, so an image that is wider than `_WIDE`, as those of cars are, counts
    as one that is narrower by as much: no pixels of it have a tenth of its width in y.
    """
    height, width = size
    return float(pixels.std(0).min() / min(width, (_WIDE * height) ** 2 / width)) if len(pixels) else 0.0


def projection_jacobian(local: Array, intrinsics: Array) -> Array:
    """Return the Jacobian (n, 2, 6) of pixels by a right perturbation [rotation, translation] of the camera.

    `local` (n, 3) are points in the camera's frame; the perturbation [w, v] moves them by -w x p - v.
    """
    inverse_depth = 1 / np.maximum(local[:, 2], 1e-6)
    return np.ascontiguousarray(_jacobian(local[:, :2].T * inverse_depth, inverse_depth, intrinsics).transpose(2, 1, 0))


def _jacobian(normalized: Array, inverse_depth: Array, intrinsics: Array) -> Array:
    """Return the same as (6, 2, n) from the points' coordinates at depth 1 (2, n), and one over their depth (n,)."""
    u, v = normalized
    jacobian = np.zeros((6, 2, len(inverse_depth)))
    product = u * v
    x, y = jacobian[:, 0], jacobian[:, 1]
    x[0], x[1], x[2], x[3], x[5] = product, -1 - u * u, v, -inverse_depth, u * inverse_depth
    y[0], y[1], y[2], y[4], y[5] = 1 + v * v, -product, -u, -inverse_depth, v * inverse_depth
    x *= intrinsics[0, 0]
    y *= intrinsics[1, 1]
    return jacobian
