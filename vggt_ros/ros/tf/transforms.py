"""TF frames after REP-103 and REP-105: poses of the base in `map` and `odom`, and the broadcast of transforms.

The world of the core is the optical frame of the first camera. `map` is the frame of the base at the start,
`map_world = base_camera`: the base starts at its origin, and z is up if the base is level. With an IMU the map is
leveled by gravity instead. While the base is the camera itself, `map` has body axes (z up if the camera is level).
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.time import Time
from tf2_ros import Buffer, TransformBroadcaster, TransformException

from vggt_ros.config import TfConfig
from vggt_ros.geometry.poses import BODY_OPTICAL, Array, inverse, pose, rotation_between_directions, so3_exp
from vggt_ros.ros.conversions.messages import nanoseconds, pose_matrix, transform
from vggt_ros.ros.tf.mounting import Mounting
from vggt_ros.ros.tf.optical_frame import OpticalFrameCheck
from vggt_ros.ros.tf.watch import TfWatch
from vggt_ros.windows.frame import TrackedFrame
from vggt_ros.windows.solution import Solution

MAX_CLOCK_DIFFERENCE = 10_000_000_000
"""Stamps that differ more from the clock of the node, nanoseconds, are from another clock: a bag without /clock."""


class Transforms:
    """The frames `map`, `odom` and base, and the transforms that the node broadcasts.

    Attributes:
        mounting: the pose of the camera on the robot.
        watch: finds transforms of other nodes that contradict these.
        optical: whether the frame of the images is an optical one.
        loaded_world: 4x4, `map_world` of a loaded map; None if the map was not loaded.
        clock_mismatch: the difference of image stamps and node clock, with the cure; empty if it is small.
        may_send: returns whether transforms with the parent `map` may be sent; they are withheld otherwise.

    """

    def __init__(self, node: Node, config: TfConfig, buffer: Buffer, keep_listening: bool = False) -> None:
        """Subscribe to TF and create the broadcaster; `close` destroys them, but not the buffer.

        With `keep_listening` the subscription stays, for odometry of the robot, once the mounting is known.
        """
        self._node = node
        self._config = config
        self._buffer = buffer
        self.mounting = Mounting(node, config, buffer, keep_listening or config.mode == "map_to_odom")
        self.watch = TfWatch(node, config, self.mounting)
        self.optical = OpticalFrameCheck()
        self._broadcaster = TransformBroadcaster(node)
        self._camera_in_frame: dict[str, Array] = {}
        self._clock_offset = self._newest_stamp = 0
        self.clock_mismatch = ""
        self.may_send: Callable[[], bool] = lambda: True
        self._up: Array | None = None
        self._odom_base: Array | None = None
        self.clear()

    @property
    def odom_frame(self) -> str:
        """TF frame of our odometry; with another name if the robot has its own odometry."""
        name = self._config.odom_frame
        return f"{name}_visual" if self._config.mode == "map_to_odom" else name

    @property
    def map_world(self) -> Array | None:
        """Pose of the world of the core in `map`, 4x4; None until it is known."""
        return self._leveled(self._start) if self.loaded_world is None else self.loaded_world

    @property
    def can_level(self) -> bool:
        """Whether the pose of the first camera on the base is known, which `level` needs."""
        return self._start is not None

    def configure(self, config: TfConfig) -> None:
        """Take settings that may change at run time."""
        self._config = config

    def problems(self) -> list[str]:
        """Return what is missing or assumed, each in one line with the cure."""
        return [problem for problem in (self.mounting.problem, self.optical.problem, *self.watch.problems,
                                        self.clock_mismatch) if problem]

    def level(self, up: Array) -> None:
        """Level `map` by gravity: `up` is the unit vector (3,) opposite to gravity in the frame of the first camera."""
        assert self._start is not None
        self._up = up
        self.optical.check_gravity(self._start, up)

    def clear(self) -> None:
        """Forget poses and map, but not the mounting of the camera."""
        self.mounting.clear()
        self.loaded_world: Array | None = None
        self._up = None
        self._odom_reset, self._odom_base = np.eye(4), None
        self._moving_start: Array | None = None
        self._moving_odom: Array | None = None
        self._map_odom: Array | None = None
        self._map_robot_odom: Array | None = None
        self._sent: list[int] = []
        self.interrupt()

    def reset_odometry(self) -> bool:
        """Begin our odometry frame anew at the position and heading of the base, z up; False if there is no pose yet.

        `map` -> `odom` takes the difference.
        """
        if self._odom_base is None:
            return False
        heading = np.arctan2(self._odom_base[1, 0], self._odom_base[0, 0])
        odom_begin = pose(so3_exp(np.array([0.0, 0.0, heading])), self._odom_base[:3, 3])
        self._odom_reset = inverse(odom_begin) @ self._odom_reset
        if self._map_odom is not None:
            self._map_odom = self._map_odom @ odom_begin
        self._odom_base = None
        return True

    def interrupt(self) -> None:
        """Forget the images that wait for the odometry of the robot: later ones do not continue them."""
        self._pending: deque[tuple[int, Array]] = deque(maxlen=300)

    def close(self) -> None:
        """Destroy publishers and subscriptions."""
        self.watch.close()
        self.mounting.close()
        self._node.destroy_publisher(self._broadcaster.pub_tf)

    def take_image(self, stamp: int, camera_frame: str) -> None:
        """Note an image with its stamp, ns, and the frame_id of its header."""
        self._newest_stamp, self._clock_offset = stamp, self._node.get_clock().now().nanoseconds - stamp
        self.mounting.take_image(stamp, camera_frame)
        self.optical.check_name(self.mounting.camera_frame)

    def take_solution(self, solution: Solution) -> None:
        """Take the first camera of the map, from where a moving mounting gives the frame `map`."""
        if self.mounting.is_moving and self._moving_start is None and len(solution):
            self._moving_start = self.mounting.at_keyframes(solution.stamps[:1])[0]

    def base_in_map(self, map_camera: Array, base_camera: Array) -> Array:
        """Return the pose 4x4 of the base in `map` for a pose of the camera in the world of the core."""
        assert self.map_world is not None
        return self.map_world @ map_camera @ inverse(base_camera)

    def base_in_odom(self, odom_camera: Array, base_camera: Array) -> Array:
        """Return the pose 4x4 of the base in our odometry frame for a pose of the camera in that of the core."""
        if self._moving_odom is None and self.mounting.is_moving:
            self._moving_odom = base_camera
        odom_world = self._odom_world
        assert odom_world is not None
        return odom_world @ odom_camera @ inverse(base_camera)

    def odom_base(self, stamp: int) -> Array:
        """Return the pose 4x4 of the base in `tf.odom_frame` at `stamp`, ns, from the odometry of the robot.

        Raises:
            TransformException: TF does not have it.

        """
        return _matrix(self._buffer.lookup_transform(self._config.odom_frame, self._config.base_frame,
                                                     Time(nanoseconds=stamp)))

    def camera_in(self, frame: str, stamp: int | None = None) -> Array | None:
        """Return the pose 4x4 of the camera in a frame of the robot; None if its mounting is not known yet.

        If the camera moves in this frame, the pose is that at `stamp`, ns, or the newest if TF does not have it.

        Raises:
            TransformException: TF does not have it; or the camera moves in this frame, and no stamp is given.

        """
        base_camera, camera_frame = self.mounting.base_camera, self.mounting.camera_frame
        if base_camera is None or (frame == self.mounting.base_frame and not self.mounting.is_moving):
            return base_camera
        if frame in self._camera_in_frame:
            return self._camera_in_frame[frame]
        found = self._buffer.lookup_transform(frame, camera_frame, Time())
        if not nanoseconds(found.header.stamp) or not self.mounting.is_moving:
            self._camera_in_frame[frame] = _matrix(found)
        elif stamp is None:
            raise TransformException(f"{camera_frame} moves in {frame}")
        else:
            with contextlib.suppress(TransformException):
                found = self._buffer.lookup_transform(frame, camera_frame, Time(nanoseconds=stamp))
        return _matrix(found)

    def broadcast(self, tracked: TrackedFrame) -> None:
        """Broadcast the transforms of an image, at its stamp, and store the correction for `broadcast_map_odom`."""
        base_camera, names = self.mounting.at(tracked.stamp), self._config
        if base_camera is None or self.map_world is None or tracked.map_camera is None or tracked.odom_camera is None:
            return
        odom_base, map_base = (self.base_in_odom(tracked.odom_camera, base_camera),
                               self.base_in_map(tracked.map_camera, base_camera))
        self._odom_base = odom_base
        if names.mode == "map_to_base":
            if not self.mounting.is_provisional and self.may_send():
                self._send(map_base, tracked.stamp, names.map_frame, names.base_frame)
            return
        odom_world = self._odom_world
        assert odom_world is not None
        self._map_odom = self.map_world @ tracked.map_odom @ inverse(odom_world)
        if names.mode == "map_odom_base" and not self.mounting.is_provisional:
            self._send(odom_base, tracked.stamp, names.odom_frame, names.base_frame)
        elif names.mode == "map_to_odom" and not self.mounting.is_provisional:
            self._pending.append((tracked.stamp, map_base))

    def _mismatch(self) -> str:
        """Return why the images are from another clock than that of the node, and the cure."""
        if not self._node.get_clock().now().nanoseconds:
            return "use_sim_time is true, but nothing came on /clock: play the bag with --clock, or set it to false"
        return (f"the images' stamps are {abs(self._clock_offset) / 1e9:.0f} s away from this node's clock: for a bag, "
                "play it with --clock and set use_sim_time; between machines, synchronize the clocks")

    def broadcast_map_odom(self) -> None:
        """Broadcast map -> odom, stamped ahead by `tf.transform_tolerance`; called periodically, from any thread.

        The stamp is the present time, also while no images come. Only if the images are from another clock, it is that
        of the newest image.
        """
        corrections, mode = self._corrections(), self._config.mode
        if not corrections or mode not in ("map_odom_base", "map_to_odom") or not self.may_send():
            return
        is_foreign = abs(self._clock_offset) >= MAX_CLOCK_DIFFERENCE
        when = self._newest_stamp if is_foreign else self._node.get_clock().now().nanoseconds
        sending = [when, *(id(matrix) for _, matrix in corrections)]
        if sending == self._sent:
            return
        self.clock_mismatch = f"{self._mismatch()}; until then map -> odom has the images' stamps" if is_foreign else ""
        self._sent = sending
        stamp = when + round(self._config.transform_tolerance * 1e9)
        for child, _ in corrections:
            self.watch.note_sent(child, stamp)
        self._broadcaster.sendTransform([transform(matrix, stamp, self._config.map_frame, child)
                                         for child, matrix in corrections])

    def update_map_odom(self) -> None:
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
            self._map_robot_odom = map_base @ inverse(odom_base)
            for _ in range(index + 1):
                self._pending.popleft()
            return

    def _corrections(self) -> list[tuple[str, Array]]:
        """Return the children of `map`, each with its pose 4x4: our odometry, and that of the robot if it has one."""
        found = [(self.odom_frame, self._map_odom)]
        if self._config.mode == "map_to_odom":
            found.append((self._config.odom_frame, self._map_robot_odom))
        return [(frame, matrix) for frame, matrix in found if matrix is not None]

    @property
    def _start(self) -> Array | None:
        """Pose 4x4 of the first camera in a `map` that is not leveled; None if it is not known yet."""
        if self.mounting.is_optical and self.mounting.base_camera is not None:
            return BODY_OPTICAL
        return self._moving_start if self.mounting.is_moving else self.mounting.base_camera

    @property
    def _odom_world(self) -> Array | None:
        """Pose 4x4 of the odometry of the core in our odometry frame, which is z up like `map`."""
        leveled = self._leveled(self._moving_odom if self.mounting.is_moving else self._start)
        return None if leveled is None else self._odom_reset @ leveled

    def _leveled(self, start: Array | None) -> Array | None:
        if start is None or self._up is None:
            return start
        assert self._start is not None
        leveling = rotation_between_directions(self._start[:3, :3] @ self._up, np.array([0.0, 0.0, 1.0]))
        return pose(leveling, np.zeros(3)) @ start

    def _send(self, target_source: Array, stamp: int, target: str, source: str) -> None:
        self.watch.note_sent(source, stamp)
        self._broadcaster.sendTransform(transform(target_source, stamp, target, source))


def _matrix(found: TransformStamped) -> Array:
    return pose_matrix(found.transform.translation, found.transform.rotation)
