#!/usr/bin/env python3
"""The lifecycle node `vggt_slam`: images are tracked on the executor thread, windows are solved by the worker."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from tf2_ros import Buffer

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera
from vggt_ros.reconstruction import create_reconstructor
from vggt_ros.reconstruction.deferred import DeferredReconstructor, ReconstructorFactory
from vggt_ros.ros import parameters
from vggt_ros.ros.commands import CommandServices, CommandSteps
from vggt_ros.ros.diagnostics import StatusMonitor
from vggt_ros.ros.image_source import ImageSource
from vggt_ros.ros.image_tracking import ImageTracking
from vggt_ros.ros.lifecycle import TolerantLifecycleNode
from vggt_ros.ros.log import NodeLogHandler
from vggt_ros.ros.map_files import MapFiles
from vggt_ros.ros.messages import header
from vggt_ros.ros.metric_input import MetricInput
from vggt_ros.ros.outputs import Outputs
from vggt_ros.ros.spinning import spin
from vggt_ros.ros.transforms import Transforms
from vggt_ros.slam import Slam
from vggt_ros.storage.map_record import MapRecord
from vggt_ros.threads import shorten_switch_interval, single_threaded_blas
from vggt_ros.windows.solution import Update
from vggt_ros.worker import Worker

_CREATE_IN_SEPARATE_PROCESS = partial(create_reconstructor, separate_process=True)
Success = TransitionCallbackReturn.SUCCESS


class SlamNode(TolerantLifecycleNode):
    """Dense monocular SLAM; topics, services, transforms and parameters are listed in the README."""

    def __init__(self, reconstructor_factory: ReconstructorFactory = _CREATE_IN_SEPARATE_PROCESS,
                 **options: Any) -> None:
        """Declare the parameters.

        Args:
            reconstructor_factory: creates the reconstructor, on the worker thread.
            options: as for rclpy's Node.

        """
        super().__init__("vggt_slam", **options)
        self._reconstructor_factory = reconstructor_factory
        self.config = parameters.declare(self)
        parameters.on_change(self, lambda: self.config, self._apply_config)
        self._buffer = Buffer(cache_time=Duration(seconds=30), node=self)  # windows are solved with a delay
        self.commands = CommandServices(self, ("reset", "save_map", "load_map"))
        self._is_configured = False
        self._active = False

    # Lifecycle.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Create all parts of the node; the worker loads the reconstructor, in the meantime the state is LOADING."""
        self._log = NodeLogHandler(self.get_logger())
        self.reconstructor = DeferredReconstructor(self._reconstructor_factory, self.config)
        self.slam = Slam(self.config, self.reconstructor)
        self._results: deque[Update | Exception] = deque()
        self._results_ready = self.create_guard_condition(self._process_results)
        self.worker = Worker(self.slam, self._queue_result, self._queue_result)
        self.worker.call(self.reconstructor.load)
        self.transforms = Transforms(self, self.config.tf, self._buffer, self.config.odometry_source == "tf")
        self.outputs = Outputs(self, self.config.tf, self.transforms, self.slam, self._run_in_worker)
        self.source = ImageSource(self, self.config.camera, self._image_size,
                                  lambda frame, camera_frame: self.tracking.track(frame, camera_frame), self.reset,
                                  lambda: self.reconstructor.was_ready)
        self.metric = MetricInput(self, self.config, self.slam, self.transforms, self.source, self.worker.call)
        self.monitor = StatusMonitor(self.slam, self.worker, self.source, self.reconstructor, self.metric)
        self._reset_done: Future[Any] | None = None
        self.tracking = ImageTracking(self, self.slam, self.worker, self.source, self.transforms, self.outputs,
                                      self.metric, self.monitor, self._is_resetting)
        self.maps = MapFiles(self, lambda: self.config, self.slam, self.transforms, self._run_in_worker, self.reset)
        self.monitor.map_error = lambda: self.maps.load_error
        self.monitor.assumption = lambda: self.transforms.clock_mismatch or self.transforms.assumption
        self.commands.set_handlers({"reset": self._reset_command, "save_map": self.maps.save,
                                    "load_map": self.maps.load})
        steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._periodic_timers = [self.create_timer(period, callback, clock=steady_clock) for period, callback in
                                 ((0.05, self._poll_tf), (0.5, self._poll_inputs), (1.0, self._publish_status))]
        self._is_configured = True
        self.maps.load_at_start()
        return Success

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe, and publish the results from while the node was inactive."""
        super().on_activate(state)
        self._active = True
        self.outputs.republish()
        self.tracking.resume()
        self.source.start()
        self.metric.start()
        self.get_logger().info(f"images from {self.source.topic}, calibration from {self.source.info_topic}")
        return Success

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and flush the partial window; the map is kept."""
        self.source.stop()
        self.metric.stop()
        self.tracking.flush()
        self._publish_status()
        self._active = False
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Destroy everything that `on_configure` created."""
        self.close()
        return Success

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Destroy everything that `on_configure` created."""
        self.close()
        return Success

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Destroy everything that `on_configure` created; the node can be configured again."""
        self.close()
        return Success

    def close(self) -> None:
        """Destroy everything that `on_configure` created; no effect if the node is not configured."""
        if not self._is_configured:
            return
        self._is_configured = self._active = False
        self.source.stop()
        self.metric.stop()
        self.reconstructor.cancel()
        self.worker.close()
        self.reconstructor.close()
        for timer in self._periodic_timers:
            self.destroy_timer(timer)
        self.commands.set_handlers({})
        self.maps.close()
        self.destroy_guard_condition(self._results_ready)
        self.outputs.close()
        self.transforms.close()
        self._log.close()

    # For every image; see also image_tracking.py.

    def _image_size(self, camera: Camera) -> tuple[int, int]:
        """Return the (width, height) to rectify images of a camera to, and let the reconstructor prepare for it."""
        size = self.reconstructor.image_size(camera)
        self.worker.call(lambda: self.reconstructor.prepare(*size))
        return size

    # For every window.

    def _queue_result(self, result: Update | Exception) -> None:
        """Queue a result, on the worker thread, and wake the executor."""
        self._results.append(result)
        self._results_ready.trigger()

    def _process_results(self) -> None:
        while self._results:
            result = self._results.popleft()
            if isinstance(result, Exception):
                self.get_logger().error(f"a window failed: {result!r}")
                self.monitor.error = repr(result)
            elif not self._is_resetting():
                self._publish_update(result)
        if self._active and not self._is_resetting():
            self.outputs.publish_changes()

    def _publish_update(self, update: Update) -> None:
        self.monitor.update, self.monitor.error = update, ""
        if update.refused:
            self.get_logger().warning(f"window {update.window}: {update.refused}")
        if update.new_submap:
            self.get_logger().warning(f"break in the map: submap {update.submap} starts here; its pose relative to the "
                                      "rest of the map is not known")
        if self._active:
            self.outputs.publish_keyframes(update.keyframes)
            self._publish_status()

    # Timers.

    def _poll_tf(self) -> None:
        if self._active and not self._is_resetting():
            self.transforms.broadcast_map_odom()
            self.metric.poll_tf()

    def _poll_inputs(self) -> None:
        self.maps.continue_loading()
        if not self._active:
            return
        self.source.warn_if_silent()
        pause = self.config.windows.flush_after
        if pause > 0:
            self.tracking.flush(pause)
        if not self._is_resetting():
            self.outputs.publish_changes()

    def _publish_status(self) -> None:
        status = self.monitor.status(self.get_fully_qualified_name().lstrip("/"), self._active)
        self.outputs.status.publish(status)
        if self._active and (problem := self.monitor.parallax_problem()):
            self.get_logger().warning(problem, throttle_duration_sec=30.0)
        now = self.get_clock().now().nanoseconds
        self.outputs.diagnostics.publish(DiagnosticArray(header=header(now, ""), status=[status]))

    def _apply_config(self, config: Config) -> None:
        """Apply settings that were changed while the node runs."""
        self.config = config
        if self._is_configured:
            self._run_in_worker(lambda: self.slam.configure(config))
            self.outputs.republish()

    # Commands.

    def reset(self, why: str, record: MapRecord | None = None) -> Future[Any]:
        """Reset to an empty map, or to the saved map `record`; windows of the old map are discarded.

        In mode localization, which needs a map, the saved map is then loaded again.
        """
        if not self._is_configured:
            raise RuntimeError("the node was cleaned up in the meantime")
        self.get_logger().warning(f"the map is reset: {why}")
        done = self.worker.reset() if record is None else self.worker.load(record)
        done.add_done_callback(self._drop_results)
        self._reset_done = done
        self.transforms.clear()
        self.transforms.loaded_world = None if record is None else record.map_world
        self.metric.clear()
        self.outputs.clear()
        self.monitor.clear()
        self.monitor.resets += 1
        if record is None:
            self.maps.reload()
        return done

    def _drop_results(self, _: Future[Any]) -> None:
        """Discard, on the worker thread, the results from before the reset that has just ended; wake the executor."""
        self._results.clear()
        self._results_ready.trigger()

    def _is_resetting(self) -> bool:
        """Return True while the worker still has the map from before a reset."""
        return self._reset_done is not None and not self._reset_done.done()

    def _reset_command(self) -> CommandSteps:
        yield self.reset("~/reset was called")
        return "the map is empty" if self.config.mode == "mapping" else "the saved map is loaded again"

    def _run_in_worker(self, function: Callable[[], Any]) -> Future[Any]:
        """Run a function on the worker thread and wake the executor when it is done."""
        future = self.worker.call(function)
        future.add_done_callback(lambda _: self._results_ready.trigger())
        return future


def main() -> int:
    """Run the node until it is interrupted."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print("usage: slam_node [--ros-args ...]\n\nThe lifecycle node vggt_slam; topics, services and parameters are "
              "listed in docs/reference.")
        return 0
    single_threaded_blas()
    shorten_switch_interval()
    return spin("vggt_slam", SlamNode)


if __name__ == "__main__":
    sys.exit(main())
