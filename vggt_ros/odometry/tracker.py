"""The pose of every frame between windows: optical flow and PnP on landmarks.

The landmarks are kept by `tracked_landmarks.py`: from solved depth, else triangulated. If too few tracks are left, ORB
features of the newest solved keyframes are matched to the frame, but only for a while: later the camera may be
anywhere, and a few matches may agree on a wrong pose. During pure rotation away from the mapped area there are no
landmarks, but the tracks still give the rotation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vggt_ros.config import TrackingConfig
from vggt_ros.features.landmarks import landmarks
from vggt_ros.features.tracks import FeatureTracks, ImageFeatures, match_binary, threshold_scale
from vggt_ros.geometry.pnp import pnp_ransac, refine_pose, spread
from vggt_ros.geometry.poses import Array
from vggt_ros.odometry.motion_uncertainty import PoseInfluences, motion_covariance, pose_influences
from vggt_ros.odometry.rotation import RotationTracker
from vggt_ros.odometry.tracked_keyframe import TrackedKeyframe
from vggt_ros.odometry.tracked_landmarks import TrackedLandmarks
from vggt_ros.places.relocalization import MIN_SPREAD, Relocalization
from vggt_ros.windows.solution import Solution

DEGRADED_FACTOR = 2
"""Poses with fewer inliers than this times `tracking.min_inliers` are degraded."""
_MAX_LOST_IMAGES = 10
"""Images without a pose after which the camera is lost, and the newest keyframes are not matched any more."""
_DRIFT_RATE = 0.05
"""Drift of triangulated landmarks, as a fraction of the distance to the newest solved keyframe."""
_MIN_INLIER_RATIO, _MIN_INLIER_RATIO_IF_MANY = 0.4, 0.25
"""Smallest fraction of inliers among the landmarks; the second is enough with so many that the pose is not degraded."""
_MAX_REPROJECTION_ERROR = 3.0
"""Largest reprojection error of an inlier, px at 640 px."""


@dataclass(frozen=True, eq=False)
class TrackedPose:
    """A pose of the camera.

    Attributes:
        map_camera: 4x4.
        covariance: float64 (6, 6) of its perturbation on the right, [rotation, translation].
        inliers: number of landmarks that agree with it.
        reference: id of the reference keyframe.
        depth_inliers: inliers whose landmark comes from solved depth.
        rotation_only: True if only the rotation was tracked.
        motion_covariance: float64 (6, 6) of the motion since the image before, perturbed likewise; None if the two
            poses do not share their landmarks.

    """

    map_camera: Array
    covariance: Array
    inliers: int
    reference: int
    depth_inliers: int
    rotation_only: bool = False
    motion_covariance: Array | None = None


class Tracker:
    """Locates the camera by landmarks.

    Attributes:
        landmarks: the landmarks, and the keyframes that observed them.
        readout: of a rolling shutter, seconds; 0 while none is known.

    """

    def __init__(self, config: TrackingConfig) -> None:
        """Track with the settings of `config`."""
        self._config = config
        self.landmarks = TrackedLandmarks(config.min_inliers)
        self.readout = 0.0
        self.clear()

    def clear(self) -> None:
        """Forget all keyframes, landmarks and the last pose."""
        self.landmarks.clear()
        self._last_pose: Array | None = None
        self._influences: PoseInfluences | None = None
        self._lost_images = 0  # images without a pose
        self._rotation_tracker = RotationTracker()

    def lose(self) -> None:
        """Forget all keyframes, landmarks and the last pose; the camera is lost."""
        self.clear()
        self._lost_images = _MAX_LOST_IMAGES

    def add_keyframe(self, keyframe: int, tracks: FeatureTracks, image: ImageFeatures, intrinsics: Array,
                     map_camera: Array | None) -> None:
        """Add a new keyframe, and triangulate its tracks that have no landmark from solved depth."""
        self.landmarks.add_keyframe(keyframe, TrackedKeyframe(tracks.ids, tracks.pixels, map_camera, intrinsics,
                                                               image.gray.shape[1], tracks.row_shifts(self.readout)))
        self._rotation_tracker.add_keyframe()

    @property
    def solution(self) -> Solution:
        """The solution that the landmarks and all poses are in."""
        return self.landmarks.solution

    @property
    def is_lost(self) -> bool:
        """True if the camera has had no pose for so many images that it may be anywhere."""
        return self._lost_images >= _MAX_LOST_IMAGES

    def locate(self, tracks: FeatureTracks, image: ImageFeatures, intrinsics: Array,
               solution: Solution, match: bool = True) -> TrackedPose | None:
        """Return the pose of the frame `image` with these `tracks`; `match` allows to match features, which takes time.

        The landmarks are updated to a new `solution` only if the present ones do not give a pose; `update_solution`
        does this otherwise, after the pose was published.
        """
        shape, before = image.gray.shape, self._influences
        self._influences = None
        tracked_pose = self._locate_by_landmarks(tracks, intrinsics, shape)
        if tracked_pose is not None and before is not None and self._influences is not None:
            tracked_pose = replace(tracked_pose, motion_covariance=motion_covariance(before, self._influences))
        if tracked_pose is None and solution is not self.solution:
            self._update_landmarks(tracks, solution)
            tracked_pose = self._locate_by_landmarks(tracks, intrinsics, shape)
        if tracked_pose is None and match and not self.is_lost:
            tracked_pose = self._locate_by_features(tracks, image, intrinsics)
        if tracked_pose is None:
            tracked_pose = self._locate_by_rotation(tracks, intrinsics, shape)
        self._lost_images = 0 if tracked_pose else self._lost_images + bool(len(solution))
        self._last_pose = tracked_pose.map_camera if tracked_pose else None
        return tracked_pose

    def update_solution(self, tracks: FeatureTracks, intrinsics: Array, shape: Sequence[int],
                        solution: Solution) -> tuple[Array, Array] | None:
        """Update the landmarks to a new solution; return the newest pose 4x4 by it and by the previous one, or None."""
        old_pose, self._influences = self._last_pose, None
        self._update_landmarks(tracks, solution)
        tracked_pose = self._locate_by_landmarks(tracks, intrinsics, shape)
        self._last_pose = tracked_pose.map_camera if tracked_pose else None
        return None if tracked_pose is None or old_pose is None else (tracked_pose.map_camera, old_pose)

    def apply_relocalization(self, tracks: FeatureTracks, found: Relocalization, reset_keyframes: bool) -> TrackedPose:
        """Replace the landmarks by those of a relocalization of the newest image, and return its pose.

        They are tracked from now on. With `reset_keyframes` the poses of earlier keyframes are discarded.
        """
        self.landmarks.replace(tracks.append(found.pixels), found.points, found.keyframe)
        self._last_pose, self._influences, self._lost_images = found.map_camera, None, 0
        if reset_keyframes:
            for keyframe in self.landmarks.keyframes.values():  # their poses belong to the discarded track
                keyframe.map_camera = None
        depth = float(np.median((found.points - found.map_camera[:3, 3]) @ found.map_camera[:3, 2]))
        self._rotation_tracker.set_full_pose(found.covariance, depth)
        return TrackedPose(found.map_camera, found.covariance, len(found.points), found.keyframe, len(found.points))

    def apply_earlier(self, tracks: FeatureTracks, found: Relocalization, image: ImageFeatures,
                      intrinsics: Array) -> TrackedPose | None:
        """Relocalize as `apply_relocalization`, by the pose of an image before the newest one.

        The pixels are those in the newest `image`, whose pose is returned; None if they do not agree on it.
        """
        lost_images = self._lost_images
        self.apply_relocalization(tracks, found, reset_keyframes=True)
        tracked_pose = self._locate_by_landmarks(tracks, intrinsics, image.gray.shape)
        if tracked_pose is None:
            self._last_pose, self._lost_images = None, lost_images
        else:
            self._last_pose = tracked_pose.map_camera
        return tracked_pose

    def _update_landmarks(self, tracks: FeatureTracks, solution: Solution) -> None:
        """Update the landmarks to a new solution; the pose of the newest image has to be estimated again."""
        self.landmarks.update_solution(tracks.ids, solution)
        self._last_pose = None

    def _locate_by_features(self, tracks: FeatureTracks, image: ImageFeatures, intrinsics: Array) -> TrackedPose | None:
        """Locate by matching ORB features of the newest solved keyframes; the inliers are tracked from now on."""
        solved, shape = self.landmarks.solved_keyframes(self.solution)[:3], image.gray.shape
        if not solved or len(image.binary) < self._config.min_inliers:
            return None
        pixels = image.binary.pixels
        for keyframe in solved:
            kept, row = self.solution.keyframes[keyframe], self.solution.index(keyframe)
            if row is None or len(kept.features) < self._config.min_inliers:
                continue
            image_rows, keyframe_rows = match_binary(image.binary.descriptors, kept.features)
            points = landmarks(kept, self.solution.map_camera[row], float(self.solution.scale[row]),
                               kept.pixels[keyframe_rows].astype(np.float64))
            known = np.isfinite(points[:, 2])
            if known.sum() < self._config.min_inliers:
                continue
            found_pose = pnp_ransac(points[known], pixels[image_rows[known]], intrinsics, _max_error(shape),
                                    self._config.min_inliers)
            if found_pose is not None:
                self._last_pose, inliers = found_pose
                if spread(pixels[image_rows[known][inliers]], image.gray.shape) < MIN_SPREAD:
                    continue
                self.landmarks.replace(tracks.append(pixels[image_rows[known][inliers]]), points[known][inliers],
                                        keyframe)
                return self._locate_by_landmarks(tracks, intrinsics, shape)
        return None

    def _locate_by_landmarks(self, tracks: FeatureTracks, intrinsics: Array,
                             shape: Sequence[int]) -> TrackedPose | None:
        """Return the pose by the present landmarks, or None if there are too few inliers."""
        known, points, from_depth = self.landmarks.lookup(tracks.ids)
        if len(points) < self._config.min_inliers:
            return None
        pixels, max_error = self._middle_row_pixels(tracks)[known], _max_error(shape)
        minimum, many = self._config.min_inliers, DEGRADED_FACTOR * self._config.min_inliers
        required = max(minimum, min(_MIN_INLIER_RATIO * len(points),
                                    max(_MIN_INLIER_RATIO_IF_MANY * len(points), many)))
        refined = None if self._last_pose is None else refine_pose(self._last_pose, points, pixels, intrinsics,
                                                                   max_error)
        if refined is None or refined[2].sum() < required:
            found_pose = pnp_ransac(points, pixels, intrinsics, max_error)
            if found_pose is None:
                return None
            refined = refine_pose(found_pose[0], points, pixels, intrinsics, max_error)
        pose, covariance, inliers = refined
        if inliers.sum() < required:
            return None
        depth_inliers = int(from_depth[inliers].sum())
        # few inliers may agree by chance
        covariance = covariance * max(1.0, DEGRADED_FACTOR * self._config.min_inliers / inliers.sum()) ** 2
        depth = float(np.median((points[inliers] - pose[:3, 3]) @ pose[:3, 2]))
        if self.landmarks.map_reference is not None:  # triangulated landmarks drift, all of them alike
            triangulated = 1 - depth_inliers / inliers.sum()
            drift = triangulated * _DRIFT_RATE * float(
                np.linalg.norm(pose[:3, 3] - self.landmarks.map_reference.translation))
            covariance = covariance + np.diag([drift / depth] * 3 + [drift] * 3) ** 2
        self._rotation_tracker.set_full_pose(covariance, depth)
        self._influences = pose_influences(pose, tracks.ids[known], points, pixels, intrinsics, max_error)
        return TrackedPose(pose, covariance, int(inliers.sum()), self.landmarks.reference, depth_inliers)

    def _locate_by_rotation(self, tracks: FeatureTracks, intrinsics: Array, shape: Sequence[int]) -> TrackedPose | None:
        """Locate by pure rotation, if it explains the motion of the tracks since the newest keyframe with a pose."""
        newest = list(self.landmarks.keyframes.values())[:-4:-1]
        keyframe = next((k for k in newest if k.map_camera is not None), None)
        if keyframe is None or self.solution.index(self.landmarks.reference) is None:
            return None
        found = self._rotation_tracker.locate(keyframe, tracks.ids, self._middle_row_pixels(tracks), intrinsics,
                                              threshold_scale(shape), self._config.min_inliers)
        return None if found is None else TrackedPose(*found, self.landmarks.reference, 0, rotation_only=True)

    def _middle_row_pixels(self, tracks: FeatureTracks) -> Array:
        """Return the pixels (n, 2) of tracks as if all rows were exposed with the middle one."""
        return (tracks.pixels - tracks.row_shifts(self.readout)).astype(np.float64)


def _max_error(shape: Sequence[int]) -> float:
    return _MAX_REPROJECTION_ERROR * threshold_scale(shape)
