"""From the image topic to rectified frames: calibration, decoding, and everything that can be wrong with an image."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vggt_ros.config import CameraConfig
from vggt_ros.geometry.camera import Camera, CameraError, Rectifier, is_rectified_topic
from vggt_ros.ros.images import ImageError, decode, decode_compressed
from vggt_ros.ros.messages import nanoseconds
from vggt_ros.ros.silence import described, why_silent
from vggt_ros.threads import prioritize
from vggt_ros.windows.solution import Frame

THROTTLE = 5.0
"""Seconds between repetitions of one complaint."""

LATE = 100_000_000
"""An image older than the one before by less than this, nanoseconds, came late; by more, time jumped back."""


class ImageSource:
    """Subscribes images and their calibration, and hands over frames.

    Attributes:
        counts: images `received`, and of these `early` (the reconstructor was not ready), `waiting` (no calibration
            yet), `refused` (cannot be decoded or do not fit their calibration) and `late` (older than the one before,
            or the same); all others became frames.
            `missed` were published and did not arrive, or were pushed out of the queue while the node was busy.
        seconds: of decoding and rectification, of the last frames.
        received_at: when DDS received the newest image, nanoseconds of the system's clock; 0: it does not tell.
        calibration: where the intrinsics come from, for the status.

    """

    def __init__(self, node: LifecycleNode, config: CameraConfig,
                 image_size: Callable[[Camera], tuple[int, int]], on_frame: Callable[[Frame, str], None],
                 on_break: Callable[[str], object], ready: Callable[[], bool] = lambda: True) -> None:
        """Prepare; `start` subscribes.

        Args:
            node: whose topics `image`, `image/compressed` and `camera_info` are.
            config: the camera's settings.
            image_size: the working size for a camera.
            on_frame: takes each frame, and the frame_id of its header.
            on_break: told why what follows does not continue what was before.
            ready: whether images can be used; until then they are only counted.

        """
        self._node = node
        self._config = config
        self._image_size = image_size
        self._on_frame = on_frame
        self._on_break = on_break
        self._ready = ready
        self._subscriptions: list[Any] = []
        compressed = config.transport == "compressed"
        self.topic = node.resolve_topic_name("image/compressed" if compressed else "image")
        self.info_topic = node.resolve_topic_name("camera_info")
        self.rectified = config.rectified == "true" or (config.rectified == "auto" and is_rectified_topic(self.topic))
        self._decode: Callable[[Any], NDArray[np.uint8]] = decode_compressed if compressed else decode
        self.counts = {"received": 0, "early": 0, "waiting": 0, "refused": 0, "late": 0, "missed": 0}
        self.seconds: deque[float] = deque(maxlen=100)
        self.calibration = "none yet"
        self._info: CameraInfo | None = None
        self._camera: Camera | None = None
        self._info_error = ""
        self._rectifier: Rectifier | None = None
        self._stamp: int | None = None
        self._sequence: int | None = None
        self._told = 0.0
        self._waiting_since: float | None = None
        self.last_arrival = time.monotonic()
        self.received_at = 0

    @property
    def rectifier(self) -> Rectifier | None:
        """What rectifies the images; None before the first."""
        return self._rectifier

    def start(self) -> None:
        """Subscribe, best effort with a depth of 5 unless QoS override parameters say otherwise."""
        image = (CompressedImage, "image/compressed") if self._config.transport == "compressed" else (Image, "image")
        wanted: list[tuple[Any, str, Any]] = [(CameraInfo, "camera_info", self.take_info), (*image, self.take_image)]
        options = QoSOverridingOptions.with_default_policies()
        self._subscriptions = [
            self._node.create_subscription(message, topic, callback,
                                           QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT),
                                           qos_overriding_options=options)
            for message, topic, callback in wanted]
        self._sequence = self._waiting_since = None
        self.last_arrival = time.monotonic()

    def stop(self) -> None:
        """Give the subscriptions back."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def take_info(self, info: CameraInfo) -> None:
        """Take the calibration; it counts from the next image on."""
        if self._info is not None and _same_calibration(info, self._info):
            return
        self._info = info
        try:
            self._camera = Camera.from_info(info, self.rectified)
            self._info_error = "" if self._camera else "K[0] is 0, which means not calibrated (REP-104)"
        except CameraError as error:
            self._camera, self._info_error = None, str(error)
        if self._info_error:
            self._node.get_logger().error(f"{self.info_topic}: {self._info_error}")
        elif self._rectifier is not None and self._rectifier.camera is not self._camera:
            self._rectifier = None
            self._on_break(f"{self.info_topic}: the calibration changed")

    def take_image(self, message: Any, details: Mapping[str, Any]) -> None:
        """Decode an image, rectify it and hand it over; what is wrong with it is said and counted.

        Args:
            message: the image.
            details: rclpy's information on the message; it must not have a default, or rclpy leaves it out.

        """
        with prioritize():
            self._take_image(message, details)

    def _take_image(self, message: Any, details: Mapping[str, Any]) -> None:
        began = time.perf_counter()
        self.counts["received"] += 1
        self._count_missed(details.get("publication_sequence_number"))
        self.last_arrival = time.monotonic()
        self.received_at = int(details.get("received_timestamp") or 0)
        if not self._ready():
            self.counts["early"] += 1
            return
        try:
            image = self._decode(message)
            rectifier = self._rectifier_for(image)
            if rectifier is None:
                self.counts["waiting"] += 1
                return
            rectified = rectifier(image)
        except (ImageError, CameraError) as error:
            self.counts["refused"] += 1
            self._node.get_logger().error(f"{self.topic}: {error}", throttle_duration_sec=THROTTLE)
            return
        stamp = nanoseconds(message.header.stamp)
        if not self._in_order(stamp):
            self.counts["late"] += 1
            return
        if rectified[::8, ::8].max() < 8:
            self._node.get_logger().warning(f"{self.topic}: the image is all black", throttle_duration_sec=THROTTLE)
        self.seconds.append(time.perf_counter() - began)
        self._on_frame(Frame(stamp, rectified, rectifier.intrinsics, rectifier.camera.calibrated),
                       message.header.frame_id)

    @property
    def unusable(self) -> str:
        """What becomes of images while none is usable, as the end of a sentence; empty if nothing is known."""
        if self.counts["refused"]:
            return f": {self.counts['refused']} were refused, the log says why"
        return f": they wait for CameraInfo on {self.info_topic}" if self.counts["waiting"] else ""

    def silence(self, after: float = 5.0) -> str:
        """Return why no image has come for `after` seconds, with the cure, in one line; empty if one has."""
        silent = time.monotonic() - self.last_arrival
        if not self._subscriptions or silent < after:
            return ""
        kind = "CompressedImage" if self._config.transport == "compressed" else "Image"
        why = why_silent(self.topic, f"sensor_msgs/msg/{kind}", self._subscriptions[-1].qos_profile,
                         self._node.get_publishers_info_by_topic(self.topic))
        return f"no image for {silent:.0f} s: {why}"

    def warn_if_silent(self) -> None:
        """Say it when no image comes, with who publishes what; once in 30 s."""
        now = time.monotonic()
        if self._told > self.last_arrival and now - self._told < 30.0:
            return
        why = self.silence()
        if not why:
            return
        self._told = now
        publishers = [f"{topic}: {_publishers(self._node, topic)}" for topic in (self.topic, self.info_topic)]
        self._node.get_logger().warning(f"{why} [{'; '.join(publishers)}]")

    def _count_missed(self, sequence: int | None) -> None:
        """Count the gap in the publisher's sequence numbers; of several publishers there is none to be counted."""
        before, self._sequence = self._sequence, sequence
        if sequence and before and sequence > before + 1 and self._node.count_publishers(self.topic) == 1:
            self.counts["missed"] += sequence - before - 1

    def _rectifier_for(self, image: NDArray[np.uint8]) -> Rectifier | None:
        """Return the rectifier for an image, or None while CameraInfo may still come.

        Raises:
            CameraError: the calibration is for another size.

        """
        height, width = image.shape[:2]
        before = self._rectifier
        if before is not None and (before.camera.width, before.camera.height) == (width, height):
            return before
        camera = self._camera
        if camera is None:
            now = time.monotonic()
            if self._waiting_since is None:  # the first image may well come before the first CameraInfo
                self._waiting_since = now
            if before is None and self._info is None and now - self._waiting_since < self._config.info_timeout:
                return None
            camera = Camera.assumed(width, height, self._config.fov)
            lacking = self._info_error or f"no CameraInfo ({_publishers(self._node, self.info_topic)})"
            self._node.get_logger().warning(f"{self.info_topic}: {lacking}; a horizontal field of view of "
                                            f"{self._config.fov:g} degrees is assumed (camera.fov)")
        elif (camera.width, camera.height) != (width, height):
            raise CameraError(f"the image has {width}x{height} pixels, {self.info_topic} is for "
                              f"{camera.width}x{camera.height}")
        self._rectifier = Rectifier(camera, self._image_size(camera), self.rectified)
        self.calibration = ("rectified, " if self.rectified else "") + (
            f"from {self.info_topic}" if camera.calibrated else f"assumed, {self._config.fov:g} degrees")
        if before is not None:
            self._on_break(f"{self.topic}: the size changed from {before.camera.width}x{before.camera.height} to "
                           f"{width}x{height}")
        return self._rectifier

    def _in_order(self, stamp: int) -> bool:
        """Return True if the stamp follows the last one; a jump back is a new beginning."""
        before, self._stamp = self._stamp, stamp
        if before is None or stamp > before:
            return True
        if before - stamp >= LATE:
            self._on_break(f"{self.topic}: stamps jumped back by {(before - stamp) / 1e9:.2f} s")
            return True
        self._stamp = before
        late = f"is {(before - stamp) / 1e6:.1f} ms older than" if stamp < before else "has the stamp of"
        self._node.get_logger().warning(f"{self.topic}: an image {late} the one before; it is left out",
                                        throttle_duration_sec=THROTTLE)
        return False


def _same_calibration(info: CameraInfo, other: CameraInfo) -> bool:
    """Return True if two messages describe one calibration; the small changes of an autofocus are not followed."""
    same = all(getattr(info, name) == getattr(other, name)
               for name in ("width", "height", "distortion_model", "binning_x", "binning_y", "roi"))
    return same and all(np.allclose(getattr(info, name), getattr(other, name), rtol=0.01, atol=1e-6, equal_nan=True)
                        if len(getattr(info, name)) == len(getattr(other, name)) else False for name in "kdp")


def _publishers(node: LifecycleNode, topic: str) -> str:
    return described(node.get_publishers_info_by_topic(topic))
