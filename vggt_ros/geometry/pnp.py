"""The camera pose from points whose place is known (perspective-n-point): by consensus, then refined robustly."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, inverse, orthonormalize, robust_sigma, so3_exp


def consensus(points: Array, pixels: Array, intrinsics: Array, limit: float) -> tuple[Array, NDArray[np.int64]] | None:
    """Return the pose `world_camera` that most points agree on and its inliers, or None if there is none.

    P3P in RANSAC on `points` (n, 3) seen at `pixels` (n, 2), within `limit` pixels.
    """
    if len(points) < 6:
        return None
    try:
        found, rotation, translation, inliers = cv2.solvePnPRansac(
            points, np.ascontiguousarray(pixels, np.float64), intrinsics, None, iterationsCount=200,
            reprojectionError=limit, confidence=0.999, flags=cv2.SOLVEPNP_AP3P)
    except cv2.error:  # raised by degenerate points, such as points on a line; there is no pose then
        return None
    if not found or inliers is None:
        return None
    camera_world = np.eye(4)
    camera_world[:3, :3], camera_world[:3, 3] = cv2.Rodrigues(rotation)[0], translation[:, 0]
    return inverse(camera_world), inliers[:, 0].astype(np.int64)


def refine_pose(world_camera: Array, points: Array, pixels: Array, intrinsics: Array,
                limit: float) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Minimize the reprojection error of `points` (n, 3) seen at `pixels` (n, 2) by robust Gauss-Newton.

    What counts as large is twice the median error, as far as that has come down (but never less than half the limit):
    with less, a start many pixels away would creep, most points having hardly any weight.

    Returns:
        The pose `world_camera` 4x4; the covariance (6, 6) of its perturbation on the right, [rotation, translation];
        and which points reproject within `limit` pixels (n,).

    """
    pose, scale = world_camera.copy(), np.inf
    for _ in range(8):
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        depth = np.maximum(local[:, 2], 1e-6)
        normalized = local[:, :2] / depth[:, None]
        focal = np.array([intrinsics[0, 0], intrinsics[1, 1]])
        residual = normalized * focal + intrinsics[:2, 2] - pixels
        square = (residual**2).sum(1)
        scale = min(scale, max(limit / 2, 2 * float(np.sqrt(np.median(square)))))
        weight = np.where(local[:, 2] > 1e-6, 1 / (1 + square / scale**2) ** 2, 0.0)
        jacobian = projection_jacobian(local, intrinsics).reshape(-1, 6)
        weighted = jacobian * np.repeat(weight, 2)[:, None]
        information = weighted.T @ jacobian + 1e-9 * np.eye(6)
        step = -np.linalg.solve(information, weighted.T @ residual.ravel())
        pose[:3, 3] += pose[:3, :3] @ step[3:]
        pose[:3, :3] = pose[:3, :3] @ so3_exp(step[:3])
        if np.abs(step).max() < 1e-6:
            break
    pose[:3, :3] = orthonormalize(pose[:3, :3])
    inliers = (square < limit**2) & (local[:, 2] > 1e-6)
    sigma = max(robust_sigma(residual[inliers].ravel()), 0.1) if inliers.any() else limit
    return pose, sigma**2 * np.linalg.inv(information), inliers


def projection_jacobian(local: Array, intrinsics: Array) -> Array:
    """Return how pixels (n, 2, 6) move with a right perturbation [rotation, translation] of the camera.

    `local` (n, 3) are points in the camera's frame; the perturbation moves them by -w x p - v.
    """
    depth = np.maximum(local[:, 2], 1e-6)
    (u, v), none = local[:, :2].T / depth, np.zeros(len(local))
    x = np.stack([u * v, -1 - u * u, v, -1 / depth, none, u / depth], 1) * intrinsics[0, 0]
    y = np.stack([1 + v * v, -u * v, -u, none, -1 / depth, v / depth], 1) * intrinsics[1, 1]
    return np.stack([x, y], 1)
