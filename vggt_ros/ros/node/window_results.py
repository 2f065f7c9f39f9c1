"""What happens on the executor's thread with the result of each window: log, status, and the keyframes' outputs."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from rclpy.lifecycle import LifecycleNode

from vggt_ros.ros.common.log import LOG_PERIOD
from vggt_ros.ros.outputs.diagnostics import StatusMonitor
from vggt_ros.ros.outputs.publishers import Outputs
from vggt_ros.ros.tf.transforms import Transforms
from vggt_ros.slam import Slam
from vggt_ros.windows.solution import Update


class WindowResults:
    """Takes the updates and errors of the worker."""

    def __init__(self, node: LifecycleNode, slam: Slam, outputs: Outputs, monitor: StatusMonitor,
                 transforms: Transforms, run_in_worker: Callable[[Callable[[], Any]], Future[Any]]) -> None:
        """Log with `node`; `run_in_worker` runs a function on the worker thread."""
        self._node, self._slam, self._outputs, self._monitor = node, slam, outputs, monitor
        self._transforms, self._run_in_worker = transforms, run_in_worker

    def take_error(self, error: Exception) -> None:
        """Report a window that failed."""
        where = "".join(f" at {one.filename}:{one.lineno}, {one.name}"
                        for one in traceback.extract_tb(error.__traceback__)[-1:])
        self._node.get_logger().error(f"a window failed: {error!r}{where}", throttle_duration_sec=LOG_PERIOD)
        self._monitor.error = repr(error)
        self._monitor.lost_windows += 1

    def take_update(self, update: Update, active: bool) -> None:
        """Report a window that was processed; if the node is `active`, publish its keyframes."""
        self._monitor.record_update(update)
        log, solution = self._node.get_logger(), self._slam.solution
        if update.refused:
            log.warning(f"window {update.window}: {update.refused}")
        if update.notes:
            log.info(f"window {update.window}: {'; '.join(update.notes)}", throttle_duration_sec=10.0)
        if update.new_submap:
            log.warning(f"break in the map: submap {update.submap} starts here; its pose relative to the rest of the "
                        "map is not known")
        if active:
            self._outputs.publish_keyframes(update.keyframes)
        mounting = self._transforms.mounting
        if mounting.base_camera is not None and not mounting.is_optical:
            base_camera = mounting.base_camera
            self._run_in_worker(lambda: self._transforms.optical.check_ground(solution, base_camera))
