"""`/initialpose`: an expected pose of the base in the map, such as from RViz's `2D Pose Estimate`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from geometry_msgs.msg import PoseWithCovarianceStamped
from rclpy.lifecycle import LifecycleNode

from vggt_ros.geometry.poses import Array, inverse
from vggt_ros.places.relocalization import PosePrior
from vggt_ros.ros.common.log import LOG_PERIOD
from vggt_ros.ros.conversions.messages import pose_matrix
from vggt_ros.ros.tf.transforms import Transforms
from vggt_ros.slam import Slam

_MAX_VALUE = 1e7
"""Largest value of a pose or a covariance, in their units."""
_SIGMAS = 3.0
_MIN_RADIUS, _MIN_ANGLE = 0.5, 0.5
"""Search radius and angle about an initial pose: this many sigmas, and at least these (map units, radians)."""


class UnusablePose(Exception):
    """A pose near which the camera cannot be searched for; the text gives the reason."""


class InitialPose:
    """Subscribes to `initialpose` and lets the camera be searched for near that pose.

    A pose that comes before the map is loaded, or before the pose of the camera on the robot is known from the first
    image, is kept until then. A pose with no keyframe near it is refused: nothing could be found there.
    """

    def __init__(self, node: LifecycleNode, map_frame: str, slam: Slam, transforms: Transforms,
                 expects_map: Callable[[], bool]) -> None:
        """Subscribe.

        Args:
            node: the node.
            map_frame: the frame that the pose has to be in.
            slam: the SLAM instance, which has the map.
            transforms: the transforms, with `map_world` and the mounting of the camera.
            expects_map: returns whether a saved map is loaded, or will be.

        """
        self._node, self._map_frame, self._slam, self._transforms = node, map_frame, slam, transforms
        self._expects_map = expects_map
        self._kept: tuple[Array, Array] | None = None
        self._subscription = node.create_subscription(PoseWithCovarianceStamped, "initialpose", self.take, 1)

    def close(self) -> None:
        """Destroy the subscription."""
        self._node.destroy_subscription(self._subscription)

    def take(self, message: PoseWithCovarianceStamped) -> None:
        """Search for the camera near a given pose of the base in `map`; what becomes of it is logged."""
        log = self._node.get_logger()
        try:
            log.info(f"/initialpose: {self.search(message)}", throttle_duration_sec=1.0)
        except UnusablePose as error:
            log.warning(f"/initialpose: {error}", throttle_duration_sec=LOG_PERIOD)

    def search(self, message: PoseWithCovarianceStamped) -> str:
        """Search for the camera near a given pose of the base in `map`, at once or as soon as it is possible.

        Returns what is done, in words.

        Raises:
            UnusablePose: the text says why, and what would be right.

        """
        frame_id = message.header.frame_id.lstrip("/")
        map_base = pose_matrix(message.pose.pose.position, message.pose.pose.orientation)
        covariance = np.array(message.pose.covariance).reshape(6, 6)
        if frame_id != self._map_frame:
            raise UnusablePose(f"a pose in frame {frame_id[:100]!r} is ignored; it must be in {self._map_frame!r}")
        if not (np.abs(map_base) < _MAX_VALUE).all() or not (np.abs(covariance) < _MAX_VALUE).all() \
                or (np.diag(covariance) < 0).any():
            raise UnusablePose("a pose is ignored that has no rotation, or values that are not finite or too large, or "
                               "negative variances")
        if self._can_search():
            return self._search(map_base, covariance)
        if self._expects_map():
            self._kept = map_base, covariance
            return "kept until the map is loaded and an image tells the camera's frame"
        raise UnusablePose("ignored; there is no map, or the pose of the camera on the robot is not known")

    def poll(self) -> None:
        """Use a pose that was kept, if that is possible now; called periodically."""
        if self._kept is not None and self._can_search():
            kept, self._kept = self._kept, None
            log = self._node.get_logger()
            try:
                log.info(f"/initialpose: {self._search(*kept)}", throttle_duration_sec=1.0)
            except UnusablePose as error:
                log.warning(f"/initialpose: {error}", throttle_duration_sec=1.0)

    def _can_search(self) -> bool:
        return self._transforms.mounting.base_camera is not None and self._transforms.map_world is not None \
            and len(self._slam.solution) > 0

    def _search(self, map_base: Array, covariance: Array) -> str:
        map_world, base_camera = self._transforms.map_world, self._transforms.mounting.base_camera
        assert map_world is not None
        assert base_camera is not None
        sigmas = np.sqrt(np.maximum(np.diag(covariance), 0))
        radius = max(_MIN_RADIUS, _SIGMAS * float(sigmas[:3].max()))
        angle = max(_MIN_ANGLE, _SIGMAS * float(sigmas[3:].max()))
        prior = PosePrior(inverse(map_world) @ map_base @ base_camera, radius, angle)
        within = f"within {radius:.1f} m and {np.degrees(angle):.0f} degrees"
        if self._slam.set_pose_prior(prior):
            return f"searching for the camera {within}"
        distances = np.linalg.norm(self._slam.solution.map_camera[:, :3, 3] - prior.map_camera[:3, 3], axis=1)
        raise UnusablePose(f"refused; no keyframe looks there, {within}: the nearest is {distances.min():.1f} m away, "
                           "or looks elsewhere; the present pose is kept")
