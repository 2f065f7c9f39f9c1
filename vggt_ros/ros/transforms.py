"""TF frames after REP-103 and REP-105: the pose of the camera on the robot, and the broadcast of transforms.

The world of the core is the optical frame of the first camera. `map` is the frame of the base at the start,
`map_world = base_camera`: the base starts at its origin, and z is up if the base is level. With an IMU the map is
leveled by gravity instead.
"""

from __future__ import annotations

import time
from collections import deque

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.time import Time
from tf2_ros import Buffer, StaticTransformBroadcaster, TransformBroadcaster, TransformException, TransformListener

from vggt_ros.config import TfConfig
from vggt_ros.geometry.poses import BODY_OPTICAL, Array, inverse, pose, rotation_between_directions
from vggt_ros.ros.messages import pose_matrix, transform
from vggt_ros.ros.tf_listener import BoundedTransformListener
from vggt_ros.windows.solution import TrackedFrame

MAX_CLOCK_DIFFERENCE = 10_000_000_000
"""Stamps that differ more from the clock of the node, nanoseconds, are from another clock: a bag without /clock."""


def frame_name(camera_frame: str, base_frame: str) -> str:
    """Return the TF frame of the camera: from the header, without the slash of ROS 1; if empty, from the base frame."""
    return camera_frame.lstrip("/") or f"{base_frame}_camera"


