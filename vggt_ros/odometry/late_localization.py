"""Poses of images that had none when they came: before the first window was solved, and while the camera was lost.

Their tracks are kept. When the keyframes around them are solved, the same tracks have landmarks by the depth of these
keyframes, and the pose follows as for any other image.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.features.tracks import FeatureTracks, threshold_scale
from vggt_ros.geometry.pnp import pnp_ransac, refine_pose
from vggt_ros.odometry.frame_trajectory import pose_in_reference
from vggt_ros.odometry.landmark_table import is_among
from vggt_ros.odometry.solved_focal import solved_intrinsics
from vggt_ros.odometry.tracked_landmarks import TrackedLandmarks
from vggt_ros.windows.frame import Frame, TrackedFrame
from vggt_ros.windows.solution import Solution

_MAX_PENDING = 500
"""Most images that wait, 8 kB each."""
_NEAREST = 4
"""Solved keyframes, the nearest in time, whose depth gives the landmarks of an image."""
_MAX_ERROR = 3.0
"""Largest reprojection error of an inlier, px at 640 px."""


@dataclass(frozen=True, eq=False)
class _Pending:
    """An image without a pose: its feature tracks, sorted by id, its pinhole matrix (3, 3) and (H, W).

    `keyframe` is the newest one before it, -1 if there is none: stamps do not tell, since time may jump back.
    """

    stamp: int
    ids: NDArray[np.int64]
    pixels: NDArray[np.float32]
    intrinsics: NDArray[np.float64]
    calibrated: bool
    shape: Sequence[int]
    keyframe: int


class LateLocalizer:
    """Images that wait for a pose."""

    def __init__(self, min_inliers: int) -> None:
        """Give a pose to images with at least `min_inliers` landmarks that agree."""
        self._min_inliers = min_inliers
        self._pending: deque[_Pending] = deque(maxlen=_MAX_PENDING)

    def clear(self) -> None:
        """Forget all images."""
        self._pending.clear()

    def add(self, frame: Frame, tracks: FeatureTracks, keyframe: int) -> None:
        """Let an image without a pose wait, after this `keyframe`."""
        if len(tracks.ids) >= self._min_inliers:
            self._pending.append(_Pending(frame.stamp, tracks.ids.copy(), tracks.pixels.copy(), frame.intrinsics,
                                          frame.calibrated, frame.image.shape[:2], keyframe))

    def locate(self, landmarks: TrackedLandmarks, solution: Solution, most: int) -> list[TrackedFrame]:
        """Return the poses, by a solution, of waiting images that are before its newest keyframe; `most` are tried.

        `landmarks` has the keyframes with their tracks. An image is tried once.
        """
        solved = {int(solution.stamps[row]): keyframe for keyframe in landmarks.keyframes
                  if (row := solution.index(keyframe)) is not None}
        if not solved:
            return []
        stamps, found = np.array(sorted(solved)), []
        for _ in range(most):
            if not self._pending or self._pending[0].keyframe >= max(solved.values()):
                break
            image = self._pending.popleft()
            nearest = stamps[np.argsort(np.abs(stamps - image.stamp), kind="stable")[:_NEAREST]]
            located = self._locate(image, [solved[stamp] for stamp in nearest.tolist()], landmarks, solution)
            if located is not None:
                found.append(located)
        return found

    def _locate(self, image: _Pending, keyframes: list[int], landmarks: TrackedLandmarks,
                solution: Solution) -> TrackedFrame | None:
        """Return the pose of an image by the depth of keyframes, the nearest first; None if too few agree."""
        points = np.full((len(image.ids), 3), np.nan)
        for keyframe in keyframes:
            tracked = landmarks.keyframes[keyframe]
            rows = np.flatnonzero(np.isnan(points[:, 2]) & is_among(image.ids, tracked.ids))
            at = np.searchsorted(tracked.ids, image.ids[rows])
            points[rows] = tracked.landmarks(at, keyframe, solution)
        known, limit = np.isfinite(points[:, 2]), _MAX_ERROR * threshold_scale(image.shape)
        pixels = image.pixels[known].astype(np.float64)
        intrinsics = image.intrinsics
        if not image.calibrated:  # nothing was known of the focal length when the image came
            intrinsics = solved_intrinsics(intrinsics, image.shape[1], [solution.keyframes[k] for k in keyframes])
        found = pnp_ransac(points[known], pixels, intrinsics, limit, self._min_inliers)
        if found is None:
            return None
        pose, covariance, inliers = refine_pose(found[0], points[known], pixels, intrinsics, limit)
        if inliers.sum() < self._min_inliers:
            return None
        return TrackedFrame(image.stamp, "TRACKING", pose, None, covariance=covariance, reference=keyframes[0],
                            reference_camera=pose_in_reference(pose, keyframes[0], solution),
                            inliers=int(inliers.sum()))
