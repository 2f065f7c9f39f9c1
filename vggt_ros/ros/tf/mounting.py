"""The pose of the camera on the robot, from TF: fixed, or moving as on a pan head, or not known.

Nothing is invented: without the transform, the base is the camera itself, until the transform comes. Only with
`tf.assume_level` the camera is taken as level, with the base as its body frame, and a static transform is published.
"""

from __future__ import annotations

import time
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.time import Time
from tf2_ros import Buffer, StaticTransformBroadcaster, TransformException, TransformListener

from vggt_ros.config import TfConfig
from vggt_ros.geometry.poses import BODY_OPTICAL, Array
from vggt_ros.ros.conversions.messages import nanoseconds, pose_matrix, transform
from vggt_ros.ros.tf.listener import BoundedTransformListener

_MAX_WAIT = 0.25
"""Longest wait for the transform at the stamp of an image, seconds; then the newest one is used."""
_RECENT = 300
"""Images whose transforms are kept, for those that become keyframes."""


def frame_name(camera_frame: str, base_frame: str) -> str:
    """Return the TF frame of the camera: from the header, without the slash of ROS 1; if empty, from the base frame."""
    return camera_frame.lstrip("/") or f"{base_frame}_camera"


class Mounting:
    """Looks up the pose of the camera on the robot.

    Attributes:
        camera_frame: TF frame of the camera; empty before the first image.
        base_camera: pose 4x4 of the camera in `base_frame` at the newest image; None while nothing is known.
        is_moving: whether the camera moves on the robot, so that TF is looked up at the stamp of each image.
        is_provisional: whether the camera itself is taken as the base, because there is no transform yet.
        problem: what is missing or assumed, with the cure; empty if TF has the transform.
        late: number of images whose transform had not come in time.

    """

    def __init__(self, node: Node, config: TfConfig, buffer: Buffer, keep_listening: bool) -> None:
        """Subscribe to TF; with `keep_listening` also after a fixed transform is known, for other users of `buffer`."""
        self._node, self._config, self._buffer, self._keep_listening = node, config, buffer, keep_listening
        self._listener: TransformListener | None = BoundedTransformListener(buffer, node)
        self._static = StaticTransformBroadcaster(node)
        self._first_lookup: float | None = None
        self._is_fixed = self.is_moving = self.is_provisional = False
        self._arrivals: OrderedDict[int, float] = OrderedDict()
        self._recent: OrderedDict[int, Array] = OrderedDict()
        self._keyframes: dict[int, Array | None] = {}
        self.base_camera: Array | None = None
        self.camera_frame = self.problem = ""
        self.late = 0

    @property
    def base_frame(self) -> str:
        """The frame whose pose is published: the base of the robot, or the camera while its place on it is unknown."""
        return self.camera_frame if self.is_provisional else self._config.base_frame

    @property
    def is_optical(self) -> bool:
        """Whether the base has the optical axes of the camera: it is the camera itself."""
        return self.is_provisional or self.camera_frame == self._config.base_frame

    def take_image(self, stamp: int, camera_frame: str) -> None:
        """Note an image with its stamp, ns, and the frame_id of its header; look the transform up if it is unknown."""
        if self._is_fixed:
            return
        if self._first_lookup is None:
            self._first_lookup = time.monotonic()
            self.camera_frame = frame_name(camera_frame, self._config.base_frame)
            if not camera_frame:
                self._node.get_logger().warning(
                    f"the images' header.frame_id is empty; {self.camera_frame} is used as their frame")
        if self.is_moving:
            self._arrivals[stamp] = time.monotonic()
            if len(self._arrivals) > _RECENT:
                self._arrivals.popitem(last=False)
            return
        if self.camera_frame == self._config.base_frame:
            self._set_fixed(np.eye(4))
            return
        try:
            found = self._buffer.lookup_transform(self._config.base_frame, self.camera_frame, Time())
        except TransformException:
            if not self.is_provisional:
                self._miss()
            return
        self._announce()
        pose = pose_matrix(found.transform.translation, found.transform.rotation)
        if nanoseconds(found.header.stamp) == 0:  # so TF answers if all transforms on the way are static
            self._set_fixed(pose)
        else:
            self.is_moving, self.is_provisional, self.base_camera = True, False, pose
            self._arrivals[stamp] = time.monotonic()

    def is_due(self, stamp: int) -> bool:
        """Return whether `at` has a final answer for an image: False while its transform may still come."""
        if not self.is_moving or stamp in self._recent:
            return True
        try:
            found = self._buffer.lookup_transform(self._config.base_frame, self.camera_frame, Time(nanoseconds=stamp))
        except TransformException as error:
            if time.monotonic() - self._arrivals.get(stamp, 0.0) < _MAX_WAIT:
                return False
            self.late += 1
            self._node.get_logger().warning(
                f"TF has no {self._config.base_frame} <- {self.camera_frame} at the stamp of an image after "
                f"{_MAX_WAIT:g} s; the newest one is used ({error})", throttle_duration_sec=5.0)
            newest = self._look_up(Time())
            assert newest is not None
            pose = newest
        else:
            pose = pose_matrix(found.transform.translation, found.transform.rotation)
        self._recent[stamp] = self.base_camera = pose
        if stamp in self._keyframes:
            self._keyframes[stamp] = pose
        if len(self._recent) > _RECENT:
            self._recent.popitem(last=False)
        return True

    def at(self, stamp: int) -> Array | None:
        """Return the pose 4x4 of the camera in `base_frame` at the stamp of an image; None if it is not known."""
        return self._recent.get(stamp, self.base_camera) if self.is_moving else self.base_camera

    def keep(self, stamp: int) -> None:
        """Keep the pose at the stamp of a keyframe, now or once it is known."""
        if not self._is_fixed:
            self._keyframes[stamp] = self._recent.get(stamp)

    def at_keyframes(self, stamps: NDArray[np.int64]) -> Array:
        """Return the poses (n, 4, 4) at the stamps (n,) of keyframes; the newest for those of another session."""
        assert self.base_camera is not None
        if not self.is_moving:
            return np.broadcast_to(self.base_camera, (len(stamps), 4, 4))
        if len(self._keyframes) > 2 * len(stamps) + 1000:  # most of them are not in the map any more
            known = set(stamps.tolist()) | set(list(self._keyframes)[-500:])
            self._keyframes = {stamp: pose for stamp, pose in self._keyframes.items() if stamp in known}
        for stamp, pose in self._keyframes.items():
            if pose is None:  # from before the mounting was known
                self._keyframes[stamp] = self._look_up(Time(nanoseconds=stamp))
        poses = [self._keyframes.get(stamp) for stamp in stamps.tolist()]
        return np.array([self.base_camera if pose is None else pose for pose in poses]).reshape(-1, 4, 4)

    def clear(self) -> None:
        """Forget the poses at images and keyframes of a map, but not the mounting itself."""
        self._keyframes.clear()

    def close(self) -> None:
        """Destroy the subscriptions and the publisher."""
        self._stop_listening()
        self._node.destroy_publisher(self._static.pub_tf)

    def _look_up(self, when: Time) -> Array | None:
        """Return the pose at a time (0: the newest); the last one used, or None, if TF does not have it."""
        try:
            found = self._buffer.lookup_transform(self._config.base_frame, self.camera_frame, when)
        except TransformException:
            return self.base_camera
        return pose_matrix(found.transform.translation, found.transform.rotation)

    def _set_fixed(self, base_camera: Array) -> None:
        self._is_fixed, self.is_provisional, self.base_camera = True, False, base_camera
        if not self._keep_listening:
            self._stop_listening()  # avoids handling every transform of the robot in Python

    def _announce(self) -> None:
        """Log that the transform has come, if it was missed."""
        if self.is_provisional:
            base = self._config.base_frame
            self._node.get_logger().info(f"TF has {base} <- {self.camera_frame}: poses are those of {base} from now on")
        self.problem = ""

    def _miss(self) -> None:
        """Say what is missing; after `tf.base_timeout`, assume it if the user allows, else go on without a base."""
        base, camera = self._config.base_frame, self.camera_frame
        assert self._first_lookup is not None
        cure = ("publish the transform (by a URDF or static_transform_publisher), or set tf.base_frame, to "
                f"{camera} for a camera without a robot")
        if time.monotonic() - self._first_lookup < self._config.base_timeout:
            return
        if self._config.assume_level:
            self.problem = (f"no transform {base} <- {camera} within {self._config.base_timeout:g} s: the camera is "
                            f"assumed to be level, with {base} as its body frame (tf.assume_level); {cure}")
            self._set_fixed(BODY_OPTICAL)
            if self._config.mode != "none":
                self._static.sendTransform(transform(BODY_OPTICAL, 0, base, camera))
        else:
            self.problem = (f"no transform {base} <- {camera} within {self._config.base_timeout:g} s: poses are those "
                            f"of {camera} and nothing is sent to TF below {self._config.odom_frame}, until it comes; "
                            f"{cure}, or set tf.assume_level")
            self.is_provisional, self.base_camera = True, np.eye(4)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.unregister()
            self._listener = None
