"""Publishers of the node except TF: odometry and pose per image, the map and its parts when they have changed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import OccupancyGrid, Odometry, Path
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from visualization_msgs.msg import MarkerArray

from vggt_ros.config import TfConfig
from vggt_ros.geometry.poses import Array, adjoint
from vggt_ros.mapping.dense.surface import keyframe_cloud
from vggt_ros.ros.conversions import messages
from vggt_ros.ros.conversions.interfaces import SlamStatus
from vggt_ros.ros.outputs.features import FeatureOutput
from vggt_ros.ros.outputs.grid import GridOutput
from vggt_ros.ros.outputs.map import MapOutput
from vggt_ros.ros.tf.transforms import Transforms
from vggt_ros.slam import Slam
from vggt_ros.windows.frame import TrackedFrame
from vggt_ros.windows.solution import Solution

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""QoS of topics whose last message late subscribers need: reliable, transient local, depth 1."""


class Outputs:
    """The publishers. Large messages are created only if their topic has subscribers."""

    def __init__(self, node: LifecycleNode, config: TfConfig, transforms: Transforms, slam: Slam,
                 run_in_worker: Callable[[Callable[[], Any]], Future[Any]], withholds: Callable[[], bool]) -> None:
        """Create the publishers; `close` destroys them.

        Args:
            node: the node.
            config: names of the TF frames.
            transforms: the pose of the camera on the robot.
            slam: the SLAM instance, which has the map.
            run_in_worker: runs a function on the worker thread, which owns the map.
            withholds: returns whether map and grid must not be published.

        """
        self._node, self._config, self._transforms, self._slam, self._withholds = \
            node, config, transforms, slam, withholds
        create = node.create_lifecycle_publisher
        self.odom = create(Odometry, "~/odom", 10)
        self.pose = create(PoseWithCovarianceStamped, "~/pose", 10)
        self.path = create(Path, "~/path", LATCHED)
        self.cloud = create(PointCloud2, "~/cloud", 2)
        self.map = MapOutput(node, slam, run_in_worker, LATCHED)
        self.grid = GridOutput(node, slam, run_in_worker, LATCHED)
        self.features = FeatureOutput(node, slam)
        self.depth = create(Image, "~/depth/image", 10)
        self.depth_info = create(CameraInfo, "~/depth/camera_info", 10)
        self.markers = create(MarkerArray, "~/markers", LATCHED)
        # Not lifecycle publishers: loading, and its failure, are reported while the node is inactive.
        self.status = node.create_publisher(DiagnosticStatus, "~/status", LATCHED)
        self.slam_status = node.create_publisher(SlamStatus, "~/slam_status", LATCHED) if SlamStatus else None
        self.diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._published: dict[object, int] = {}
        self.clear()

    def clear(self) -> None:
        """Clear the state that belongs to the map before a reset; the empty map is published like any change."""
        self.map.clear()
        self.grid.clear()
        self.interrupt()

    def interrupt(self) -> None:
        """Let the next odometry not continue the last one: its twist is unknown."""
        self._previous: tuple[int, Array] | None = None
        self._last_odom_base = np.eye(4)

    def close(self) -> None:
        """Destroy the publishers."""
        for publisher in (self.odom, self.pose, self.path, self.cloud, self.depth, self.depth_info, self.markers,
                          self.status, self.slam_status, self.diagnostics):
            if publisher is not None:
                self._node.destroy_publisher(publisher)
        for output in (self.map, self.grid, self.features):
            output.close()

    def publish_tracked(self, tracked: TrackedFrame) -> None:
        """Publish odometry and pose of an image; without a pose, the last odometry with the covariance of unknown."""
        self.grid.reference = self.grid.reference if tracked.reference is None else tracked.reference
        transforms, base_camera = self._transforms, self._transforms.mounting.at(tracked.stamp)
        head, child = messages.header(tracked.stamp, transforms.odom_frame), transforms.mounting.base_frame
        if base_camera is None or transforms.map_world is None or tracked.odom_camera is None \
                or tracked.map_camera is None:
            unknown = messages.UNKNOWN_VARIANCE * np.eye(6)
            self.odom.publish(messages.odometry(self._last_odom_base, unknown, head, child))
            self._previous = None
            return
        odom_base = transforms.base_in_odom(tracked.odom_camera, base_camera)
        to_base = adjoint(base_camera)
        motion = None if tracked.motion_covariance is None else to_base @ tracked.motion_covariance @ to_base.T
        self.odom.publish(messages.odometry(odom_base, self._covariance(tracked, odom_base, base_camera), head, child,
                                            self._previous, tracked.stamp, motion, self._slam.solution.metric.sigma))
        self._previous, self._last_odom_base = (tracked.stamp, odom_base), odom_base
        map_base = transforms.base_in_map(tracked.map_camera, base_camera)
        head = messages.header(tracked.stamp, self._config.map_frame)
        self.pose.publish(messages.pose_with_covariance(map_base, self._covariance(tracked, map_base, base_camera),
                                                        head))

    def publish_keyframes(self, keyframes: Sequence[int]) -> None:
        """Publish depth of keyframes just added to the map, and the cloud of the newest one, in the camera frame."""
        solution, frame = self._slam.solution, self._transforms.mounting.camera_frame
        known = [keyframe for keyframe in keyframes if solution.index(keyframe) is not None]
        if self.depth.get_subscription_count() or self.depth_info.get_subscription_count():
            for keyframe in known:
                kept, depth = solution.keyframes[keyframe], solution.depth(keyframe)
                head = messages.header(kept.stamp, frame)
                self.depth.publish(messages.depth_image(depth, head))
                self.depth_info.publish(messages.camera_info(kept.intrinsics, depth.shape[::-1], head))
        if known and self.cloud.get_subscription_count():
            head = messages.header(solution.keyframes[known[-1]].stamp, frame)
            self.cloud.publish(messages.point_cloud(keyframe_cloud(solution, known[-1], self._slam.config.map), head))

    def publish_changes(self) -> None:
        """Publish path, markers, map and grid, each if it has changed and has subscribers."""
        solution, map_world = self._slam.solution, self._transforms.map_world
        if map_world is None or (len(solution) == 0 and not self._published and not self.map.published
                                 and not self.grid.published):
            return
        mounting = self._transforms.mounting
        if mounting.base_camera is not None and self._needs_publishing(self.path, solution):
            poses = map_world @ solution.map_camera @ np.linalg.inv(mounting.at_keyframes(solution.stamps))
            self.path.publish(messages.path(solution.stamps, poses, self._config.map_frame))
        now = self._node.get_clock().now().nanoseconds
        head = messages.header(int(solution.stamps[-1]) if len(solution) else now, self._config.map_frame)
        if self._needs_publishing(self.markers, solution):
            self.markers.publish(messages.pose_graph(solution, map_world, head))
        if self._withholds():
            return
        self.map.publish_changes(map_world, head)
        self.grid.publish_changes(map_world, head)

    def whole_grid(self) -> Generator[Future[Any], Any, OccupancyGrid]:
        """Compute a grid of the whole map, for a service; yields what to wait for.

        Raises:
            RuntimeError: there is no map, or it is withheld.

        """
        solution, map_world = self._slam.solution, self._transforms.map_world
        if map_world is None or not len(solution):
            raise RuntimeError("there is no map yet")
        if self._withholds():
            raise RuntimeError("the scale is not observed (scale.require)")
        head = messages.header(int(solution.stamps[-1]), self._config.map_frame)
        return (yield from self.grid.whole(map_world, head))

    def republish(self) -> None:
        """Publish everything again at the next call of `publish_changes`, even if the map has not changed."""
        self._published.clear()
        self.map.republish()
        self.grid.republish()

    def _needs_publishing(self, publisher: Any, solution: Solution) -> bool:
        """Return whether there are subscribers and this solution was not published; record it as published if so."""
        new = publisher.get_subscription_count() > 0 and self._published.get(publisher) != solution.version
        if new:
            self._published[publisher] = solution.version
        return bool(new)

    def _covariance(self, tracked: TrackedFrame, target_base: Array, base_camera: Array) -> Array:
        """Return the covariance of the base in the order of ROS, including the uncertainty of the scale of the map."""
        if tracked.covariance is None:
            return messages.UNKNOWN_VARIANCE * np.eye(6)
        to_base = adjoint(base_camera)
        covariance = messages.ros_covariance(to_base @ tracked.covariance @ to_base.T, target_base[:3, :3])
        position = target_base[:3, 3]
        covariance[:3, :3] += self._slam.solution.metric.sigma**2 * np.outer(position, position)
        return covariance
