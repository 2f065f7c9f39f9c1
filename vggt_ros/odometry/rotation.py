"""Tracking of pure rotation: the rotation between two images without parallax."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.geometry.poses import Array
from vggt_ros.geometry.ray_rotation import rotation_between
from vggt_ros.odometry.tracked_keyframe import TrackedKeyframe

_MAX_RESIDUAL = 1.5
"""Largest residual of an inlier of a rotation, px at 640 px."""
_HIDDEN_PARALLAX = 6.0
"""Parallax per keyframe that rotation alone may hide, px at 640 px."""


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

    def locate(self, keyframe: TrackedKeyframe, ids: NDArray[np.int64], pixels: Array, intrinsics: Array,
               scale: float, min_inliers: int) -> tuple[Array, Array, int] | None:
        """Return pose 4x4, covariance (6, 6) and number of inliers by the rotation since `keyframe`, or None.

        Tracks `ids` (n,) are at `pixels` (n, 2), where the middle row of the image sees them. The covariance grows with
        each keyframe by the motion that the rotation may hide. `scale` is the `threshold_scale` of the image; at least
        `min_inliers` tracks must agree.
        """
        assert keyframe.map_camera is not None
        focal = intrinsics[0, 0] / scale
        common = np.isin(ids, keyframe.ids, assume_unique=True)
        rays = pixel_rays(intrinsics, *pixels[common].T)
        found = rotation_between(keyframe.rays(ids[common]), rays, _MAX_RESIDUAL / focal, min_inliers)
        self._is_active = found is not None
        if found is None:
            return None
        map_camera, covariance, keyframes = (keyframe.map_camera.copy(), self._covariance.copy(),
                                             self._keyframes_since_pose + 1)
        map_camera[:3, :3] = map_camera[:3, :3] @ found[0]
        covariance[:3, :3] += keyframes * found[1]
        covariance[3:, 3:] += (keyframes * _HIDDEN_PARALLAX / focal * self._depth) ** 2 * np.eye(3)
        return map_camera, covariance, int(found[2].sum())
