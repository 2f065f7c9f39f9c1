"""The pose of every frame between windows: optical flow and PnP, on depth where it is solved, else on own points.

Where tracked points lie, `tracked_landmarks.py` keeps. If too few tracks are left, the binary features of the newest
solved keyframes are matched to the frame, but only for a while: a camera that saw nothing for longer may be elsewhere,
and a few matches agree on a pose that is wrong. A camera that turned on the spot sees what nothing is known of: its
tracks still tell how it turned.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vggt_ros.config import TrackingConfig
from vggt_ros.features.tracks import REFERENCE_WIDTH, FeatureTracks, ImageFeatures
from vggt_ros.geometry.pnp import pnp_ransac, refine_pose
from vggt_ros.geometry.poses import Array
from vggt_ros.odometry.rotation import RotationTracker
from vggt_ros.odometry.tracked_keyframe import TrackedKeyframe
from vggt_ros.odometry.tracked_landmarks import TrackedLandmarks
from vggt_ros.places.relocalization import Relocalization
from vggt_ros.windows.solution import Solution

FEW = 2
"""Poses on which fewer landmarks agree than this times `tracking.min_inliers` are said to be degraded."""
_SHORT = 10
"""Images without a pose after which the newest keyframes are not expected in view any more."""
_MIN_SPREAD = 0.1
"""Least standard deviation of matches in the image, x and y, as a fraction of its width: else they fix no pose."""
_DRIFT = 0.05
"""How far the tracker's own landmarks drift, as a fraction of the way from the newest solved keyframe."""
_AGREEING, _AGREEING_WELL = 0.4, 0.25
"""Least fraction of the landmarks that agree on a pose; the second is enough if so many do that it is not DEGRADED."""
_INLIER = 3.0
"""Largest reprojection error of an inlier, px at 640 px width."""


@dataclass(frozen=True, eq=False)
class TrackedPose:
    """A pose found.

    `world_camera` 4x4, covariance (6, 6) of its right perturbation, inliers, reference keyframe, how many inliers have
    solved depth, and whether only the rotation is measured.
    """

    world_camera: Array
    covariance: Array
    inliers: int
    reference: int
    measured: int
    turned: bool = False


