"""Shows the topics of a running node in Rerun: `ros2 run vggt_ros view`, in a window, on a web page, or in a file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import OccupancyGrid, Odometry, Path
from numpy.typing import NDArray
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from tf2_ros import Buffer, TransformException, TransformListener
from visualization_msgs.msg import Marker, MarkerArray

from vggt_ros.geometry.camera import CameraError
from vggt_ros.geometry.poses import Array
from vggt_ros.mapping.grid.occupancy_grid import Grid
from vggt_ros.ros.common.spinning import spin, without_ros_arguments
from vggt_ros.ros.conversions.images import ImageError, decode
from vggt_ros.ros.conversions.messages import UNKNOWN_VARIANCE, nanoseconds, pose_matrix
from vggt_ros.ros.outputs.publishers import LATCHED
from vggt_ros.ros.tools.map_receiver import MapReceiver
from vggt_ros.ros.tools.recorder import NODE
from vggt_ros.sequences.intake import Intake
from vggt_ros.view.opening import ViewError, add_view_arguments, open_view, web_address

if TYPE_CHECKING:
    from vggt_ros.view.scene import Scene

_IMAGE_PERIOD = 100_000_000
"""Shortest time between two images that are shown, by their stamps, nanoseconds."""
_SILENCE = 5.0
"""Seconds after which a node that is not there is named."""
_LEVELS = {DiagnosticStatus.OK: "INFO", DiagnosticStatus.WARN: "WARN"}
_NUMBERS = {"keyframes placed": "keyframes", "latency busy median ms": "latency ms", "last window s": "window s"}
"""Keys of the status whose values are plotted, and the names of the plots."""


class ViewNode(Node):
    """Subscribes to a node's outputs and to its images, and draws them in a scene."""

    def __init__(self, scene: Scene, node: str = NODE, context: Context | None = None) -> None:
        """Show the node of this name in `scene`."""
        super().__init__("view", context=context)
        self._scene, self._map = scene, MapReceiver()
        self._buffer = Buffer(node=self)
        self._listener = TransformListener(self._buffer, self)
        self._base_frame = self._image_topic = ""
        self._intake = Intake()
        self._info: CameraInfo | None = None
        self._image_size: tuple[int, int] | None = None
        self._image_stamp = 0
        self._map_base: Array | None = None  # poses (n, 4, 4) of the last path
        self._colors: NDArray[np.uint8] = np.zeros((0, 3), np.uint8)
        topics: tuple[tuple[Any, str, Callable[[Any], None], Any], ...] = (
            (DiagnosticStatus, "status", self._on_status, LATCHED), (Odometry, "odom", self._on_odometry, 20),
            (PoseWithCovarianceStamped, "pose", self._on_pose, 20), (Path, "path", self._on_path, LATCHED),
            (MarkerArray, "markers", self._on_markers, LATCHED),
            (PointCloud2, "cloud_map_updates", self._on_update, 50), (OccupancyGrid, "map", self._on_grid, LATCHED),
            (Image, "depth/image", self._on_depth, 5), (CameraInfo, "depth/camera_info", self._on_info, 5))
        for kind, name, callback, qos in topics:
            self.create_subscription(kind, f"{node.rstrip('/')}/{name}", callback, qos)
        self._status_topic = self.resolve_topic_name(f"{node.rstrip('/')}/status")
        self.create_timer(_SILENCE, self._say_if_nobody_sends)

    def _say_if_nobody_sends(self) -> None:
        """Name the nodes that there are if none has the name that is shown."""
        if self.count_publishers(self._status_topic):
            return
        nodes = [name.removesuffix("/status") for name, kinds in self.get_topic_names_and_types()
                 if name.endswith("/status") and name != self._status_topic and self.count_publishers(name)
                 and "diagnostic_msgs/msg/DiagnosticStatus" in kinds]
        self.get_logger().warning(
            f"no node publishes {self._status_topic}: " + (f"--node shows {' or '.join(nodes)}" if nodes else
            "start it, with the same ROS_DOMAIN_ID, or give its name by --node"), throttle_duration_sec=30.0)

    def close(self) -> None:
        """Write everything that is still buffered."""
        self._scene.close()

    # Camera and images.

    def _on_odometry(self, message: Odometry) -> None:
        """Date what follows; hide a camera whose pose is unknown."""
        self._base_frame = message.child_frame_id
        self._scene.time(nanoseconds(message.header.stamp))
        if message.pose.covariance[0] >= UNKNOWN_VARIANCE:
            self._scene.camera(None, np.eye(3), (1, 1))

    def _on_pose(self, message: PoseWithCovarianceStamped) -> None:
        base_camera = self._base_camera()
        if base_camera is None or self._info is None:
            return
        map_base = pose_matrix(message.pose.pose.position, message.pose.pose.orientation)
        info, intrinsics = self._info, np.array(self._info.k).reshape(3, 3)
        width, height = self._image_size or (info.width, info.height)
        scaled = np.diag([width / info.width, height / info.height, 1.0]) @ intrinsics
        self._scene.camera(map_base @ base_camera, scaled, (width, height))

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    def _on_image(self, message: Image | CompressedImage) -> None:
        stamp = nanoseconds(message.header.stamp)
        if 0 <= stamp - self._image_stamp < _IMAGE_PERIOD:
            return
        self._image_stamp = stamp
        if isinstance(message, CompressedImage):
            self._scene.image(bytes(message.data))
            return
        try:
            image = decode(message, self._intake)
        except (ImageError, CameraError) as error:
            self._scene.message(f"{self._image_topic}: {error}", "WARN")
            return
        self._image_size = image.shape[1], image.shape[0]
        self._scene.image(image)

    def _base_camera(self) -> Array | None:
        """Return the pose of the camera on the robot from TF; None, with a message, if it is not known."""
        if not self._base_frame or self._info is None:
            return None
        frame = self._info.header.frame_id
        try:
            transform = self._buffer.lookup_transform(self._base_frame, frame, Time()).transform
        except TransformException as error:
            self.get_logger().warning(f"no camera and keyframes are shown: {error}", throttle_duration_sec=10.0)
            return None
        return pose_matrix(transform.translation, transform.rotation)

    # The map.

    def _on_path(self, message: Path) -> None:
        self._map_base = np.array([pose_matrix(item.pose.position, item.pose.orientation)
                                   for item in message.poses]).reshape(-1, 4, 4)
        self._draw_keyframes()

    def _on_markers(self, message: MarkerArray) -> None:
        markers = {marker.ns: marker for marker in message.markers if marker.action == Marker.ADD}
        colors = np.array([(color.r, color.g, color.b) for color in markers["keyframes"].colors]).reshape(-1, 3)
        self._colors = np.rint(255 * colors).astype(np.uint8)
        points = {name: np.array([(point.x, point.y, point.z) for point in marker.points]).reshape(-1, 3)
                  for name, marker in markers.items()}
        self._scene.graph(points["windows"], {name: ends.reshape(-1, 2, 3) for name, ends in points.items()
                                              if name not in ("windows", "keyframes")})
        self._draw_keyframes()

    def _draw_keyframes(self) -> None:
        """Draw the keyframes of the last path, once their colors have come, too."""
        base_camera = self._base_camera()
        if self._map_base is not None and len(self._map_base) == len(self._colors) and base_camera is not None:
            self._scene.keyframes(self._map_base @ base_camera, self._colors)

    def _on_update(self, message: PointCloud2) -> None:
        self._scene.points(self._map.receive(message))

    def _on_depth(self, message: Image) -> None:
        self._scene.depth(np.frombuffer(message.data, np.float32).reshape(message.height, message.width))

    def _on_grid(self, message: OccupancyGrid) -> None:
        cells = np.array(message.data, np.int8).reshape(message.info.height, message.info.width)
        origin = message.info.origin.position
        self._scene.grid(Grid(cells, np.array([origin.x, origin.y]), message.info.resolution))

    # The state.

    def _on_status(self, message: DiagnosticStatus) -> None:
        values = {item.key: item.value for item in message.values}
        self._scene.message(f"{values.get('state', '')}: {message.message}", _LEVELS.get(message.level, "ERROR"))
        for key, name in _NUMBERS.items():
            if key in values:
                self._scene.number(name, float(values[key]))
        topic = values.get("image topic", "")
        if topic and topic != self._image_topic:
            self._image_topic = topic
            kind = CompressedImage if topic.endswith("/compressed") else Image
            self.create_subscription(kind, topic, self._on_image,
                                     QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
            self.get_logger().info(f"images from {topic}")


def main(args: list[str] | None = None) -> int:
    """Show a node until interrupted."""
    parser = argparse.ArgumentParser(prog="view", description="Shows a running vggt_slam in Rerun: in a window, unless "
                                     "--web or --rrd is given.")
    parser.add_argument("--node", default=NODE, metavar="NAME", help=f"name of the node, with its namespace ({NODE})")
    add_view_arguments(parser, native=False)
    options = parser.parse_args(without_ros_arguments(parser.prog, sys.argv)[1:] if args is None else args)
    try:
        scene = open_view(options.web, options.rrd)
    except ViewError as error:
        print(f"view: {error}", file=sys.stderr)
        return 1
    if options.web is not None:
        print(f"the map is shown at {web_address(options.web)}", flush=True)
    return spin("view", lambda: ViewNode(scene, options.node))


if __name__ == "__main__":
    sys.exit(main())
