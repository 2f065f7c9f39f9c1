"""Processing of each image: tracking and publication of its pose, then keyframe selection."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from rclpy.lifecycle import LifecycleNode

from vggt_ros.ros.common.log import LOG_PERIOD
from vggt_ros.ros.inputs.image_source import ImageSource
from vggt_ros.ros.inputs.metric_scale import MetricInput
from vggt_ros.ros.outputs.diagnostics import StatusMonitor
from vggt_ros.ros.outputs.publishers import Outputs
from vggt_ros.ros.tf.transforms import Transforms
from vggt_ros.settings import ConfigError
from vggt_ros.slam import Slam
from vggt_ros.threads import end_priority
from vggt_ros.windows.frame import Frame, TrackedFrame
from vggt_ros.worker import Worker

_MAX_DELAY = 20_000_000
"""Queueing delay of an image, nanoseconds, above which a lost camera is not matched to keyframes, and images that had
no pose when they came get none now."""
_MAX_SKIPPED_SEARCHES = 5
"""Most consecutive images without that: on a slow machine all images may be delayed."""


class ImageTracking:
    """Tracks images on the executor thread, publishes their poses, and passes windows to the worker."""

    def __init__(self, node: LifecycleNode, slam: Slam, worker: Worker, source: ImageSource, transforms: Transforms,
                 outputs: Outputs, metric: MetricInput, monitor: StatusMonitor,
                 is_resetting: Callable[[], bool]) -> None:
        """Track the images of `source`; nothing is published while `is_resetting`."""
        self._node, self._slam, self._worker, self._source = node, slam, worker, source
        self._transforms, self._outputs, self._metric, self._monitor = transforms, outputs, metric, monitor
        self._is_resetting = is_resetting
        self._skipped_searches = 0
        self._unpublished: deque[tuple[TrackedFrame, int]] = deque()
        self.resume()

    def resume(self) -> None:
        """Restart the time since the last keyframe, when images start to arrive."""
        self._last_keyframe = time.monotonic()

    def track(self, frame: Frame, camera_frame: str) -> None:
        """Track an image, whose TF frame is `camera_frame`."""
        self._transforms.take_image(frame.stamp, camera_frame)
        start = time.perf_counter()
        try:
            has_time = self._allow_search()
            tracked = self._slam.locate(frame, search=has_time)
        except Exception as error:  # one bad image must not end the node
            self._count_failure(error)
            return
        located = time.perf_counter()
        if not self._is_resetting():  # before keyframe selection, to reduce the latency of the pose
            self._unpublished.append((tracked, self._source.received_at))
            self.publish()
        end_priority()
        published = time.perf_counter()
        try:
            tracked = self._slam.select_keyframe(replace(self._worker.backlog, spare_images=int(has_time)))
        except Exception as error:  # the pose is valid nevertheless
            self._count_failure(error)
        if tracked.keyframe is not None:
            self._last_keyframe = time.monotonic()
            self._transforms.mounting.keep(tracked.stamp)
        self._metric.add_frame(tracked)
        if tracked.window is not None:
            self._worker.enqueue(tracked.window)
        self._outputs.features.publish(frame, camera_frame)
        self._monitor.record_frame(tracked, located - start + time.perf_counter() - published, published - located)

    def publish(self) -> None:
        """Publish the poses of the tracked images, in order, as soon as the pose of the camera on the robot is known.

        A camera that moves on the robot has to wait for TF at the stamp of the image.
        """
        self._transforms.take_solution(self._slam.solution)
        while self._unpublished and self._transforms.mounting.is_due(self._unpublished[0][0].stamp):
            tracked, received_at = self._unpublished.popleft()
            self._transforms.broadcast(tracked)
            self._outputs.publish_tracked(tracked)
            self._monitor.latency.record(received_at, busy=not self._worker.idle)

    def clear(self) -> None:
        """Forget the poses that are not published yet, for a reset."""
        self._unpublished.clear()

    def flush(self, pause: float = 0.0) -> None:
        """Pass all waiting keyframes to the worker, if there was no keyframe for `pause` seconds."""
        while time.monotonic() - self._last_keyframe >= pause and (window := self._slam.flush()) is not None:
            self._worker.enqueue(window)

    def interrupt(self) -> None:
        """Let the next image not continue the last one; the waiting keyframes are passed to the worker."""
        self.flush()
        self._slam.interrupt()

    def change_mode(self, mode: str) -> None:
        """Map, or only localize, from the next image on; the waiting keyframes are passed to the worker.

        Raises:
            ConfigError: there is no map to localize in.

        """
        if mode == "localization" and not len(self._slam.solution):
            raise ConfigError("mode: localization needs a map, and nothing is mapped yet; load one (~/load_map)")
        self.flush()
        self._slam.change_mode(mode)

    def _allow_search(self) -> bool:
        """Return whether there is time for what may wait: not if the image was delayed, but at every sixth image."""
        late = self._source.received_at > 0 and time.time_ns() - self._source.received_at > _MAX_DELAY
        self._skipped_searches = self._skipped_searches + 1 \
            if late and self._skipped_searches < _MAX_SKIPPED_SEARCHES else 0
        return self._skipped_searches == 0

    def _count_failure(self, error: Exception) -> None:
        self._monitor.failed_images += 1
        self._node.get_logger().error(f"{self._source.topic}: tracking failed: {error!r}",
                                      throttle_duration_sec=LOG_PERIOD)
