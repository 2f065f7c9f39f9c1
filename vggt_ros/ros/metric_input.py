"""Sources of metric scale on the robot: another odometry, on a topic or in TF, a depth image, and an IMU."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from nav_msgs.msg import Odometry
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image, Imu
from tf2_ros import TransformException

from vggt_ros.config import Config
from vggt_ros.geometry.poses import inverse
from vggt_ros.ros.image_source import THROTTLE, ImageSource
from vggt_ros.ros.messages import nanoseconds, pose_matrix
from vggt_ros.ros.transforms import Frames
from vggt_ros.scale.depth_source import STAMP_TOLERANCE, rectified_depth
from vggt_ros.sequences.encodings import ImageError, decode_depth
from vggt_ros.slam import Slam
from vggt_ros.windows.solution import TrackedFrame

_PATIENCE = 1_000_000_000
"""How long TF may lag behind the images, nanoseconds, before a stamp is given up."""
_WAITING = 20
"""Depth images and keyframes that may wait for each other."""


class MetricInput:
    """Hands what is known in meters to the sources of the pipeline.

    Attributes:
        counts: messages of each source that were `taken` and `refused`.

    """

    def __init__(self, node: LifecycleNode, config: Config, slam: Slam, frames: Frames, images: ImageSource,
                 in_worker: Callable[[Callable[[], Any]], Any]) -> None:
        """Prepare; `start` subscribes.

        Args:
            node: whose topics `odometry`, `depth` and `imu` are.
            config: which sources there are.
            slam: takes what they know.
            frames: where the camera sits, and TF.
            images: whose images the depth is registered to.
            in_worker: runs a function on the worker's thread.

        """
        self._node, self._slam, self._frames, self._images = node, slam, frames, images
        self._in_worker = in_worker
        self._odometry, self._with_depth = config.odometry_source, config.scale.depth
        self._with_imu = config.scale.imu
        self._base_frame = config.tf.base_frame
        self._subscriptions: list[Any] = []
        self.clear()

    def clear(self) -> None:
        """Forget what belongs to the map before a reset."""
        self.counts: dict[str, int] = {}
        self._told: dict[str, float] = {}
        self._stamps: deque[int] = deque(maxlen=100)
        self._keyframes: deque[int] = deque(maxlen=_WAITING)
        self._depths: dict[int, Image] = {}
        self._begin: int | None = None
        self._is_leveled = not self._with_imu

    def start(self) -> None:
        """Subscribe to the sources that there are, best effort unless QoS override parameters say otherwise."""
        wanted: list[tuple[Any, str, Any, int]] = []
        if self._odometry == "topic":
            wanted.append((Odometry, "odometry", self.take_odometry, 50))
        if self._with_depth:
            wanted.append((Image, "depth", self.take_depth, 5))
        if self._with_imu:
            wanted.append((Imu, "imu", self.take_imu, 200))
        self._subscriptions = [self._node.create_subscription(
            message, topic, callback, QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT),
            qos_overriding_options=QoSOverridingOptions.with_default_policies())
            for message, topic, callback, depth in wanted]

    def stop(self) -> None:
        """Give the subscriptions back."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def note(self, tracked: TrackedFrame) -> None:
        """Note an image: odometry is looked up at its stamp, depth is wanted if it is a keyframe."""
        if (map_world := self._frames.map_world) is not None:
            self._slam.height.up = map_world[:3, :3].T @ np.array([0.0, 0.0, 1.0])
        if self._begin is None and tracked.keyframe is not None:
            self._begin = tracked.stamp
        if self._odometry == "tf":
            self._stamps.append(tracked.stamp)
        if self._with_depth and tracked.keyframe is not None:
            self._keyframes.append(tracked.stamp)
            for message in list(self._depths.values()):
                self._match(message)

    def tick(self) -> None:
        """Look up the robot's odometry in TF at the stamps of the images, as soon as it is there; level the map."""
        self._level()
        while self._stamps and self._frames.base_camera is not None:
            stamp = self._stamps[0]
            try:
                odom_base = self._frames.odom_base(stamp)
            except TransformException:
                if self._stamps[-1] - stamp < _PATIENCE:
                    return
                self._refuse("odometry", "TF has no odometry at the images' stamps")
                self._stamps.popleft()
                continue
            self._stamps.popleft()
            self._take("odometry")
            self._slam.odometry.add(stamp, odom_base @ self._frames.base_camera)

    def take_odometry(self, message: Odometry) -> None:
        """Take a pose of the base; one that is not finite, or of a frame that TF does not know, is refused."""
        child = message.child_frame_id.lstrip("/") or self._base_frame
        placed, turn = message.pose.pose.position, message.pose.pose.orientation
        values = np.array([placed.x, placed.y, placed.z, turn.x, turn.y, turn.z, turn.w])
        if not np.isfinite(values).all() or not values[3:].any():
            self._refuse("odometry", "a pose is not finite, or has no rotation")
            return
        try:
            child_camera = self._frames.camera_on(child)
        except TransformException:
            self._refuse("odometry", f"it is of {child}, which TF does not place on the robot")
            return
        if child_camera is not None:
            self._take("odometry")
            self._slam.odometry.add(nanoseconds(message.header.stamp), pose_matrix(placed, turn) @ child_camera)

    def take_depth(self, message: Image) -> None:
        """Keep a depth image until it is known whether its image is a keyframe."""
        self._depths[nanoseconds(message.header.stamp)] = message
        while len(self._depths) > _WAITING:
            del self._depths[next(iter(self._depths))]
        self._match(message)

    def take_imu(self, message: Imu) -> None:
        """Take a sample; one that is not finite, or of a frame that TF does not place on the robot, is refused."""
        turn, felt = message.angular_velocity, message.linear_acceleration
        values = np.array([turn.x, turn.y, turn.z, felt.x, felt.y, felt.z])
        if not np.isfinite(values).all() or message.linear_acceleration_covariance[0] == -1:
            self._refuse("imu", "a sample is not finite, or has no acceleration")
            return
        try:
            imu_camera = self._frames.camera_on(message.header.frame_id.lstrip("/") or self._base_frame)
        except TransformException:
            self._refuse("imu", f"it is of {message.header.frame_id}, which TF does not place on the robot")
            return
        if imu_camera is not None:
            self._slam.imu.camera_imu = inverse(imu_camera)
        self._take("imu")
        self._slam.imu.add(nanoseconds(message.header.stamp), values[:3], values[3:])

    def _level(self) -> None:
        """Turn the map by gravity at its first keyframe, once, before anything of it is published."""
        if self._is_leveled or self._begin is None or self._frames.base_camera is None:
            return
        up = self._slam.imu.up_direction(self._begin)
        if up is not None:
            self._frames.level(up)
            self._node.get_logger().info("the map is leveled by gravity")
        elif len(self._slam.solution):
            self._node.get_logger().warning("imu: the robot moved before the first keyframe, or no samples came; the "
                                            "base is taken as level")
        self._is_leveled = up is not None or len(self._slam.solution) > 0

    def _match(self, message: Image) -> None:
        """Hand a depth image over if it belongs to a keyframe; decoded here, rectified on the worker's thread."""
        stamp, rectify = nanoseconds(message.header.stamp), self._images.rectifier
        keyframe = next((other for other in self._keyframes if abs(other - stamp) <= STAMP_TOLERANCE), None)
        if keyframe is None or rectify is None:
            return
        self._keyframes.remove(keyframe)
        self._depths.pop(stamp, None)
        camera = rectify.camera
        try:
            depth = decode_depth(message.encoding, message.height, message.width, message.step,
                                 bool(message.is_bigendian), message.data)
        except ImageError as error:
            self._refuse("depth", str(error))
            return
        if abs(message.width * camera.height - message.height * camera.width) > 0.02 * message.width * camera.height:
            self._refuse("depth", f"{message.width}x{message.height} pixels are not registered to an image of "
                         f"{camera.width}x{camera.height}")
            return
        self._take("depth")
        self._in_worker(lambda: self._slam.depth.add(keyframe, rectified_depth(depth, rectify)))

    def _take(self, source: str) -> None:
        self.counts[f"{source} taken"] = self.counts.get(f"{source} taken", 0) + 1

    def _refuse(self, source: str, why: str) -> None:
        self.counts[f"{source} refused"] = self.counts.get(f"{source} refused", 0) + 1
        now = time.monotonic()
        if now - self._told.get(why, -THROTTLE) >= THROTTLE:  # rclpy's own throttle would let one reason hide another
            self._told[why] = now
            self._node.get_logger().warning(f"{source}: {why}")
