"""Localization of each image: tracked from image to image, relocalized when lost, and published as an odometry.

The map is corrected while the camera moves. The odometry pose does not jump when the map is corrected, nor when the
camera is relocalized: `map_odom` takes the difference (REP-105).
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import TrackingConfig
from vggt_ros.features.tracks import FeatureTracks, ImageFeatures
from vggt_ros.geometry.poses import Array, adjoint, inverse
from vggt_ros.geometry.reach import reach
from vggt_ros.odometry.background_search import BackgroundSearch
from vggt_ros.odometry.frame_trajectory import pose_by_reference, pose_in_reference
from vggt_ros.odometry.late_localization import LateLocalizer
from vggt_ros.odometry.tracker import DEGRADED_FACTOR, TrackedPose, Tracker
from vggt_ros.places.relocalization import PosePrior, Relocalization, Relocalizer, keyframes_near
from vggt_ros.windows.frame import Frame, TrackedFrame
from vggt_ros.windows.keyframe import Keyframe
from vggt_ros.windows.solution import Solution

_SEARCH_TIME = 90_000_000
"""About what a search for a lost camera in the map takes, nanoseconds."""
_RECENT = 6
"""Newest images by which the rate is known."""


class Localizer:
    """The camera's pose in the newest solution and in the odometry frame.

    Attributes:
        features: the feature tracks.
        relocalizations: how often the camera was found again after it was lost.

    """

    def __init__(self, config: TrackingConfig) -> None:
        """Localize with the settings of `config`."""
        self._config = config
        self.features = FeatureTracks(config.features)
        self._tracker = Tracker(config)
        self._relocalizer = Relocalizer(config)
        self._background: BackgroundSearch | None = None
        self._stamps: deque[int] = deque(maxlen=_RECENT)
        self._late = LateLocalizer(config.min_inliers)
        self._odom_camera = np.eye(4)
        self.clear()

    def clear(self, keep_odometry: bool = False) -> None:
        """Forget everything; with `keep_odometry`, except the pose in the odometry frame."""
        if not keep_odometry:
            self._odom_camera = np.eye(4)
        self._map_odom = np.eye(4)
        self._last_covariance: Array | None = None
        self._last_tracked: TrackedFrame | None = None
        self._anywhere = False  # the camera may have been carried to any place since it was located
        self._last_solution = Solution()
        self.relocalizations = 0
        self._stop_search()
        for part in (self.features, self._tracker, self._relocalizer, self._late):
            part.clear()

    def search_in_background(self) -> None:
        """From now on search for a lost camera in a thread of its own where images come too fast to wait for it."""
        self._background = BackgroundSearch(self._relocalizer)

    def _come_fast(self, stamp: int) -> bool:
        """Return whether images come faster than a search takes, by the stamps of the newest ones and of this one."""
        self._stamps.append(stamp)
        gaps = np.diff(np.array(self._stamps))
        return bool(((gaps > 0) & (gaps < _SEARCH_TIME)).any())

    def _stop_search(self) -> None:
        if self._background is not None:
            self._background.stop()

    def lose(self) -> None:
        """Forget where the camera is: the next image is searched for in the whole map. The odometry goes on."""
        self._stop_search()
        self._anywhere = True
        self._tracker.lose()
        self.features.clear()

    def set_pose_prior(self, prior: PosePrior, solution: Solution) -> bool:
        """Search for the camera within a pose prior, from the next image on; the present pose is discarded.

        Without a keyframe near it nothing could be found: return False, and keep the present pose.
        """
        if not len(keyframes_near(solution, prior)):
            return False
        self._stop_search()
        self._anywhere = True
        self._tracker.clear()
        self.features.clear()
        self._relocalizer.set_pose_prior(prior)
        return True

    def set_readout(self, seconds: float) -> None:
        """Set the readout time of a rolling shutter that the windows say, from the next image on."""
        self._tracker.readout = seconds

    @property
    def is_lost(self) -> bool:
        """True if the camera has had no pose for so many images that it may be anywhere."""
        return self._tracker.is_lost

    def add_keyframe(self, keyframe: Keyframe, image: ImageFeatures) -> None:
        """Add the newest image as a keyframe: its tracks get landmarks when it is solved."""
        self._tracker.add_keyframe(keyframe.id, self.features, image, keyframe.intrinsics, keyframe.map_camera)

    def locate(self, frame: Frame, image: ImageFeatures, solution: Solution, in_saved_map: bool = False,
               needs_keyframe: bool = False, search: bool = True) -> TrackedFrame:
        """Return the pose of `frame`; the feature tracks have been advanced to its `image`.

        Without `search` a lost camera is not matched to keyframes, which takes as long as tracking several images.

        If the frame `needs_keyframe` and its landmarks do not come from the keyframes around it, new landmarks are
        matched to the keyframes nearby. That is so `in_saved_map`, where all keyframes are of another session, and
        during pure rotation.
        """
        was_lost, old_map_camera = self._tracker.is_lost, None
        tracked = self._tracker.locate(self.features, image, frame.intrinsics, solution, search)
        solution = self._tracker.solution  # the newest one only if the tracker needed it, else the previous one
        background = self._background if self._come_fast(frame.stamp) else None
        if tracked is not None and background is not None:
            background.skip()
        if tracked is None and len(solution):
            tracked, was_lost = self._relocalize(frame, image, solution, background, search), True
        elif tracked is not None and (in_saved_map or tracked.rotation_only) and needs_keyframe:
            matched = self._match_nearby(tracked, frame, image, solution)
            if matched is not None:
                old_map_camera, tracked = tracked.map_camera, matched
        if tracked is None:
            self._late.add(frame, self.features, max(self._tracker.landmarks.keyframes, default=-1))
            self._last_covariance = None
            state = "RELOCALIZING" if self._relocalizer.attempted else "LOST"
            return TrackedFrame(frame.stamp, state if len(solution) else "INITIALIZING", map_odom=self._map_odom)
        if was_lost:  # relocalized or newly solved
            self.relocalizations += 1
            self._last_covariance = None
        self._update_map_odom(tracked.map_camera, old_map_camera, solution, was_lost)
        previous_odom_camera, self._odom_camera = self._odom_camera, inverse(self._map_odom) @ tracked.map_camera
        motion_covariance = self._motion_covariance(tracked, inverse(self._odom_camera) @ previous_odom_camera)
        self._last_covariance = tracked.covariance
        reason = self._degradation_reason(tracked)
        self._anywhere = False
        self._last_tracked = TrackedFrame(
            frame.stamp, "DEGRADED" if reason else "TRACKING", tracked.map_camera, self._odom_camera, self._map_odom,
            tracked.covariance, motion_covariance, tracked.reference,
            pose_in_reference(tracked.map_camera, tracked.reference, solution), tracked.inliers, reason=reason)
        return self._last_tracked

    def _relocalize(self, frame: Frame, image: ImageFeatures, solution: Solution,
                    background: BackgroundSearch | None, search: bool) -> TrackedPose | None:
        """Return the pose of a frame without one, if it is found in the map: in the `background`, or at once.

        The latter takes long, and is done only with `search`.
        """
        if background is not None:
            found = background.search(image, frame.intrinsics, solution)
        elif search:
            self._stop_search()
            found = self._relocalizer.search(image, frame.intrinsics, solution)
        else:
            return None
        if found is None or not self._is_in_reach(found, frame.stamp, solution):
            return None
        if background is not None:
            return self._tracker.apply_earlier(self.features, found, image, frame.intrinsics)
        return self._tracker.apply_relocalization(self.features, found, reset_keyframes=True)

    def _match_nearby(self, tracked: TrackedPose, frame: Frame, image: ImageFeatures,
                      solution: Solution) -> TrackedPose | None:
        """Return the pose by landmarks matched to the keyframes around a `tracked` pose; None if too few are found."""
        submap = int(solution.submaps[solution.row(tracked.reference)])
        found = self._relocalizer.search_near(image, frame.intrinsics, solution, tracked.map_camera, submap,
                                              tracked=not tracked.rotation_only)
        if found is None:
            return None
        return replace(self._tracker.apply_relocalization(self.features, found, reset_keyframes=False),
                       motion_covariance=tracked.motion_covariance)

    def _update_map_odom(self, map_camera: Array, old_map_camera: Array | None, solution: Solution,
                         was_lost: bool) -> None:
        """Update map -> odom where the map changed, or its landmarks, and not the camera: odom -> camera stays.

        The camera was at `old_map_camera` before the change; if that is None, where the previous solution had it. If
        the camera `was_lost`, the odometry goes on from where it was.
        """
        if was_lost:
            self._map_odom = map_camera @ inverse(self._odom_camera)
        else:
            if old_map_camera is None and solution is not self._last_solution:
                old_map_camera = _pose_in_previous_solution(map_camera, solution, self._last_solution)
            if old_map_camera is not None:
                self._map_odom = map_camera @ inverse(old_map_camera) @ self._map_odom
        self._last_solution = solution

    def _is_in_reach(self, found: Relocalization, stamp: int, solution: Solution) -> bool:
        """Return whether a camera that was found in the newest submap can have come there until `stamp`, nanoseconds.

        Else it is another place that looks alike. It was last seen in the newest keyframe, or tracked after it.
        """
        if self._anywhere or found.submap != solution.submaps[-1]:
            return True
        rows = np.flatnonzero(solution.submaps == found.submap)
        stamps, centers = solution.stamps[rows], solution.map_camera[rows, :3, 3]
        last = self._last_tracked
        if last is not None and last.stamp > stamps[-1] and (pose := pose_by_reference(last, solution)) is not None:
            stamps, centers = np.append(stamps, last.stamp), np.vstack([centers, pose[:3, 3]])
        newest = solution.keyframes[int(solution.ids[-1])]
        limit = reach(stamps, centers, newest.median_depth * float(solution.scale[-1]), stamp)
        return limit is None or float(np.linalg.norm(found.map_camera[:3, 3] - centers[-1])) <= limit

    def tracked_corners(self) -> tuple[FeatureTracks, NDArray[np.bool_], NDArray[np.bool_]]:
        """Return the corners of the newest image, which have landmarks, and of which these are from solved depth."""
        known, _, of_known = self._tracker.landmarks.lookup(self.features.ids)
        from_depth = known.copy()
        from_depth[known] = of_known
        return self.features, known, from_depth

    def locate_late(self, solution: Solution, most: int) -> list[TrackedFrame]:
        """Return the poses of images that had none when they came, now that keyframes around them are solved.

        At most `most` are tried.
        """
        return self._late.locate(self._tracker.landmarks, solution, most)

    def _motion_covariance(self, tracked: TrackedPose, camera_previous: Array) -> Array | None:
        """Return the covariance (6, 6) of the motion since the image before; None if that one had no pose.

        Two poses that do not share their landmarks are taken as independent: an upper bound.
        """
        if self._last_covariance is None or tracked.motion_covariance is not None:
            return tracked.motion_covariance
        moved = adjoint(camera_previous)
        return tracked.covariance + moved @ self._last_covariance @ moved.T

    def update_solution(self, frame: Frame, solution: Solution, most: int) -> list[TrackedFrame]:
        """Update the landmarks to a new solution, after the pose of `frame` by the previous one was published.

        Return the poses of images that had none when they came, as `locate_late`.
        """
        if solution is not self._tracker.solution:
            poses = self._tracker.update_solution(self.features, frame.intrinsics, frame.image.shape, solution)
            if poses is not None:  # the map or its landmarks changed, not the camera: odom -> camera stays
                self._map_odom, self._last_solution = poses[0] @ inverse(poses[1]) @ self._map_odom, solution
        return self.locate_late(solution, most)

    def _degradation_reason(self, tracked: TrackedPose) -> str:
        """Return why a pose is degraded, in words; empty if it is not."""
        if tracked.rotation_only:
            return "there is no parallax, so only the rotation is tracked: move the camera sideways"
        if tracked.inliers < DEGRADED_FACTOR * self._config.min_inliers:
            return f"only {tracked.inliers} landmarks agree with the pose: show the camera more texture or move slower"
        if tracked.depth_inliers < self._config.min_inliers:
            return "nothing in view is reconstructed yet: the pose is from tracking alone, and drifts"
        return ""


def _pose_in_previous_solution(map_camera: Array, solution: Solution, previous: Solution) -> Array | None:
    """Return the pose in the `previous` solution of a camera 4x4 of `solution`, by the newest keyframe of both."""
    row = solution.index(int(previous.ids[-1])) if len(previous) else None
    if row is None:
        return None
    return (previous.similarity(-1) @ solution.similarity(row).inverse()).apply_pose(map_camera)
