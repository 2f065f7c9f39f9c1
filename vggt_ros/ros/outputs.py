"""What the node publishes, apart from transforms: measurements at once, the map when it has changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry, Path
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from visualization_msgs.msg import MarkerArray

from vggt_ros.config import TfConfig
from vggt_ros.geometry.poses import Array, inverse
from vggt_ros.ros import messages
from vggt_ros.ros.grid_output import GridOutput
from vggt_ros.ros.transforms import Frames
from vggt_ros.slam import Slam
from vggt_ros.windows.solution import Solution, TrackedFrame

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""For what a late subscriber wants to have: reliable, transient local, the newest only."""


class Outputs:
    """The publishers. Heavy messages are made only while somebody subscribes."""

    def __init__(self, node: LifecycleNode, config: TfConfig, frames: Frames, slam: Slam,
                 in_worker: Callable[[Callable[[], Any]], Future[Any]]) -> None:
        """Create the publishers; `close` gives them back.

        Args:
            node: the node.
            config: names of the frames.
            frames: where the camera sits.
            slam: the map.
            in_worker: runs a function on the thread that owns the map.

        """
        self._node, self._config, self._frames, self._slam, self._in_worker = node, config, frames, slam, in_worker
        create = node.create_lifecycle_publisher
        self.odom = create(Odometry, "~/odom", 10)
        self.pose = create(PoseWithCovarianceStamped, "~/pose", 10)
        self.path = create(Path, "~/path", LATCHED)
        self.cloud = create(PointCloud2, "~/cloud", 2)
        self.map = create(PointCloud2, "~/map", LATCHED)
        self.grid = GridOutput(node, slam, in_worker, LATCHED)
        self.depth = create(Image, "~/depth/image", 10)
        self.depth_info = create(CameraInfo, "~/depth/camera_info", 10)
        self.markers = create(MarkerArray, "~/markers", LATCHED)
        # Also while the node is inactive: loading, and its failure, are seen there.
        self.status = node.create_publisher(DiagnosticStatus, "~/status", LATCHED)
        self.diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._published: dict[object, int] = {}
        self._map_request: Future[Any] | None = None
        self.clear()

    def clear(self) -> None:
        """Forget what belongs to the map before a reset; that it is empty now is published like any change."""
        self._map_request = None
        self.grid.clear()
        self._odometry: tuple[int, Array] | None = None
        self._last_odom_base = np.eye(4)

    def close(self) -> None:
        """Give the publishers back to the node."""
        for publisher in (self.odom, self.pose, self.path, self.cloud, self.map, self.depth, self.depth_info,
                          self.markers, self.status, self.diagnostics):
            self._node.destroy_publisher(publisher)
        self.grid.close()

    def publish_tracked(self, tracked: TrackedFrame) -> None:
        """Publish odometry and pose of an image; without a pose, the last odometry with an unbounded covariance."""
        head = messages.header(tracked.stamp, self._frames.odom_frame)
        child = self._config.base_frame
        if self._frames.base_camera is None or tracked.odom_camera is None or tracked.map_camera is None:
            unknown = messages.UNKNOWN_VARIANCE * np.eye(6)
            self.odom.publish(messages.odometry(self._last_odom_base, unknown, head, child))
            self._odometry = None
            return
        odom_base = self._frames.map_base(tracked.odom_camera)
        self.odom.publish(messages.odometry(odom_base, self._covariance(tracked, odom_base), head, child,
                                            self._odometry, tracked.stamp))
        self._odometry, self._last_odom_base = (tracked.stamp, odom_base), odom_base
        map_base = self._frames.map_base(tracked.map_camera)
        head = messages.header(tracked.stamp, self._config.map_frame)
        self.pose.publish(messages.pose_with_covariance(map_base, self._covariance(tracked, map_base), head))

    def publish_keyframes(self, keyframes: Sequence[int]) -> None:
        """Publish the depth of keyframes just placed, and the newest one's cloud, in the camera's frame."""
        solution, frame = self._slam.solution, self._frames.camera_frame
        known = [keyframe for keyframe in keyframes if solution.index(keyframe) is not None]
        if self.depth.get_subscription_count() or self.depth_info.get_subscription_count():
            for keyframe in known:
                kept = solution.keyframes[keyframe]
                head = messages.header(kept.stamp, frame)
                height, width = kept.depth.shape
                depth = kept.depth.astype(np.float32) * np.float32(solution.scale[solution.index(keyframe)])
                self.depth.publish(messages.depth_image(depth, head))
                self.depth_info.publish(messages.camera_info(kept.intrinsics, (width, height), head))
        if known and self.cloud.get_subscription_count():
            head = messages.header(solution.keyframes[known[-1]].stamp, frame)
            self.cloud.publish(messages.point_cloud(self._slam.keyframe_cloud(known[-1]), head))

    def refresh(self) -> None:
        """Publish path, markers, map and grid, each if it has changed and somebody subscribes."""
        solution, turn = self._slam.solution, self._frames.map_world
        if turn is None or (len(solution) == 0 and not self._published and not self.grid.published):
            return
        base_camera = self._frames.base_camera
        if base_camera is not None and self._is_new(self.path, solution):
            poses = turn @ solution.map_camera @ inverse(base_camera)
            self.path.publish(messages.path(solution.stamps, poses, self._config.map_frame))
        now = self._node.get_clock().now().nanoseconds
        head = messages.header(int(solution.stamps[-1]) if len(solution) else now, self._config.map_frame)
        if self._is_new(self.markers, solution):
            self.markers.publish(messages.pose_graph(solution, turn, head))
        if self._map_request is None and self._is_new(self.map, solution):
            # The worker owns the points; it also packs them, so that images do not wait for it.
            self._map_request = self._in_worker(
                lambda: messages.point_cloud(self._slam.map_cloud().transformed(turn), head))
        if self._map_request is not None and self._map_request.done():
            request, self._map_request = self._map_request, None
            if error := request.exception():  # out of memory, say; the node stays up
                self._node.get_logger().error(f"{self.map.topic_name}: the map cannot be published: {error!r}")
            else:
                self.map.publish(request.result())
        self.grid.refresh(turn, head)

    def republish(self) -> None:
        """Let everything be published anew, although the map has not changed."""
        self._published.clear()
        self.grid.republish()

    def _is_new(self, publisher: Any, solution: Solution) -> bool:
        """Return True if somebody subscribes who has not had this solution, and note that it is published now."""
        new = publisher.get_subscription_count() > 0 and self._published.get(publisher) != solution.version
        if new:
            self._published[publisher] = solution.version
        return bool(new)

    def _covariance(self, tracked: TrackedFrame, target_base: Array) -> Array:
        """Return the base's covariance in ROS's order, with the map's unit as uncertain as it is."""
        assert self._frames.base_camera is not None
        if tracked.covariance is None:
            return messages.UNKNOWN_VARIANCE * np.eye(6)
        move = messages.adjoint(self._frames.base_camera)
        covariance = messages.ros_covariance(move @ tracked.covariance @ move.T, target_base[:3, :3])
        position = target_base[:3, 3]
        covariance[:3, :3] += self._slam.solution.metric.sigma**2 * np.outer(position, position)
        return covariance
