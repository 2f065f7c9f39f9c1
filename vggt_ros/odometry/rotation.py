"""How a camera turned between two images, where there is no parallax to tell how it moved."""

from __future__ import annotations

import numpy as np

from vggt_ros.features.tracks import FeatureTracks
from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.geometry.poses import Array, orthonormalize
from vggt_ros.odometry.tracked_keyframe import TrackedKeyframe

_TRIALS = 60
_AGREES = 1.5
"""Largest residual of a corner that a rotation explains, px at 640 px width."""
_HIDDEN = 6.0
"""Parallax that may pass for rotation from one keyframe to the next, px at 640 px width."""
_AGREEING = 0.7
"""Fraction of the rays that must agree: with parallax they do not."""


class RotationTracker:
    """Poses by rotation alone, since the last full pose: the camera is taken to stay where it was."""

    def __init__(self) -> None:
        """Begin without a full pose."""
        self._hops = 0
        self._covariance, self._depth = np.eye(6), 1.0
        self._now = False

    def settle(self, covariance: Array, depth: float) -> None:
        """Note that there is a full pose, with its covariance (6, 6) and the median depth of its landmarks."""
        self._hops, self._now, self._covariance, self._depth = 0, False, covariance, depth

    def hop(self) -> None:
        """Note that the newest image became a keyframe."""
        self._hops += self._now

    def locate(self, sighting: TrackedKeyframe, tracks: FeatureTracks, intrinsics: Array, shrink: float,
               least: int) -> tuple[Array, Array, int] | None:
        """Return pose 4x4, covariance (6, 6) and number of corners by the turn since `sighting`, if one explains them.

        What the camera may have moved meanwhile grows the covariance from keyframe to keyframe. `shrink` is how much
        wider than the image 640 px are; at least `least` corners must agree.
        """
        assert sighting.world_camera is not None
        focal = intrinsics[0, 0] * shrink
        common = np.isin(tracks.ids, sighting.ids, assume_unique=True)
        rays = pixel_rays(intrinsics, *tracks.pixels[common].astype(np.float64).T)
        turned = turn_between(sighting.rays(tracks.ids[common]), rays, _AGREES / focal, least)
        self._now = turned is not None
        if turned is None:
            return None
        camera, covariance, hops = sighting.world_camera.copy(), self._covariance.copy(), self._hops + 1
        camera[:3, :3] = camera[:3, :3] @ turned[0]
        covariance[:3, :3] += hops * turned[1]
        covariance[3:, 3:] += (hops * _HIDDEN / focal * self._depth) ** 2 * np.eye(3)
        return camera, covariance, int(common.sum())


def turn_between(first: Array, second: Array, limit: float, least: int) -> tuple[Array, Array] | None:
    """Return the rotation that explains how the rays of the same corners moved, if one does.

    Args:
        first, second: rays (n, 3) of the same corners in either camera's frame, any length.
        limit: angle within which a ray agrees, radians.
        least: fewest rays that must agree.

    Returns:
        The rotation `first_second` (3, 3) and the covariance (3, 3) of its perturbation on the right; None if too few
        rays agree. By consensus of pairs, then least squares (Wahba's problem).

    """
    a, b = (rays / np.linalg.norm(rays, axis=1, keepdims=True) for rays in (first, second))
    if len(a) < max(least, 2):
        return None
    pairs = np.random.default_rng(0).integers(0, len(a), (_TRIALS, 2))
    turns = _frames(*(a[rows] for rows in pairs.T)) @ np.swapaxes(_frames(*(b[rows] for rows in pairs.T)), 1, 2)
    off = np.linalg.norm(np.einsum("tij,nj->tni", turns, b) - a, axis=2)
    agreeing = off[np.argmax((off < limit).sum(1))] < limit
    for _ in range(3):
        if agreeing.sum() < max(least, _AGREEING * len(a)):
            return None
        rotation = orthonormalize(a[agreeing].T @ b[agreeing])
        residual = np.linalg.norm(b @ rotation.T - a, axis=1)
        agreeing = residual < limit
    seen = b[agreeing]
    information = len(seen) * np.eye(3) - seen.T @ seen
    variance = max(float(np.mean(residual[agreeing] ** 2)) / 2, 1e-10)
    return rotation, variance * np.linalg.inv(information)


def _frames(first: Array, second: Array) -> Array:
    """Return the right-handed frames (k, 3, 3) that pairs of rays (k, 3) span, their axes as columns."""
    normal = np.cross(first, second)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    return np.stack([first, np.cross(normal, first), normal], axis=2)
