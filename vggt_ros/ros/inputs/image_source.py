"""Image subscription: calibration, decoding, checks and rectification of images."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vggt_ros.config import CameraConfig
from vggt_ros.geometry.calibration_change import difference
from vggt_ros.geometry.camera import Camera, CameraError, Rectifier, is_rectified_topic
from vggt_ros.images.interlaced import Deinterlacer
from vggt_ros.images.mask import Mask, read_mask
from vggt_ros.ros.common.log import LOG_PERIOD
from vggt_ros.ros.common.silence import describe_publishers, node_name
from vggt_ros.ros.conversions.images import decode_first
from vggt_ros.ros.conversions.messages import is_valid_stamp, nanoseconds
from vggt_ros.ros.inputs.subscriptions import AdaptiveSubscription
from vggt_ros.sequences.encodings import DEPTH_ENCODINGS, ImageError
from vggt_ros.sequences.intake import Intake, darkness
from vggt_ros.sequences.stamps import Order, StampCheck
from vggt_ros.settings import ConfigError
from vggt_ros.threads import prioritize
from vggt_ros.windows.frame import Frame

_MANY_UNUSED = 20
"""Images in a row that are refused or late, after which it is not one bad image or the network's order."""
_SILENCE = 5.0
"""Time without an image after which the node says why, seconds."""


