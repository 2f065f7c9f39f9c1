"""Tracking of pure rotation: the rotation between two images without parallax."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.features.tracks import FeatureTracks
from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.geometry.poses import Array, orthonormalize
from vggt_ros.odometry.tracked_keyframe import TrackedKeyframe

_RANSAC_TRIALS = 60
_MAX_RESIDUAL = 1.5
"""Largest residual of an inlier of a rotation, px at 640 px width."""
_HIDDEN_PARALLAX = 6.0
"""Parallax per keyframe that rotation alone may hide, px at 640 px width."""
_MIN_INLIER_RATIO = 0.7
"""Smallest fraction of inliers among the rays; with parallax there are fewer."""


class RotationTracker:
    """Poses by rotation alone since the last full pose; the position is assumed to be constant."""

    def __init__(self) -> None:
        """Begin without a full pose."""
        self._keyframes_since_pose = 0
        self._covariance, self._depth = np.eye(6), 1.0
        self._is_active = False

    def set_full_pose(self, covariance: Array, depth: float) -> None:
        """Set the covariance (6, 6) of the newest full pose, and the median depth of its landmarks."""
        self._keyframes_since_pose, self._is_active, self._covariance, self._depth = 0, False, covariance, depth

    def add_keyframe(self) -> None:
        """Count the newest image as a keyframe, if it was located by rotation."""
        self._keyframes_since_pose += self._is_active

    def locate(self, keyframe: TrackedKeyframe, tracks: FeatureTracks, intrinsics: Array, width_factor: float,
               min_inliers: int) -> tuple[Array, Array, int] | None:
        """Return pose 4x4, covariance (6, 6) and number of inliers by the rotation since `keyframe`, or None.

        The covariance grows with each keyframe by the motion that the rotation may hide. `width_factor` is 640 px over
        the width of the image; at least `min_inliers` tracks must agree.
        """
        assert keyframe.map_camera is not None
        focal = intrinsics[0, 0] * width_factor
        common = np.isin(tracks.ids, keyframe.ids, assume_unique=True)
        rays = pixel_rays(intrinsics, *tracks.pixels[common].astype(np.float64).T)
        found = rotation_between(keyframe.rays(tracks.ids[common]), rays, _MAX_RESIDUAL / focal, min_inliers)
        self._is_active = found is not None
        if found is None:
            return None
        map_camera, covariance, keyframes = (keyframe.map_camera.copy(), self._covariance.copy(),
                                             self._keyframes_since_pose + 1)
        map_camera[:3, :3] = map_camera[:3, :3] @ found[0]
        covariance[:3, :3] += keyframes * found[1]
        covariance[3:, 3:] += (keyframes * _HIDDEN_PARALLAX / focal * self._depth) ** 2 * np.eye(3)
        return map_camera, covariance, int(found[2].sum())


def rotation_between(first: Array, second: Array, max_angle: float,
                     min_inliers: int) -> tuple[Array, Array, NDArray[np.bool_]] | None:
    """Return the rotation between two views of the same rays, or None if no rotation explains them.

    Args:
        first, second: rays (n, 3) of the same corners in either camera's frame, any length.
        max_angle: largest residual of an inlier, radians.
        min_inliers: fewest inliers.

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
        if inliers.sum() < max(min_inliers, _MIN_INLIER_RATIO * len(a)):
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
