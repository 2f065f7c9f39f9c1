"""Frames after REP-103 and REP-105: where the camera sits on the robot, and who broadcasts which transform.

The core's world is the first camera's optical frame. `map` is that world seen from the base at the start,
`map_world = base_camera`: `base_link` begins at its origin and, the base being level, z is up. With an IMU, gravity
says what is level.
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
from vggt_ros.geometry.poses import BODY_OPTICAL, Array, inverse, pose, so3_exp
from vggt_ros.ros.messages import pose_matrix, transform
from vggt_ros.windows.solution import TrackedFrame

SAME_CLOCK = 10_000_000_000
"""Stamps farther than this from the node's clock, nanoseconds, come from another clock: a bag played without it."""


def frame_name(camera_frame: str, base_frame: str) -> str:
    """Return the name of the camera's frame: its header's without ROS 1's slash, or one made from the base's."""
    return camera_frame.lstrip("/") or f"{base_frame}_camera"


class Frames:
    """The camera's place on the robot, and the transforms that we publish.

    Attributes:
        base_camera: 4x4, None until it is known.
        loaded_world: 4x4, the core's world in `map` of a map that was loaded; None if the map began here.
        assumed: what is taken for granted of where the camera sits, with the cure; empty if TF knows.
        apart: how far the images' stamps are from the node's clock, with the cure; empty if they are near.

    """

    def __init__(self, node: Node, config: TfConfig, buffer: Buffer, follow: bool = False) -> None:
        """Listen to TF and create the broadcasters; `close` gives them back. The buffer is the node's for good.

        `follow`: listen to the robot's odometry for good, and not only for where the camera sits.
        """
        self._node = node
        self._config = config
        self._buffer = buffer
        self._follow = follow or config.mode == "map_to_odom"
        self._listener: TransformListener | None = TransformListener(buffer, node)
        self._broadcaster = TransformBroadcaster(node)
        self._static = StaticTransformBroadcaster(node)
        self._asked: float | None = None
        self._fixed: dict[str, Array] = {}
        self._leveled: Array | None = None
        self.base_camera: Array | None = None
        self.camera_frame = self.assumed = self.apart = ""
        self.clear()

    @property
    def odom_frame(self) -> str:
        """The frame of our odometry; of another name where the robot has an odometry of its own."""
        name = self._config.odom_frame
        return f"{name}_visual" if self._config.mode == "map_to_odom" else name

    @property
    def map_world(self) -> Array | None:
        """The core's world in `map`, 4x4; None until it is known."""
        begun = self.base_camera if self._leveled is None else self._leveled
        return begun if self.loaded_world is None else self.loaded_world

    def level(self, up: Array) -> None:
        """Let `map` begin level: `up` is the unit vector (3,) against gravity in the first camera's frame."""
        assert self.base_camera is not None
        tilted, vertical = self.base_camera[:3, :3] @ up, np.array([0.0, 0.0, 1.0])
        axis = np.cross(tilted, vertical)
        sine = float(np.linalg.norm(axis))
        angle = float(np.arctan2(sine, tilted @ vertical))
        self._leveled = pose(so3_exp(angle * axis / max(sine, 1e-12)), np.zeros(3)) @ self.base_camera

    def clear(self) -> None:
        """Forget the poses and the map, not the camera's place on the robot."""
        self.loaded_world: Array | None = None
        self._leveled = None
        self._map_odom: Array | None = None
        self._stamp = self._sent = 0
        self._pending: deque[tuple[int, Array]] = deque(maxlen=300)

    def close(self) -> None:
        """Give publishers and subscriptions back to the node."""
        self._stop_listening()
        for publisher in (self._broadcaster.pub_tf, self._static.pub_tf):
            self._node.destroy_publisher(publisher)

    def locate_camera(self, camera_frame: str) -> None:
        """Look up `base_camera`; after `tf.base_timeout` the camera is taken as level and the base as its body."""
        if self.base_camera is not None:
            return
        self.camera_frame = frame_name(camera_frame, self._config.base_frame)
        if self._asked is None:
            self._asked = time.monotonic()
            if not camera_frame:
                self._node.get_logger().warning(
                    f"the images' header.frame_id is empty; their frame is called {self.camera_frame}")
        try:
            self.base_camera = self._lookup(self._config.base_frame, self.camera_frame, Time())
        except TransformException as error:
            if time.monotonic() - self._asked < self._config.base_timeout:
                return
            self._assume_level(error)
        if not self._follow:
            self._stop_listening()  # every transform of the robot would pass through Python for nothing

    def map_base(self, world_camera: Array) -> Array:
        """Return the pose 4x4 of the base in `map` (or `odom`) for a pose of the camera in the core's world."""
        assert self.base_camera is not None
        assert self.map_world is not None
        return self.map_world @ world_camera @ inverse(self.base_camera)

    def odom_base(self, stamp: int) -> Array:
        """Return the pose 4x4 of the base in `tf.odom_frame` at `stamp`, ns, by the robot's own odometry.

        Raises:
            TransformException: TF does not know it.

        """
        return self._lookup(self._config.odom_frame, self._config.base_frame, Time(nanoseconds=stamp))

    def camera_on(self, frame: str) -> Array | None:
        """Return the pose 4x4 of the camera in a frame that is fixed on the robot; None before the base's is known.

        Raises:
            TransformException: TF does not know it.

        """
        if self.base_camera is None or frame == self._config.base_frame:
            return self.base_camera
        if frame not in self._fixed:
            self._fixed[frame] = self._lookup(frame, self.camera_frame, Time())
        return self._fixed[frame]

    def broadcast(self, tracked: TrackedFrame) -> None:
        """Broadcast what goes with an image, at its stamp, and keep what the timer needs."""
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

    def tick(self) -> None:
        """Broadcast map -> odom, ahead of time by `tf.transform_tolerance`; called by a timer."""
        self._correct_odometry()
        if self._map_odom is None:
            return
        now = self._node.get_clock().now().nanoseconds
        when = now if abs(now - self._stamp) < SAME_CLOCK else self._stamp
        if when == self._sent:
            return
        self.apart = "" if when == now else (
            f"the images' stamps are {abs(now - self._stamp) / 1e9:.0f} s away from this node's clock: for a bag, "
            "play it with --clock and set use_sim_time; between machines, synchronize the clocks")
        if self.apart and not self._sent:
            self._node.get_logger().warning(f"{self.apart}; map -> odom goes by the images' stamps for now")
        self._sent = when
        self._send(self._map_odom, when + round(self._config.transform_tolerance * 1e9), self._config.map_frame,
                   self._config.odom_frame)

    def _correct_odometry(self) -> None:
        """Mode `map_to_odom`: compare the newest pose with the robot's odometry at the same stamp, when it is there."""
        for index in range(len(self._pending) - 1, -1, -1):
            stamp, map_base = self._pending[index]
            try:
                odom_base = self.odom_base(stamp)
            except TransformException as error:
                if index == 0:
                    self._node.get_logger().warning(f"no odometry at the images' stamps: {error}",
                                                    throttle_duration_sec=5.0, skip_first=True)
                continue
            self._map_odom = map_base @ inverse(odom_base)
            for _ in range(index + 1):
                self._pending.popleft()
            return

    def _assume_level(self, error: Exception) -> None:
        base = self._config.base_frame
        self.base_camera = BODY_OPTICAL
        self.assumed = (f"no transform {base} <- {self.camera_frame} within {self._config.base_timeout:g} s: the "
                        f"camera is taken as level and {base} as its body frame; publish it (a URDF, or "
                        "static_transform_publisher) before the node starts, or set tf.base_frame")
        self._node.get_logger().warning(f"{self.assumed} ({error})")
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
