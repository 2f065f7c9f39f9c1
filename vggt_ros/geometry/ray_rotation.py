"""The rotation between two views of the same rays, if nothing but a rotation is between them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, orthonormalize

_RANSAC_TRIALS = 60
MIN_INLIER_RATIO = 0.7
"""Smallest fraction of inliers among the rays; with parallax there are fewer."""


def rotation_between(first: Array, second: Array, max_angle: float, min_inliers: int,
                     min_ratio: float = MIN_INLIER_RATIO) -> tuple[Array, Array, NDArray[np.bool_]] | None:
    """Return the rotation between two views of the same rays, or None if no rotation explains them.

    Args:
        first, second: rays (n, 3) of the same corners in either camera's frame, any length.
        max_angle: largest residual of an inlier, radians.
        min_inliers: fewest inliers.
        min_ratio: smallest fraction of inliers.

    Returns:
        The rotation `first_second` (3, 3), the covariance (3, 3) of its perturbation on the right, and which rays are
        inliers (n,); None if there are too few. By RANSAC on pairs of rays, then least squares (Wahba's problem).

    """
    a, b = (rays / np.linalg.norm(rays, axis=1, keepdims=True) for rays in (first, second))
    if len(a) < max(min_inliers, 2):
        return None
    pairs = np.random.default_rng(0).integers(0, len(a), (_RANSAC_TRIALS, 2))
    rotations = _ray_frames(*(a[rows] for rows in pairs.T)) @ np.swapaxes(
        _ray_frames(*(b[rows] for rows in pairs.T)), 1, 2)
    residuals = np.linalg.norm(np.einsum("tij,nj->tni", rotations, b) - a, axis=2)
    inliers = residuals[np.argmax((residuals < max_angle).sum(1))] < max_angle
    for _ in range(3):
        if inliers.sum() < max(min_inliers, min_ratio * len(a)):
            return None
        rotation = orthonormalize(a[inliers].T @ b[inliers])
        residual = np.linalg.norm(b @ rotation.T - a, axis=1)
        inliers = residual < max_angle
    inlier_rays = b[inliers]
    information = len(inlier_rays) * np.eye(3) - inlier_rays.T @ inlier_rays
    variance = max(float(np.mean(residual[inliers] ** 2)) / 2, 1e-10)
    return rotation, variance * np.linalg.inv(information), inliers


def _ray_frames(first: Array, second: Array) -> Array:
    """Return the right-handed frames (k, 3, 3) spanned by pairs of rays (k, 3), axes as columns."""
    normal = np.cross(first, second)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    return np.stack([first, np.cross(normal, first), normal], axis=2)