class Transforms:
    """The pose of the camera on the robot, and the transforms that the node broadcasts.

    Attributes:
        base_camera: 4x4, None until it is known.
        loaded_world: 4x4, `map_world` of a loaded map; None if the map was not loaded.
        assumption: the assumption on the pose of the camera, with the cure; empty if TF has it.
        clock_mismatch: the difference of image stamps and node clock, with the cure; empty if it is small.

    """

    def __init__(self, node: Node, config: TfConfig, buffer: Buffer, keep_listening: bool = False) -> None:
        """Subscribe to TF and create the broadcasters; `close` destroys them, but not the buffer.

        With `keep_listening` the subscription stays, for odometry of the robot, once `base_camera` is known.
        """
        self._node = node
        self._config = config
        self._buffer = buffer
        self._keep_listening = keep_listening or config.mode == "map_to_odom"
        self._listener: TransformListener | None = BoundedTransformListener(buffer, node)
        self._broadcaster = TransformBroadcaster(node)
        self._static = StaticTransformBroadcaster(node)
        self._first_lookup: float | None = None
        self._camera_in_frame: dict[str, Array] = {}
        self._leveled_map_world: Array | None = None
        self.base_camera: Array | None = None
        self.camera_frame = self.assumption = self.clock_mismatch = ""
        self.clear()

    @property
    def odom_frame(self) -> str:
        """TF frame of our odometry; with another name if the robot has its own odometry."""
        name = self._config.odom_frame
        return f"{name}_visual" if self._config.mode == "map_to_odom" else name

    @property
    def map_world(self) -> Array | None:
        """Pose of the world of the core in `map`, 4x4; None until it is known."""
        initial = self.base_camera if self._leveled_map_world is None else self._leveled_map_world
        return initial if self.loaded_world is None else self.loaded_world

    def level(self, up: Array) -> None:
        """Level `map` by gravity: `up` is the unit vector (3,) opposite to gravity in the frame of the first camera."""
        assert self.base_camera is not None
        leveling = rotation_between_directions(self.base_camera[:3, :3] @ up, np.array([0.0, 0.0, 1.0]))
        self._leveled_map_world = pose(leveling, np.zeros(3)) @ self.base_camera

    def clear(self) -> None:
        """Clear poses and map, but not the pose of the camera on the robot."""
        self.loaded_world: Array | None = None
        self._leveled_map_world = None
        self._map_odom: Array | None = None
        self._stamp = self._last_sent = 0
        self._pending: deque[tuple[int, Array]] = deque(maxlen=300)

    def close(self) -> None:
        """Destroy publishers and subscriptions."""
        self._stop_listening()
        for publisher in (self._broadcaster.pub_tf, self._static.pub_tf):
            self._node.destroy_publisher(publisher)

    def locate_camera(self, camera_frame: str) -> None:
        """Look up `base_camera`; after `tf.base_timeout` assume a level camera whose body frame is the base."""
        if self.base_camera is not None:
            return
        self.camera_frame = frame_name(camera_frame, self._config.base_frame)
        if self._first_lookup is None:
            self._first_lookup = time.monotonic()
            if not camera_frame:
                self._node.get_logger().warning(
                    f"the images' header.frame_id is empty; {self.camera_frame} is used as their frame")
        try:
            self.base_camera = self._lookup(self._config.base_frame, self.camera_frame, Time())
        except TransformException as error:
            if time.monotonic() - self._first_lookup < self._config.base_timeout:
                return
            self._assume_level(error)
        if not self._keep_listening:
            self._stop_listening()  # avoids handling every transform of the robot in Python

    def map_base(self, world_camera: Array) -> Array:
        """Return the pose 4x4 of the base in `map` (or `odom`) for a pose of the camera in the world of the core."""
        assert self.base_camera is not None
        assert self.map_world is not None
        return self.map_world @ world_camera @ inverse(self.base_camera)

    def odom_base(self, stamp: int) -> Array:
        """Return the pose 4x4 of the base in `tf.odom_frame` at `stamp`, ns, from the odometry of the robot.

        Raises:
            TransformException: TF does not have it.

        """
        return self._lookup(self._config.odom_frame, self._config.base_frame, Time(nanoseconds=stamp))

    def camera_in(self, frame: str) -> Array | None:
        """Return the pose 4x4 of the camera in a frame fixed to the robot; None if `base_camera` is not known yet.

        Raises:
            TransformException: TF does not have it.

        """
        if self.base_camera is None or frame == self._config.base_frame:
            return self.base_camera
        if frame not in self._camera_in_frame:
            self._camera_in_frame[frame] = self._lookup(frame, self.camera_frame, Time())
        return self._camera_in_frame[frame]

    def broadcast(self, tracked: TrackedFrame) -> None:
        """Broadcast the transforms of an image, at its stamp, and store the correction for `broadcast_map_odom`."""
        if self.base_camera is None or tracked.map_camera is None or tracked.odom_camera is None:
            return
        self._stamp = tracked.stamp
        names = self._config
        if names.mode == "map_odom_base":
            self._map_odom = self.map_base(tracked.map_odom)
            self._send(self.map_base(tracked.odom_camera), tracked.stamp, names.odom_frame, names.base_frame)
        elif names.mode == "map_to_base":
            self._send(self.map_base(tracked.map_camera), tracked.stamp, names.map_frame, names.base_frame)
        elif names.mode == "map_to_odom":
            self._pending.append((tracked.stamp, self.map_base(tracked.map_camera)))

    def broadcast_map_odom(self) -> None:
        """Broadcast map -> odom, stamped ahead by `tf.transform_tolerance`; called by a timer."""
        self._update_map_odom()
        if self._map_odom is None:
            return
        now = self._node.get_clock().now().nanoseconds
        when = now if abs(now - self._stamp) < MAX_CLOCK_DIFFERENCE else self._stamp
        if when == self._last_sent:
            return
        self.clock_mismatch = "" if when == now else (
            f"the images' stamps are {abs(now - self._stamp) / 1e9:.0f} s away from this node's clock: for a bag, "
            "play it with --clock and set use_sim_time; between machines, synchronize the clocks")
        if self.clock_mismatch and not self._last_sent:
            self._node.get_logger().warning(f"{self.clock_mismatch}; until then map -> odom has the images' stamps")
        self._last_sent = when
        self._send(self._map_odom, when + round(self._config.transform_tolerance * 1e9), self._config.map_frame,
                   self._config.odom_frame)

    def _update_map_odom(self) -> None:
        """In mode `map_to_odom`, compute map -> odom from the newest pose with odometry of the robot at its stamp."""
        for index in range(len(self._pending) - 1, -1, -1):
            stamp, map_base = self._pending[index]
            try:
                odom_base = self.odom_base(stamp)
            except TransformException as error:
                if index == 0:
                    self._node.get_logger().warning(f"TF has no odometry at the images' stamps: {error}",
                                                    throttle_duration_sec=5.0, skip_first=True)
                continue
            self._map_odom = map_base @ inverse(odom_base)
            for _ in range(index + 1):
                self._pending.popleft()
            return

    def _assume_level(self, error: Exception) -> None:
        base = self._config.base_frame
        self.base_camera = BODY_OPTICAL
        self.assumption = (f"no transform {base} <- {self.camera_frame} within {self._config.base_timeout:g} s: the "
                           f"camera is assumed to be level, with {base} as its body frame; publish the transform (by a "
                           "URDF or static_transform_publisher) before the node starts, or set tf.base_frame")
        self._node.get_logger().warning(f"{self.assumption} ({error})")
        if self._config.mode != "none" and self.camera_frame != base:
            self._static.sendTransform(transform(BODY_OPTICAL, 0, base, self.camera_frame))

    def _lookup(self, target: str, source: str, when: Time) -> Array:
        found: TransformStamped = self._buffer.lookup_transform(target, source, when)
        return pose_matrix(found.transform.translation, found.transform.rotation)

    def _send(self, target_source: Array, stamp: int, target: str, source: str) -> None:
        self._broadcaster.sendTransform(transform(target_source, stamp, target, source))

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.unregister()
            self._listener = None
