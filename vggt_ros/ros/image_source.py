"""Image subscription: calibration, decoding, checks and rectification of images."""

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
from vggt_ros.images.mask import Mask, read_mask
from vggt_ros.ros.images import ImageError, decode, decode_compressed
from vggt_ros.ros.messages import nanoseconds
from vggt_ros.ros.silence import describe_publishers, explain_silence
from vggt_ros.settings import ConfigError
from vggt_ros.threads import prioritize
from vggt_ros.windows.solution import Frame

LOG_PERIOD = 5.0
"""Seconds between repetitions of a log message."""

MAX_REORDERING = 100_000_000
"""An image that is older than the previous one by less, nanoseconds, is late; if by more, time has jumped back."""


class ImageSource:
    """Subscribes to images and their calibration, and passes rectified frames to a callback.

    Attributes:
        counts: images `received`, and of these `early` (the reconstructor was not ready), `waiting` (no calibration
            yet), `refused` (cannot be decoded or do not match their calibration) and `late` (a stamp older than or
            equal to the previous one); all others became frames.
            `missed` were published but not received, or were dropped from the queue while the node was busy.
        seconds: durations of decoding and rectification of the last 100 frames.
        received_at: when DDS received the newest image, nanoseconds of the system clock; 0 if it is not known.
        calibration: the source of the intrinsics, for the status.

    """

    def __init__(self, node: LifecycleNode, config: CameraConfig,
                 image_size: Callable[[Camera], tuple[int, int]], on_frame: Callable[[Frame, str], None],
                 on_discontinuity: Callable[[str], object], is_ready: Callable[[], bool] = lambda: True) -> None:
        """Prepare; `start` subscribes.

        Args:
            node: the node, with its topics `image`, `image/compressed` and `camera_info`.
            config: the settings of the camera.
            image_size: returns the (width, height) to rectify images of a camera to.
            on_frame: called with each frame and the frame_id of its header.
            on_discontinuity: called with the reason if the following frames do not continue the sequence.
            is_ready: returns whether images can be used; until then they are only counted.

        """
        self._node = node
        self._config = config
        self._image_size = image_size
        self._on_frame = on_frame
        self._on_discontinuity = on_discontinuity
        self._is_ready = is_ready
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
        self._excluded: Mask | None = None
        self._stamp: int | None = None
        self._sequence: int | None = None
        self._last_warning = 0.0
        self._waiting_since: float | None = None
        self.last_arrival = time.monotonic()
        self.received_at = 0

    @property
    def rectifier(self) -> Rectifier | None:
        """The rectifier of the images; None before the first image."""
        return self._rectifier

    def start(self) -> None:
        """Subscribe, best effort with a depth of 5 unless QoS override parameters say otherwise."""
        image = (CompressedImage, "image/compressed") if self._config.transport == "compressed" else (Image, "image")
        wanted: list[tuple[Any, str, Any]] = [(CameraInfo, "camera_info", self.on_camera_info), (*image, self.on_image)]
        options = QoSOverridingOptions.with_default_policies()
        self._subscriptions = [
            self._node.create_subscription(message, topic, callback,
                                           QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT),
                                           qos_overriding_options=options)
            for message, topic, callback in wanted]
        self._sequence = self._waiting_since = None
        self.last_arrival = time.monotonic()

    def stop(self) -> None:
        """Destroy the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def on_camera_info(self, info: CameraInfo) -> None:
        """Store the calibration; it is used from the next image on."""
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
            self._on_discontinuity(f"{self.info_topic}: the calibration changed")

    def on_image(self, message: Any, details: Mapping[str, Any]) -> None:
        """Decode and rectify an image and pass it on; problems are logged and counted.

        Args:
            message: the image.
            details: message info of rclpy; without a default value, else rclpy does not pass it.

        """
        with prioritize():
            self._process_image(message, details)

    def _process_image(self, message: Any, details: Mapping[str, Any]) -> None:
        start = time.perf_counter()
        self.counts["received"] += 1
        self._count_missed(details.get("publication_sequence_number"))
        self.last_arrival = time.monotonic()
        self.received_at = int(details.get("received_timestamp") or 0)
        if not self._is_ready():
            self.counts["early"] += 1
            return
        try:
            image = self._decode(message)
            rectifier = self._rectifier_for(image)
            if rectifier is None:
                self.counts["waiting"] += 1
                return
            rectified = rectifier(image)
        except (ImageError, CameraError, ConfigError) as error:
            self.counts["refused"] += 1
            self._node.get_logger().error(f"{self.topic}: {error}", throttle_duration_sec=LOG_PERIOD)
            return
        stamp = nanoseconds(message.header.stamp)
        if not self._accept_stamp(stamp):
            self.counts["late"] += 1
            return
        if rectified[::8, ::8].max() < 8:
            self._node.get_logger().warning(f"{self.topic}: the image is all black", throttle_duration_sec=LOG_PERIOD)
        self.seconds.append(time.perf_counter() - start)
        self._on_frame(Frame(stamp, rectified, rectifier.intrinsics, rectifier.camera.calibrated, self._excluded),
                       message.header.frame_id)

    @property
    def no_frame_reason(self) -> str:
        """Why no image became a frame, as the end of a sentence; empty if not known."""
        if self.counts["refused"]:
            return f": {self.counts['refused']} were refused, see the log for the reason"
        return f": they wait for CameraInfo on {self.info_topic}" if self.counts["waiting"] else ""

    def silence_reason(self, after: float = 5.0) -> str:
        """Return why no image has arrived for `after` seconds, with the cure, in one line; else empty."""
        elapsed = time.monotonic() - self.last_arrival
        if not self._subscriptions or elapsed < after:
            return ""
        kind = "CompressedImage" if self._config.transport == "compressed" else "Image"
        why = explain_silence(self.topic, f"sensor_msgs/msg/{kind}", self._subscriptions[-1].qos_profile,
                         self._node.get_publishers_info_by_topic(self.topic))
        return f"no image for {elapsed:.0f} s: {why}"

    def warn_if_silent(self) -> None:
        """Log a warning if no image arrives, with the publishers of the topics; at most once in 30 s."""
        now = time.monotonic()
        if self._last_warning > self.last_arrival and now - self._last_warning < 30.0:
            return
        why = self.silence_reason()
        if not why:
            return
        self._last_warning = now
        publishers = [f"{topic}: {_describe_publishers(self._node, topic)}" for topic in (self.topic, self.info_topic)]
        self._node.get_logger().warning(f"{why} [{'; '.join(publishers)}]")

    def _count_missed(self, sequence: int | None) -> None:
        """Count gaps in the sequence numbers of the publisher; not possible with several publishers."""
        previous, self._sequence = self._sequence, sequence
        if sequence and previous and sequence > previous + 1 and self._node.count_publishers(self.topic) == 1:
            self.counts["missed"] += sequence - previous - 1

    def _rectifier_for(self, image: NDArray[np.uint8]) -> Rectifier | None:
        """Return the rectifier for an image, or None while CameraInfo may still come.

        Raises:
            CameraError: the calibration is for another image size.
            ConfigError: the picture of the setting camera.mask cannot be used.

        """
        height, width = image.shape[:2]
        previous = self._rectifier
        if previous is not None and (previous.camera.width, previous.camera.height) == (width, height):
            return previous
        camera = self._camera
        if camera is None:
            now = time.monotonic()
            if self._waiting_since is None:  # the first image may arrive before the first CameraInfo
                self._waiting_since = now
            if previous is None and self._info is None and now - self._waiting_since < self._config.info_timeout:
                return None
            camera = Camera.assumed(width, height, self._config.fov)
            reason = self._info_error or f"no CameraInfo ({_describe_publishers(self._node, self.info_topic)})"
            self._node.get_logger().warning(f"{self.info_topic}: {reason}; a horizontal field of view of "
                                            f"{self._config.fov:g} degrees is assumed (camera.fov)")
        elif (camera.width, camera.height) != (width, height):
            raise CameraError(f"the image has {width}x{height} pixels, {self.info_topic} is for "
                              f"{camera.width}x{camera.height}")
        rectifier = Rectifier(camera, self._image_size(camera), self.rectified)
        self._excluded, self._rectifier = read_mask(self._config.mask, rectifier), rectifier
        self.calibration = ("rectified, " if self.rectified else "") + (
            f"from {self.info_topic}" if camera.calibrated else f"assumed, {self._config.fov:g} degrees")
        if previous is not None:
            self._on_discontinuity(f"{self.topic}: the size changed from {previous.camera.width}x"
                                   f"{previous.camera.height} to {width}x{height}")
        return self._rectifier

    def _accept_stamp(self, stamp: int) -> bool:
        """Return True if the stamp is newer than the last one, or after a jump back, which starts a new sequence."""
        previous, self._stamp = self._stamp, stamp
        if previous is None or stamp > previous:
            return True
        if previous - stamp >= MAX_REORDERING:
            self._on_discontinuity(f"{self.topic}: stamps jumped back by {(previous - stamp) / 1e9:.2f} s")
            return True
        self._stamp = previous
        late = f"is {(previous - stamp) / 1e6:.1f} ms older than" if stamp < previous else "has the stamp of"
        self._node.get_logger().warning(f"{self.topic}: an image {late} the one before; it is ignored",
                                        throttle_duration_sec=LOG_PERIOD)
        return False


def _same_calibration(info: CameraInfo, other: CameraInfo) -> bool:
    """Return True if two messages have the same calibration; small changes by an autofocus are ignored."""
    same = all(getattr(info, name) == getattr(other, name)
               for name in ("width", "height", "distortion_model", "binning_x", "binning_y", "roi"))
    return same and all(np.allclose(getattr(info, name), getattr(other, name), rtol=0.01, atol=1e-6, equal_nan=True)
                        if len(getattr(info, name)) == len(getattr(other, name)) else False for name in "kdp")


def _describe_publishers(node: LifecycleNode, topic: str) -> str:
    return describe_publishers(node.get_publishers_info_by_topic(topic))
