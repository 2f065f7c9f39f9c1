"""Input of the sources of metric scale: another odometry, on a topic or in TF, depth images, and an IMU."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from nav_msgs.msg import Odometry
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image, Imu
from tf2_ros import TransformException

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Rectifier
from vggt_ros.geometry.poses import inverse
from vggt_ros.ros.common.log import Throttle
from vggt_ros.ros.conversions.messages import is_valid_stamp, nanoseconds, pose_matrix
from vggt_ros.ros.inputs.image_source import ImageSource
from vggt_ros.ros.inputs.source_health import SourceHealth
from vggt_ros.ros.inputs.subscriptions import AdaptiveSubscription
from vggt_ros.ros.tf.transforms import Transforms
from vggt_ros.scale.depth_source import STAMP_TOLERANCE, rectified_depth
from vggt_ros.sequences.encodings import ImageError, decode_depth
from vggt_ros.slam import Slam
from vggt_ros.windows.frame import TrackedFrame
from vggt_ros.windows.solution import OBSERVED

_MAX_TF_DELAY = 1_000_000_000
"""Longest delay of TF relative to the images, nanoseconds; older stamps are dropped."""
_MAX_PENDING = 20
"""Depth images, and keyframes, that are kept until the matching other one arrives."""


_UP = np.array([0.0, 0.0, 1.0])
_MAX_VALUE = 1e7
"""Largest value of a pose or an IMU sample, in its units; the square of a larger one may overflow."""
_GRAVITY, _GRAVITY_RANGE, _GRAVITY_RATE = 9.81, (6.0, 15.0), 0.005
"""Length of the accelerations in the mean, m/s^2, its range on a robot, and the weight of a sample in the mean."""
_MAX_DEPTH_PIXELS, _MAX_DEPTH_BYTES = 1 << 24, 8
"""Most pixels of a depth image, and most bytes of a pixel with the padding of its row."""


class MetricInput:
    """Passes metric measurements to the scale sources of `Slam`.

    Attributes:
        health: what is wrong with the sources, and the numbers of their messages.

    """

    def __init__(self, node: LifecycleNode, config: Config, slam: Slam, transforms: Transforms, images: ImageSource,
                 run_in_worker: Callable[[Callable[[], Any]], Any]) -> None:
        """Prepare; `start` subscribes.

        Args:
            node: the node, with its topics `odometry`, `depth` and `imu`.
            config: selects the sources.
            slam: has the scale sources.
            transforms: the mounting of the camera, and TF.
            images: source of the images that the depth images are registered to.
            run_in_worker: runs a function on the worker thread.

        """
        self._node, self._slam, self._transforms, self._images = node, slam, transforms, images
        self._run_in_worker = run_in_worker
        self._odometry, self._with_depth = config.odometry_source, config.scale.depth
        self._with_imu = config.scale.imu
        self._base_frame = config.tf.base_frame
        self._require = config.scale.require
        self._is_configured = (self._odometry != "none" or self._with_depth or self._with_imu
                               or config.scale.camera_height > 0)
        self._subscriptions: list[AdaptiveSubscription] = []
        self.health = SourceHealth(slam)
        self._throttle = Throttle()
        self._mean_acceleration = _GRAVITY
        self.clear()

    def clear(self) -> None:
        """Clear the state that belongs to the map before a reset."""
        self.health.clear()
        self.interrupt()
        self._first_keyframe_stamp: int | None = None
        self._is_leveled = not self._with_imu

    def interrupt(self) -> None:
        """Forget what waits for images or measurements of the same time: later images do not continue those before."""
        self._stamps: deque[int] = deque(maxlen=100)
        self._keyframes: deque[tuple[int, Rectifier]] = deque(maxlen=_MAX_PENDING)
        self._depths: dict[int, Image] = {}

    def start(self) -> None:
        """Subscribe to the configured sources, with the QoS that the publishers offer."""
        topics: list[tuple[Any, str, Any, int]] = []
        if self._odometry == "topic":
            topics.append((Odometry, "odometry", self.on_odometry, 50))
        if self._with_depth:
            topics.append((Image, "depth", self.on_depth, 5))
        if self._with_imu:
            topics.append((Imu, "imu", self.on_imu, 200))
        self._subscriptions = [AdaptiveSubscription(self._node, *topic) for topic in topics]
        names = [subscription.name for subscription in self._subscriptions]
        self.health.start([*names, *(["odometry"] if self._odometry == "tf" else [])])

    def stop(self) -> None:
        """Destroy the subscriptions."""
        for subscription in self._subscriptions:
            subscription.close()
        self._subscriptions = []
        self.health.start([])

    @property
    def withholds(self) -> bool:
        """Whether `scale.require` withholds `map` -> `odom`, grid and map: the scale is not observed."""
        return self._require and self._slam.solution.metric.state != OBSERVED

    def problems(self) -> list[str]:
        """Return what is wrong with the sources, and what is withheld, each in one line with the cure."""
        found = self.health.problems(self._subscriptions)
        if self.withholds:
            cure = "" if self._is_configured else "; no source of scale is configured"
            found.append(f"map -> odom, grid and map are withheld (scale.require): the scale is "
                         f"{self._slam.solution.metric.state}, not {OBSERVED}{cure}")
        return found

    def adapt_qos(self, periodic: bool) -> None:
        """Subscribe anew where the publishers offer another QoS than before; see `AdaptiveSubscription.adapt`."""
        for subscription in self._subscriptions:
            subscription.adapt(periodic)

    def add_frame(self, tracked: TrackedFrame) -> None:
        """Register a tracked image: odometry is looked up at its stamp, depth is used if it is a keyframe."""
        self.health.take_image(tracked.stamp)
        if (map_world := self._transforms.map_world) is not None:
            self._slam.height.up = map_world[:3, :3].T @ _UP
        mounting = self._transforms.mounting
        if mounting.base_camera is not None:
            is_moving = mounting.is_moving or mounting.is_provisional
            self._slam.height.up_camera = None if is_moving else mounting.base_camera[:3, :3].T @ _UP
        if self._first_keyframe_stamp is None and tracked.keyframe is not None:
            self._first_keyframe_stamp = tracked.stamp
        if self._odometry == "tf":
            self._stamps.append(tracked.stamp)
        if self._with_depth and tracked.keyframe is not None and self._images.rectifier is not None:
            self._keyframes.append((tracked.stamp, self._images.rectifier))
            for message in list(self._depths.values()):
                self._match_depth(message)

    def poll_tf(self) -> None:
        """Look up the odometry of the robot in TF at the stamps of the images, once available; level the map."""
        self._level_map()
        while self._stamps:
            stamp = self._stamps[0]
            base_camera = self._transforms.mounting.at(stamp)
            if base_camera is None or self._transforms.mounting.is_provisional:
                return
            try:
                odom_base = self._transforms.odom_base(stamp)
            except TransformException:
                if self._stamps[-1] - stamp < _MAX_TF_DELAY:
                    return
                self._count_refused("odometry", "late", "TF has no odometry at the images' stamps")
                self._stamps.popleft()
                continue
            self._stamps.popleft()
            self.health.take("odometry", stamp)
            self.health.count_taken("odometry")
            self._slam.odometry.add(stamp, odom_base @ base_camera)

    def on_odometry(self, message: Odometry) -> None:
        """Add a pose of odometry; it is refused if it is not finite, or if TF does not know its child frame."""
        self.health.take("odometry", nanoseconds(message.header.stamp))
        child = message.child_frame_id.lstrip("/") or self._base_frame
        position, orientation = message.pose.pose.position, message.pose.pose.orientation
        values = np.array([position.x, position.y, position.z,
                           orientation.x, orientation.y, orientation.z, orientation.w])
        stamp = nanoseconds(message.header.stamp)
        if not (np.abs(values) < _MAX_VALUE).all() or not 0.5 < np.linalg.norm(values[3:]) < 2 \
                or not is_valid_stamp(stamp):
            self._count_refused("odometry", "invalid", "a pose is not finite or out of range, has no rotation, or its "
                                "stamp is invalid")
            return
        try:
            child_camera = self._transforms.camera_in(child, nanoseconds(message.header.stamp))
        except TransformException:
            self._count_refused("odometry", "frame", f"its child frame {child} is not connected to the camera in TF")
            return
        if child_camera is not None:
            self.health.count_taken("odometry")
            self._slam.odometry.add(stamp, pose_matrix(position, orientation) @ child_camera)

    def on_depth(self, message: Image) -> None:
        """Keep a depth image until it is known whether its image is a keyframe."""
        self.health.take("depth", nanoseconds(message.header.stamp))
        if not 0 < message.width * message.height <= _MAX_DEPTH_PIXELS \
                or len(message.data) > _MAX_DEPTH_BYTES * message.width * message.height:
            self._count_refused("depth", "size",
                                f"{message.width}x{message.height} pixels in {len(message.data)} bytes")
            return
        self._depths[nanoseconds(message.header.stamp)] = message
        while len(self._depths) > _MAX_PENDING:
            del self._depths[next(iter(self._depths))]
        self._match_depth(message)

    def on_imu(self, message: Imu) -> None:
        """Add an IMU sample; it is refused if it is not finite, or if TF does not know its frame."""
        self.health.take("imu", nanoseconds(message.header.stamp))
        rate, acceleration = message.angular_velocity, message.linear_acceleration
        values = np.array([rate.x, rate.y, rate.z, acceleration.x, acceleration.y, acceleration.z])
        stamp = nanoseconds(message.header.stamp)
        if not (np.abs(values) < _MAX_VALUE).all() or message.linear_acceleration_covariance[0] == -1 \
                or not is_valid_stamp(stamp):
            self._count_refused("imu", "invalid", "a sample is not finite or out of range, has no acceleration, or its "
                                "stamp is invalid")
            return
        self._mean_acceleration += _GRAVITY_RATE * (float(np.linalg.norm(values[3:])) - self._mean_acceleration)
        if not _GRAVITY_RANGE[0] < self._mean_acceleration < _GRAVITY_RANGE[1]:
            self._count_refused("imu", "gravity", f"its accelerations are {self._mean_acceleration:.2g} in the mean, "
                                f"where gravity makes {_GRAVITY} m/s^2: are they in g, or without gravity?")
            return
        try:
            imu_camera = self._transforms.camera_in(message.header.frame_id.lstrip("/") or self._base_frame)
        except TransformException as error:
            self._count_refused("imu", "frame", f"its frame {message.header.frame_id[:100]} has no fixed pose on the "
                                f"camera in TF ({str(error)[:200]})")
            return
        if imu_camera is not None:
            self._slam.imu.camera_imu = inverse(imu_camera)
        self.health.count_taken("imu")
        self._slam.imu.add(stamp, values[:3], values[3:])

    def _level_map(self) -> None:
        """Level the map by gravity at its first keyframe, once, before any part of the map is published."""
        if self._is_leveled or self._first_keyframe_stamp is None or not self._transforms.can_level:
            return
        up = self._slam.imu.up_direction(self._first_keyframe_stamp)
        if up is not None:
            self._transforms.level(up)
            self._node.get_logger().info("the map is leveled by gravity")
        elif len(self._slam.solution):
            self._node.get_logger().warning("imu: no gravity direction, because the robot moved before the first "
                                            "keyframe, or no samples arrived; the base is assumed to be level")
        self._is_leveled = up is not None or len(self._slam.solution) > 0

    def _match_depth(self, message: Image) -> None:
        """Add a depth image if it belongs to a keyframe; decoded here, rectified on the worker thread."""
        stamp = nanoseconds(message.header.stamp)
        match = next((known for known in self._keyframes if abs(known[0] - stamp) <= STAMP_TOLERANCE), None)
        if match is None:
            return
        self._keyframes.remove(match)
        self._depths.pop(stamp, None)
        keyframe, rectify = match
        camera = rectify.camera
        try:
            depth = decode_depth(message.encoding, message.height, message.width, message.step,
                                 bool(message.is_bigendian), message.data)
        except ImageError as error:
            self._count_refused("depth", "encoding", str(error))
            return
        if abs(message.width * camera.height - message.height * camera.width) > 0.02 * message.width * camera.height:
            self._count_refused("depth", "aspect", f"{message.width}x{message.height} pixels cannot be registered to "
                                f"an image of {camera.width}x{camera.height}")
            return
        self.health.count_taken("depth")
        self._run_in_worker(lambda: self._slam.depth.add(keyframe, rectified_depth(depth, rectify)))

    def _count_refused(self, source: str, kind: str, reason: str) -> None:
        """Count a message that is refused; `kind` is a name for throttling the log, `reason` the whole text."""
        self.health.count_refused(source, reason)
        if self._throttle(f"{source} {kind}"):
            topic = next((f" of {one.topic}" for one in self._subscriptions if one.name == source), "")
            self._node.get_logger().warning(f"{source}{topic}: {reason[:300]}")
