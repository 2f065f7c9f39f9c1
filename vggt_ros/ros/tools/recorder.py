"""A node that subscribes to the outputs of `vggt_slam` and records them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMessage
from numpy.typing import NDArray
from rclpy.context import Context
from rclpy.node import Node
from rclpy.time import Time
from sensor_msgs.msg import PointCloud2
from sensor_msgs_py import point_cloud2
from tf2_msgs.msg import TFMessage
from tf2_ros import Buffer, TransformListener

from vggt_ros.geometry.poses import Array
from vggt_ros.ros.conversions.messages import pose_matrix
from vggt_ros.ros.outputs.publishers import LATCHED
from vggt_ros.windows.point_cloud import PointCloud

NODE = "/vggt_slam"


@dataclass
class Recording:
    """The recorded outputs of the node.

    Attributes:
        stamps: stamps of the last path, nanoseconds (n,).
        map_camera: poses (n, 4, 4) of the last path, converted from the base to the optical frame of the camera.
        odometry: stamps of all odometry messages, nanoseconds.
        cloud: the map at the end, None if the node published none.
        status: keys and values of the last status.
        window_seconds: seconds that each window took, by window id, from the status messages.
        max_waiting: largest number of windows waiting for the reconstructor in any status.
        delay_after_bag: seconds from the end of the bag to the status with the last window; 0 if that was earlier.
        map_odom_arrivals: when DDS received each map -> odom, nanoseconds of the system clock.

    """

    stamps: NDArray[np.int64]
    map_camera: Array
    odometry: list[int]
    cloud: PointCloud | None
    status: dict[str, str]
    window_seconds: dict[int, float] = field(default_factory=dict)
    max_waiting: int = 0
    delay_after_bag: float = 0.0
    map_odom_arrivals: list[int] = field(default_factory=list)


class Recorder(Node):
    """Records the outputs of the node; the map only after `subscribe_map`, because it is large."""

    def __init__(self, context: Context | None = None) -> None:
        """Subscribe to path, odometry and status."""
        super().__init__("recorder", context=context)
        self.path: PathMessage | None = None
        self.odometry: list[int] = []
        self.status: dict[str, str] = {}
        self.reports = 0
        self.window_seconds: dict[int, float] = {}
        self.max_waiting = 0
        self.last_window = 0.0
        self.map: PointCloud2 | None = None
        self.buffer = Buffer(node=self)
        self._listener = TransformListener(self.buffer, self)
        self.map_odom_arrivals: list[int] = []
        on_transforms: Any = self._on_transforms  # rclpy's types do not know of its second argument
        self.create_subscription(TFMessage, "/tf", on_transforms, 100)
        self.create_subscription(PathMessage, f"{NODE}/path", lambda message: setattr(self, "path", message), LATCHED)
        self.create_subscription(Odometry, f"{NODE}/odom", self._on_odometry, 100)
        self.create_subscription(DiagnosticStatus, f"{NODE}/status", self._on_status, LATCHED)

    def _on_transforms(self, message: TFMessage, details: Mapping[str, Any]) -> None:
        """Note when map -> odom was received; `details` are the message info of rclpy."""
        if any((each.header.frame_id, each.child_frame_id) == ("map", "odom") for each in message.transforms):
            self.map_odom_arrivals.append(int(details.get("received_timestamp") or time.time_ns()))

    def _on_odometry(self, message: Odometry) -> None:
        self.odometry.append(Time.from_msg(message.header.stamp).nanoseconds)

    def _on_status(self, message: DiagnosticStatus) -> None:
        self.status = {item.key: item.value for item in message.values}
        self.reports += 1
        self.max_waiting = max(self.max_waiting, int(self.status.get("windows waiting", 0)))
        if "last window s" in self.status:
            if int(self.status["last window"]) not in self.window_seconds:
                self.last_window = time.monotonic()
            self.window_seconds[int(self.status["last window"])] = float(self.status["last window s"])

    def subscribe_map(self) -> None:
        """Subscribe to the map."""
        self.create_subscription(PointCloud2, f"{NODE}/cloud_map", lambda message: setattr(self, "map", message),
                                 LATCHED)

    def idle(self) -> bool:
        """Return True if by the last status no window is being solved or waiting."""
        return self.status.get("worker") == "idle" and self.status.get("windows waiting") == "0"

    def camera_path(self, base_frame: str, camera_frame: str) -> tuple[NDArray[np.int64], Array]:
        """Return stamps (n,) and camera poses (n, 4, 4) for the last path, which has poses of the base.

        Raises:
            tf2_ros.TransformException: TF has no transform between base and camera.

        """
        if self.path is None:
            return np.zeros(0, np.int64), np.zeros((0, 4, 4))
        stamps = [Time.from_msg(item.header.stamp).nanoseconds for item in self.path.poses]
        transform = self.buffer.lookup_transform(base_frame, camera_frame, Time()).transform
        base_camera = pose_matrix(transform.translation, transform.rotation)
        poses = [pose_matrix(item.pose.position, item.pose.orientation) @ base_camera for item in self.path.poses]
        return np.array(stamps, np.int64), np.array(poses).reshape(-1, 4, 4)


def read_cloud(message: PointCloud2) -> PointCloud:
    """Return the points of a cloud message that `messages.point_cloud` made."""
    points = point_cloud2.read_points(message)
    packed = np.ascontiguousarray(points["rgb"]).view(np.uint32)
    colors = np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=1).astype(np.uint8)
    return PointCloud(np.stack([points[axis] for axis in "xyz"], axis=1), colors,
                      np.ascontiguousarray(points["confidence"]),
                      np.stack([points[f"normal_{axis}"] for axis in "xyz"], axis=1))
