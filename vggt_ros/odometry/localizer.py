"""Where each image was taken: tracked from image to image, looked for in the map when that fails, and as an odometry.

The map is corrected while the camera moves. What is published as odometry does not jump when that happens, nor when
the camera is found again: `map_odom` takes the difference.
"""

from __future__ import annotations

import numpy as np

from vggt_ros.config import TrackingConfig
from vggt_ros.features.tracks import FeatureTracks, ImageFeatures
from vggt_ros.geometry.poses import Array, Sim3, inverse
from vggt_ros.odometry.tracker import FEW, TrackedPose, Tracker
from vggt_ros.places.relocalization import PosePrior, Relocalizer
from vggt_ros.windows.keyframe import Keyframe
from vggt_ros.windows.solution import Frame, Solution, TrackedFrame


class Localizer:
    """The camera's pose in the newest solution, and the odometry.

    Attributes:
        features: the corners that are followed from image to image.
        relocalized: how often the camera was found again.

    """

    def __init__(self, config: TrackingConfig) -> None:
        """Localize with the settings of `config`."""
        self._config = config
        self.features = FeatureTracks(config.features)
        self._tracker = Tracker(config)
        self._relocalizer = Relocalizer(config)
        self._odom_camera = np.eye(4)
        self.clear()

    def clear(self, keep_odometry: bool = False) -> None:
        """Forget everything, but with `keep_odometry` not where the odometry is."""
        if not keep_odometry:
            self._odom_camera = np.eye(4)
        self._map_odom = np.eye(4)
        self._seen = Solution()
        self.relocalized = 0
        for part in (self.features, self._tracker, self._relocalizer):
            part.clear()

    def set_pose_prior(self, prior: PosePrior) -> None:
        """Look for the camera where it is `expected`, from the next image on."""
        self._tracker.clear()
        self.features.clear()
        self._relocalizer.pose_prior = prior

    @property
    def is_away(self) -> bool:
        """True if the camera has not been located for so long that it may be anywhere."""
        return self._tracker.is_away

    def remember(self, keyframe: Keyframe, image: ImageFeatures) -> None:
        """Take the newest image as a keyframe: what it sees now becomes landmarks when it is solved."""
        self._tracker.remember(keyframe.id, self.features, image, keyframe.intrinsics, keyframe.map_camera)

    def locate(self, frame: Frame, image: ImageFeatures, solution: Solution, visitor: bool = False,
               wanted: bool = False, search: bool = True) -> TrackedFrame:
        """Return where `frame` was taken, whose `image` the tracks stand in.

        Without `search` a lost camera is not looked for all over the map, which takes as long as several images do.

        If it is `wanted` as a keyframe, and no tracks lead to the landmarks of the keyframes around, they are taken by
        features: in a map that is all of another session's, where the camera is a `visitor`, or when it turned away.
        """
        away = self._tracker.is_away
        location, before = self._tracker.locate(self.features, image, frame.intrinsics, solution), None
        solution = self._tracker.solution  # what the tracker could not do without, or the one of before
        if location is None and len(solution) and search:
            found = self._relocalizer.search(image, frame.intrinsics, solution)
            if found is not None:
                location, away = self._tracker.take(self.features, found, fresh=True), True
        elif location is not None and (visitor or location.turned) and wanted:
            submap = int(solution.submaps[solution.index(location.reference)])
            found = self._relocalizer.search_near(image, frame.intrinsics, solution, location.world_camera, submap,
                                                  tracked=not location.turned)
            if found is not None:
                before = location.world_camera
                location = self._tracker.take(self.features, found, fresh=False)
        if location is None:
            lost = "RELOCALIZING" if self._relocalizer.attempted else "LOST"
            return TrackedFrame(frame.stamp, lost if len(solution) else "INITIALIZING", map_odom=self._map_odom)
        if away:  # found again, or what it sees now is solved: the odometry goes on, map -> odom takes the rest
            self._map_odom, self._seen, before = location.world_camera @ inverse(self._odom_camera), solution, None
            self.relocalized += 1
        if before is None and solution is not self._seen:
            before = _moved_back(location.world_camera, solution, self._seen)
        self._seen = solution
        if before is not None:  # the map has moved or grown, not the camera: odom -> camera stays
            self._map_odom = location.world_camera @ inverse(before) @ self._map_odom
        row = solution.index(location.reference)
        assert row is not None
        reference_camera = inverse(solution.map_camera[row]) @ location.world_camera
        reference_camera[:3, 3] /= solution.scale[row]
        self._odom_camera = inverse(self._map_odom) @ location.world_camera
        reason = self._weakness(location)
        return TrackedFrame(frame.stamp, "DEGRADED" if reason else "TRACKING", location.world_camera,
                            self._odom_camera, self._map_odom, location.covariance, location.reference,
                            reference_camera, location.inliers, reason=reason)

    def catch_up(self, frame: Frame, solution: Solution) -> None:
        """Take up a new solution, after the pose of `frame` has gone out by the one before."""
        if solution is self._tracker.solution:
            return
        poses = self._tracker.catch_up(self.features, frame.intrinsics, frame.image.shape[1], solution)
        if poses is not None:  # the map has moved or grown, not the camera: odom -> camera stays
            self._map_odom, self._seen = poses[0] @ inverse(poses[1]) @ self._map_odom, solution

    def _weakness(self, location: TrackedPose) -> str:
        """Return what a pose lacks, in words; empty if nothing."""
        if location.turned:
            return "without parallax only the camera's turn is known: move it sideways"
        if location.inliers < FEW * self._config.min_inliers:
            return f"only {location.inliers} landmarks agree on the pose: show it more texture, move slower"
        if location.measured < self._config.min_inliers:
            return "nothing in view is reconstructed yet: the pose rests on tracking alone, and drifts"
        return ""


def _moved_back(map_camera: Array, solution: Solution, before: Solution) -> Array | None:
    """Return where a camera 4x4 of `solution` would be in the one `before`, by the newest keyframe of both."""
    row = solution.index(int(before.ids[-1])) if len(before) else None
    if row is None:
        return None
    new, old = (Sim3.from_pose(s.map_camera[r], float(s.scale[r])) for s, r in ((solution, row), (before, -1)))
    return (old @ new.inverse()).apply_pose(map_camera)