class Tracker:
    """Finds the camera among landmarks, which are tracks whose place is known."""

    def __init__(self, config: TrackingConfig) -> None:
        """Track with the settings of `config`."""
        self._config = config
        self._matcher = cv2.BFMatcher(cv2.NORM_HAMMING)
        self._landmarks = TrackedLandmarks(config.min_inliers)
        self.clear()

    def clear(self) -> None:
        """Forget all keyframes, landmarks and the last pose."""
        self._landmarks.clear()
        self._last: Array | None = None
        self._lost = 0  # images without a pose
        self._turning = RotationTracker()

    def remember(self, keyframe: int, tracks: FeatureTracks, image: ImageFeatures, intrinsics: Array,
                 world_camera: Array | None) -> None:
        """Note what a new keyframe sees, and triangulate the tracks that have no landmark by solved depth."""
        self._landmarks.remember(
            keyframe,
            TrackedKeyframe(tracks.ids, tracks.pixels, image.binary, world_camera, intrinsics, image.gray.shape[1]),
        )
        self._turning.hop()

    @property
    def solution(self) -> Solution:
        """The state of the map that the landmarks and all poses are of."""
        return self._landmarks.solution

    @property
    def is_away(self) -> bool:
        """True if the camera has not been located for so long that it may be anywhere."""
        return self._lost >= _SHORT

    def locate(self, tracks: FeatureTracks, image: ImageFeatures, intrinsics: Array,
               solution: Solution) -> TrackedPose | None:
        """Return where the frame `image` with these `tracks` was taken.

        If the landmarks as they are tell, they are left as they are: `catch_up` takes up a new `solution` when the pose
        has gone out.
        """
        width = image.gray.shape[1]
        location = self._solve(tracks, intrinsics, width)
        if location is None and solution is not self.solution:
            self._adopt(tracks, solution)
            location = self._solve(tracks, intrinsics, width)
        if location is None and not self.is_away:
            location = self._match(tracks, image, intrinsics)
        if location is None:
            location = self._turn(tracks, intrinsics, width)
        self._lost = 0 if location else self._lost + bool(len(solution))
        self._last = location.world_camera if location else None
        return location

    def catch_up(self, tracks: FeatureTracks, intrinsics: Array, width: int,
                 solution: Solution) -> tuple[Array, Array] | None:
        """Take up a new solution; return the newest pose 4x4 by it, and by the one before, if both are known."""
        before = self._last
        self._adopt(tracks, solution)
        location = self._solve(tracks, intrinsics, width)
        self._last = location.world_camera if location else None
        return None if location is None or before is None else (location.world_camera, before)

    def take(self, tracks: FeatureTracks, found: Relocalization, fresh: bool) -> TrackedPose:
        """Take landmarks found in the newest image by other means than tracks, and return where it was taken.

        They are followed from then on, in the stead of all others; in a `fresh` place nothing that was before counts.
        """
        self._landmarks.replace(tracks.append(found.pixels), found.points, found.keyframe)
        self._last, self._lost = found.map_camera, 0
        if fresh:
            for sighting in self._landmarks.sightings.values():  # what they saw was placed by what did not hold
                sighting.world_camera = None
        depth = float(np.median((found.points - found.map_camera[:3, 3]) @ found.map_camera[:3, 2]))
        self._turning.settle(found.covariance, depth)
        return TrackedPose(found.map_camera, found.covariance, len(found.points), found.keyframe, len(found.points))

    def _adopt(self, tracks: FeatureTracks, solution: Solution) -> None:
        """Take landmarks from a new solution."""
        self._landmarks.adopt(tracks.ids, solution)
        self._last = None

    def _match(self, tracks: FeatureTracks, image: ImageFeatures, intrinsics: Array) -> TrackedPose | None:
        """Locate by the binary features of the newest solved keyframes; what agrees is followed from then on."""
        solved, width = self._landmarks.solved(self.solution)[:3], image.gray.shape[1]
        if not solved or len(image.binary) < self._config.min_inliers:
            return None
        pixels = image.binary.pixels
        for keyframe in solved:
            sighting = self._landmarks.sightings[keyframe]
            if len(sighting.binary) < self._config.min_inliers:
                continue
            pairs = [best for best, second in self._matcher.knnMatch(
                image.binary.descriptors, sighting.binary.descriptors, k=2)
                     if best.distance < 0.8 * second.distance]
            here = np.array([pair.queryIdx for pair in pairs], int)
            there = np.array([pair.trainIdx for pair in pairs], int)
            points = sighting.landmarks(sighting.binary.pixels[there], keyframe, self.solution)
            known = np.isfinite(points[:, 2])
            if known.sum() < self._config.min_inliers:
                continue
            found_pose = pnp_ransac(points[known], pixels[here[known]], intrinsics, self._limit(width))
            if found_pose is not None and len(found_pose[1]) >= self._config.min_inliers:
                self._last, chosen = found_pose
                if pixels[here[known][chosen]].std(0).min() < _MIN_SPREAD * width:
                    continue
                self._landmarks.replace(tracks.append(pixels[here[known][chosen]]), points[known][chosen], keyframe)
                return self._solve(tracks, intrinsics, width)
        return None

    def _solve(self, tracks: FeatureTracks, intrinsics: Array, width: int) -> TrackedPose | None:
        """Return the pose by the present landmarks, or None if too few agree."""
        known, points = self._landmarks.known(tracks.ids)
        if len(points) < self._config.min_inliers:
            return None
        pixels, limit = tracks.pixels[known].astype(np.float64), self._limit(width)
        least, trusted = self._config.min_inliers, FEW * self._config.min_inliers
        needed = max(least, min(_AGREEING * len(points), max(_AGREEING_WELL * len(points), trusted)))
        refined = None if self._last is None else refine_pose(self._last, points, pixels, intrinsics, limit)
        if refined is None or refined[2].sum() < needed:
            found_pose = pnp_ransac(points, pixels, intrinsics, limit)
            if found_pose is None:
                return None
            refined = refine_pose(found_pose[0], points, pixels, intrinsics, limit)
        pose, covariance, inliers = refined
        if inliers.sum() < needed:
            return None
        measured = sum(track in self._landmarks.measured for track in tracks.ids[known][inliers].tolist())
        covariance = covariance * max(1.0, FEW * self._config.min_inliers / inliers.sum()) ** 2  # few agree by chance
        depth = float(np.median((points[inliers] - pose[:3, 3]) @ pose[:3, 2]))
        if self._landmarks.anchor is not None:  # what tracking placed itself drifts, all of it alike
            own = 1 - measured / inliers.sum()
            drift = own * _DRIFT * float(np.linalg.norm(pose[:3, 3] - self._landmarks.anchor.translation))
            covariance = covariance + np.diag([drift / depth] * 3 + [drift] * 3) ** 2
        self._turning.settle(covariance, depth)
        return TrackedPose(pose, covariance, int(inliers.sum()), self._landmarks.reference, measured)

    def _turn(self, tracks: FeatureTracks, intrinsics: Array, width: int) -> TrackedPose | None:
        """Locate by rotation alone, if it explains how the tracks have moved since the newest keyframe with a place."""
        newest = list(self._landmarks.sightings.values())[:-4:-1]
        sighting = next((s for s in newest if s.world_camera is not None), None)
        if sighting is None or self.solution.index(self._landmarks.reference) is None:
            return None
        found = self._turning.locate(sighting, tracks, intrinsics, REFERENCE_WIDTH / width, self._config.min_inliers)
        return None if found is None else TrackedPose(*found, self._landmarks.reference, 0, turned=True)

    @staticmethod
    def _limit(width: int) -> float:
        return _INLIER * width / REFERENCE_WIDTH