class ImageSource:
    """Subscribes to images and their calibration, and passes rectified frames to a callback.

    Attributes:
        counts: images `received`, and of these `early` (the reconstructor was not ready), `waiting` (no calibration
            yet), `refused` (cannot be decoded or do not match their calibration) and `late` (a stamp older than or
            equal to the previous one, or far from it and not confirmed); all others became frames. `dark` are frames in
            which nothing can be seen, `damaged` images could not be decoded as a whole. `missed` were published but not
            received, or were dropped from the queue while the node was busy; `recalibrated` is the number of changes of
            calibration or size.
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
            on_discontinuity: called with the reason if the following frames do not continue those before: time has
                jumped back, or the calibration was only assumed until now.
            is_ready: returns whether images can be used; until then they are only counted.

        """
        self._node = node
        self._config = config
        self._image_size = image_size
        self._on_frame = on_frame
        self._on_discontinuity = on_discontinuity
        self._is_ready = is_ready
        self._subscriptions: list[AdaptiveSubscription] = []
        compressed = config.transport == "compressed"
        self.topic = node.resolve_topic_name("image/compressed" if compressed else "image")
        self.info_topic = node.resolve_topic_name("camera_info")
        self.rectified = config.rectified == "true" or (config.rectified == "auto" and is_rectified_topic(self.topic))
        self._intake = Intake(self.rectified)
        self.counts = {"received": 0, "early": 0, "waiting": 0, "refused": 0, "late": 0, "dark": 0, "missed": 0,
                       "recalibrated": 0, "damaged": 0}
        self.seconds: deque[float] = deque(maxlen=100)
        self.calibration = "none yet"
        self._encoding = self._why_unused = ""
        self._unused_in_row = 0
        self._rectifier: Rectifier | None = None
        self._excluded: Mask | None = None
        self._deinterlace = Deinterlacer()
        self._stamps = StampCheck(config.max_step)
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
        """Subscribe with the QoS that the publishers offer, CameraInfo also transient local."""
        image = (CompressedImage, "image/compressed") if self._config.transport == "compressed" else (Image, "image")
        self._subscriptions = [
            AdaptiveSubscription(self._node, CameraInfo, "camera_info", self.on_camera_info, 5, latched=True),
            AdaptiveSubscription(self._node, *image, self.on_image, 5)]
        self._sequence = self._waiting_since = None
        self.last_arrival = time.monotonic()

    def stop(self) -> None:
        """Destroy the subscriptions."""
        for subscription in self._subscriptions:
            subscription.close()
        self._subscriptions = []

    def adapt_qos(self, periodic: bool) -> None:
        """Subscribe anew where the publishers offer another QoS than before; see `AdaptiveSubscription.adapt`."""
        for subscription in self._subscriptions:
            if subscription.adapt(periodic) and subscription is self._subscriptions[-1]:  # that of the images
                self._sequence = None

    def on_camera_info(self, info: CameraInfo) -> None:
        """Store the calibration; it is used from the next image on."""
        self._intake.add_info(info)
        if problem := self._intake.problem:
            self._node.get_logger().error(f"{self.info_topic}: {problem}", throttle_duration_sec=LOG_PERIOD)

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
        stamp = nanoseconds(message.header.stamp)
        try:
            if not is_valid_stamp(stamp):
                raise ImageError(f"the stamp {stamp} ns is negative, or too far in the future")
            image = decode_first(message, self._intake, self._rectifier)
            self.counts["damaged"] = self._intake.damaged
            rectifier = self._rectifier_for(*image.size)
            if rectifier is None:
                self.counts["waiting"] += 1
                return
            rectified = rectifier(self._deinterlace(image.pixels))
            make = image.color
            color = None if make is None else lambda: rectifier(self._deinterlace(make()))
        except (ImageError, CameraError, ConfigError) as error:
            origin = f" ({self.info_topic})" if isinstance(error, CameraError) else ""
            self._refuse(f"{self.topic}: {str(error)[:300]}{origin}")
            return
        if not self._accept_stamp(stamp):
            self.counts["late"] += 1
            self._count_unused(f"left out, the last one {self._stamps.reason}: the driver of {self.topic} has to set "
                               "header.stamp")
            return
        self._unused_in_row, self._encoding = 0, getattr(message, "encoding", "")
        if dark := darkness(rectified):
            self.counts["dark"] += 1
            self._node.get_logger().warning(f"{self.topic}: {dark}", throttle_duration_sec=LOG_PERIOD)
        self.seconds.append(time.perf_counter() - start)
        self._on_frame(Frame(stamp, rectified, rectifier.intrinsics, rectifier.camera.calibrated, self._excluded,
                             color),
                       message.header.frame_id)

    @property
    def no_frame_reason(self) -> str:
        """Why no image became a frame, as the end of a sentence; empty if not known."""
        if self.counts["refused"]:
            return f": {self.counts['refused']} were {self._why_unused}"
        return f": they wait for CameraInfo on {self.info_topic}" if self.counts["waiting"] else ""

    def silence_reason(self) -> str:
        """Return why no image has arrived for `_SILENCE` seconds, with the cure, in one line; else empty."""
        elapsed = time.monotonic() - self.last_arrival
        if not self._subscriptions or elapsed < _SILENCE:
            return ""
        return f"no image for {elapsed:.0f} s: {self._subscriptions[-1].explain_silence()}"

    @property
    def unused(self) -> str:
        """Why none of the newest images was used, with the cure, in one line; empty if they are used."""
        count = self._unused_in_row
        return f"{count} images in a row are {self._why_unused}" if count >= _MANY_UNUSED else ""

    def problems(self) -> list[str]:
        """Return what is wrong with the images or their publishers, each in a line with the cure."""
        found = [self.unused] if self.unused else []
        if self._encoding in DEPTH_ENCODINGS and "depth" in self.topic:
            found.append(f"{self.topic} has depth ({self._encoding}): remap `image` to color images, `depth` to it")
        names = [node_name(info) for subscription in self._subscriptions[-1:] for info in subscription.publishers
                 if info.topic_type == subscription.type_name]
        if len(names) > 1:
            found.append(f"{len(names)} publishers of {self.topic}: {', '.join(sorted(names))}; images of two cameras "
                         "make no map: remap one of them, or `image`")
        return found

    def warn_if_silent(self) -> None:
        """Log a warning if no image arrives, with the publishers of the topics; at most once in 30 s."""
        now = time.monotonic()
        if self._last_warning > self.last_arrival and now - self._last_warning < 30.0:
            return
        why = self.silence_reason()
        if not why:
            return
        self._last_warning = now
        publishers = [f"{topic}: {describe_publishers(self._node.get_publishers_info_by_topic(topic))}"
                      for topic in (self.topic, self.info_topic)]
        self._node.get_logger().warning(f"{why} [{'; '.join(publishers)}]")

    def _refuse(self, reason: str) -> None:
        self.counts["refused"] += 1
        self._count_unused(f"refused, the last one: {reason}")
        self._node.get_logger().error(reason, throttle_duration_sec=LOG_PERIOD)

    def _count_unused(self, why: str) -> None:
        self._unused_in_row, self._why_unused = self._unused_in_row + 1, why

    def _count_missed(self, sequence: int | None) -> None:
        """Count gaps in the sequence numbers of the publisher; not possible with several publishers.

        On a busy machine DDS may have lost sight of the only one meanwhile.
        """
        previous, self._sequence = self._sequence, sequence
        if sequence and previous and sequence > previous + 1 and self._node.count_publishers(self.topic) < 2:
            self.counts["missed"] += sequence - previous - 1

    def _rectifier_for(self, width: int, height: int) -> Rectifier | None:
        """Return the rectifier for images of a size, or None while CameraInfo may still come.

        Raises:
            CameraError: the calibration cannot be used.
            ConfigError: the picture of the setting camera.mask cannot be used.

        """
        previous, camera = self._rectifier, self._intake.camera(width, height)
        if previous is not None and (previous.camera is camera or camera is None) \
                and (previous.camera.width, previous.camera.height) == (width, height):
            return previous
        if camera is None:
            now = time.monotonic()
            if self._waiting_since is None:  # the first images may arrive before the first CameraInfo that can be used
                self._waiting_since = now
            if previous is None and now - self._waiting_since < self._config.info_timeout:
                return None
            camera = Camera.assumed(width, height, self._config.fov)
            reason = self._intake.problem or f"no CameraInfo: {self._subscriptions[0].explain_silence()}"
            self._node.get_logger().warning(f"{self.info_topic}: {reason}; a field of view of "
                                            f"{self._config.fov:g} degrees is assumed (camera.fov)",
                                            throttle_duration_sec=LOG_PERIOD)
        # All keyframes keep the size of the first one; each has its own intrinsics.
        size = self._image_size(camera) if previous is None else previous.size
        rectifier = Rectifier(camera, size, self.rectified)
        self._excluded, self._rectifier = read_mask(self._config.mask, rectifier), rectifier
        self.calibration = ("rectified, " if self.rectified else "") + (
            f"from {self.info_topic}" if camera.calibrated else f"assumed, {self._config.fov:g} degrees")
        if camera.calibrated and self._intake.doubt:
            self.calibration += f", but {self._intake.doubt}"
            self._node.get_logger().warning(f"{self.info_topic}: {self._intake.doubt}",
                                            throttle_duration_sec=LOG_PERIOD)
        if previous is not None:
            self._report_change(previous)
        return self._rectifier

    def _report_change(self, previous: Rectifier) -> None:
        """Log and count a change of calibration or size; what was mapped with an assumed one does not go on."""
        assert self._rectifier is not None
        self.counts["recalibrated"] += 1
        old, new = previous.camera, self._rectifier.camera
        what = f"{self.info_topic}: the calibration changed, {difference(old, new)}"
        if not old.calibrated and new.calibrated:
            self._on_discontinuity(f"{what}; until now it was assumed")
        else:
            self._node.get_logger().info(f"{what}; the map goes on", throttle_duration_sec=LOG_PERIOD)

    def _accept_stamp(self, stamp: int) -> bool:
        """Return True if the stamp is newer than the last one, or after a jump of time."""
        simulated = bool(self._node.get_parameter("use_sim_time").value)
        order = self._stamps.check(stamp, None if simulated else time.monotonic(), restarts=simulated)
        if order is Order.LATE:
            self._node.get_logger().warning(f"{self.topic}: an image {self._stamps.reason}; it is left out",
                                            throttle_duration_sec=LOG_PERIOD)
        elif order is Order.JUMP:
            self._on_discontinuity(f"{self.topic}: {self._stamps.reason}")
        return order is not Order.LATE
