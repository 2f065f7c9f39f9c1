"""What the node does with every image: its pose goes out before what only keyframes need."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.lifecycle import LifecycleNode

from vggt_ros.ros.diagnostics import Monitor
from vggt_ros.ros.image_source import THROTTLE, ImageSource
from vggt_ros.ros.metric_input import MetricInput
from vggt_ros.ros.outputs import Outputs
from vggt_ros.ros.transforms import Frames
from vggt_ros.slam import Slam
from vggt_ros.threads import end_priority
from vggt_ros.windows.solution import Frame
from vggt_ros.worker import Worker

_LATE = 40_000_000
"""Nanoseconds from an image's arrival until its turn, after which the camera is not looked for all over the map."""
_HURRIED = 5
"""Images in a row for which that holds: on a slow machine all of them may be late."""


class ImageTracking:
    """Tracks images on the executor's thread, publishes their poses, and offers windows to the worker."""

    def __init__(self, node: LifecycleNode, slam: Slam, worker: Worker, source: ImageSource, frames: Frames,
                 outputs: Outputs, metric: MetricInput, monitor: Monitor, is_resetting: Callable[[], bool]) -> None:
        """Track images of `source`; nothing is published while `is_resetting`."""
        self._node, self._slam, self._worker, self._source = node, slam, worker, source
        self._frames, self._outputs, self._metric, self._monitor = frames, outputs, metric, monitor
        self._is_resetting = is_resetting
        self._hurried = 0
        self.resume()

    def resume(self) -> None:
        """Note that images begin to come, again: there was no pause in keyframes."""
        self._last_keyframe = time.monotonic()

    def take(self, frame: Frame, camera_frame: str) -> None:
        """Track an image that was taken in a TF frame."""
        self._frames.locate_camera(camera_frame)
        began = time.perf_counter()
        try:
            tracked = self._slam.locate(frame, search=self._has_time())
        except Exception as error:  # one bad image must not take the node down
            self._note_failure(error)
            return
        located = time.perf_counter()
        if not self._is_resetting():  # before what only keyframes need: the pose is waited for
            self._frames.broadcast(tracked)
            self._outputs.publish_tracked(tracked)
        end_priority()
        self._monitor.latency.note(self._source.received_at, busy=not self._worker.idle)
        published = time.perf_counter()
        try:
            tracked = self._slam.select_keyframe(has_capacity=self._worker.has_capacity)
        except Exception as error:  # its pose stands
            self._note_failure(error)
        if tracked.keyframe is not None:
            self._last_keyframe = time.monotonic()
        self._metric.note(tracked)
        if tracked.window is not None:
            self._worker.enqueue(tracked.window)
        self._monitor.note(tracked, located - began + time.perf_counter() - published, published - located)

    def flush(self, pause: float = 0.0) -> None:
        """Offer the partial window that waits, if no keyframe came for `pause` seconds."""
        if time.monotonic() - self._last_keyframe >= pause and (window := self._slam.flush()) is not None:
            self._worker.enqueue(window)

    def _has_time(self) -> bool:
        """Return False if the newest image has waited for others, but not for many in a row."""
        late = self._source.received_at > 0 and time.time_ns() - self._source.received_at > _LATE
        self._hurried = self._hurried + 1 if late and self._hurried < _HURRIED else 0
        return self._hurried == 0

    def _note_failure(self, error: Exception) -> None:
        self._monitor.failed += 1
        self._node.get_logger().error(f"{self._source.topic}: tracking failed: {error!r}",
                                      throttle_duration_sec=THROTTLE)
