#!/usr/bin/env python3
"""The lifecycle node: converts, hands over, publishes. Images are tracked here, windows are solved by the worker."""

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
from vggt_ros.reconstruction.deferred import READY, DeferredReconstructor, ReconstructorFactory
from vggt_ros.ros import parameters
from vggt_ros.ros.commands import Commands, Steps
from vggt_ros.ros.diagnostics import Monitor
from vggt_ros.ros.image_source import ImageSource
from vggt_ros.ros.image_tracking import ImageTracking
from vggt_ros.ros.lifecycle import SteadyLifecycleNode
from vggt_ros.ros.log import NodeLog
from vggt_ros.ros.map_files import MapFiles
from vggt_ros.ros.messages import header
from vggt_ros.ros.metric_input import MetricInput
from vggt_ros.ros.outputs import Outputs
from vggt_ros.ros.spinning import spin
from vggt_ros.ros.transforms import Frames
from vggt_ros.slam import Slam
from vggt_ros.storage.map_record import MapRecord
from vggt_ros.threads import shorten_switch_interval, single_threaded_blas
from vggt_ros.windows.solution import Update
from vggt_ros.worker import Worker

_IN_SEPARATE_PROCESS = partial(create_reconstructor, separate_process=True)
Success = TransitionCallbackReturn.SUCCESS


class SlamNode(SteadyLifecycleNode):
    """Dense monocular SLAM; topics, services, transforms and parameters are listed in the README."""

    def __init__(self, create: ReconstructorFactory = _IN_SEPARATE_PROCESS, **options: Any) -> None:
        """Declare the parameters.

        Args:
            create: makes the reconstructor, on the worker's thread, and says why it is this one.
            options: as for rclpy's Node.

        """
        super().__init__("vggt_slam", **options)
        self._create = create
        self.config = parameters.declare(self)
        parameters.on_change(self, lambda: self.config, self._change)
        self._buffer = Buffer(cache_time=Duration(seconds=30), node=self)  # results come late
        self.commands = Commands(self, ("reset", "save_map", "load_map"))
        self._parts_made = False
        self._active = False

    # Lifecycle.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Make the parts; the reconstructor is loaded by the worker, while the state is LOADING."""
        self._log = NodeLog(self.get_logger())
        self.reconstructor = DeferredReconstructor(self._create, self.config)
        self.slam = Slam(self.config, self.reconstructor)
        self._updates: deque[Update | Exception] = deque()
        self._wake = self.create_guard_condition(self._take_updates)
        self.worker = Worker(self.slam, self._hand_over, self._hand_over)
        self.worker.call(self.reconstructor.load)
        self.frames = Frames(self, self.config.tf, self._buffer, self.config.odometry_source == "tf")
        self.outputs = Outputs(self, self.config.tf, self.frames, self.slam, self._in_worker)
        self.source = ImageSource(self, self.config.camera, self._image_size,
                                  lambda frame, camera_frame: self.tracking.take(frame, camera_frame), self.reset,
                                  lambda: self.reconstructor.state == READY)
        self.metric = MetricInput(self, self.config, self.slam, self.frames, self.source, self.worker.call)
        self.monitor = Monitor(self.slam, self.worker, self.source, self.reconstructor, self.metric)
        self._resetting: Future[Any] | None = None
        self.tracking = ImageTracking(self, self.slam, self.worker, self.source, self.frames, self.outputs, self.metric,
                                      self.monitor, self._is_resetting)
        self.maps = MapFiles(self, lambda: self.config, self.slam, self.frames, self._in_worker, self.reset)
        self.monitor.trouble = lambda: self.maps.trouble
        self.monitor.doubt = lambda: self.frames.apart or self.frames.assumed
        self.commands.serve({"reset": self._reset_command, "save_map": self.maps.save, "load_map": self.maps.load})
        wall = Clock(clock_type=ClockType.STEADY_TIME)
        self._timers_made = [self.create_timer(period, callback, clock=wall) for period, callback in
                             ((0.05, self._tick), (0.5, self._look_after), (1.0, self._report))]
        self._parts_made = True
        self.maps.load_at_start()
        return Success

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe; what was solved meanwhile is published."""
        super().on_activate(state)
        self._active = True
        self.outputs.republish()
        self.tracking.resume()
        self.source.start()
        self.metric.start()
        self.get_logger().info(f"images from {self.source.topic}, calibration from {self.source.info_topic}")
        return Success

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and solve what waits; the map stays."""
        self.source.stop()
        self.metric.stop()
        self.tracking.flush()
        self._report()
        self._active = False
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Drop everything."""
        self.close()
        return Success

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Drop everything."""
        self.close()
        return Success

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Drop everything; the node can be configured again."""
        self.close()
        return Success

    def close(self) -> None:
        """Drop everything that `on_configure` made; harmless if there is nothing."""
        if not self._parts_made:
            return
        self._parts_made = self._active = False
        self.source.stop()
        self.metric.stop()
        self.reconstructor.cancel_loading()
        self.worker.close()
        self.reconstructor.close()
        for timer in self._timers_made:
            self.destroy_timer(timer)
        self.commands.serve({})
        self.maps.close()
        self.destroy_guard_condition(self._wake)
        self.outputs.close()
        self.frames.close()
        self._log.close()

    # Every image; see also image_tracking.py.

    def _image_size(self, camera: Camera) -> tuple[int, int]:
        """Return the working size for a camera, for which the reconstructor prepares before the first window."""
        size = self.reconstructor.image_size(camera)
        self.worker.call(lambda: self.reconstructor.prepare(*size))
        return size

    # Every window.

    def _hand_over(self, result: Update | Exception) -> None:
        """Take a result on the worker's thread and wake the executor."""
        self._updates.append(result)
        self._wake.trigger()

    def _take_updates(self) -> None:
        while self._updates:
            result = self._updates.popleft()
            if isinstance(result, Exception):
                self.get_logger().error(f"a window was lost: {result!r}")
                self.monitor.error = repr(result)
            elif not self._is_resetting():
                self._publish(result)
        if self._active and not self._is_resetting():
            self.outputs.refresh()

    def _publish(self, update: Update) -> None:
        self.monitor.update, self.monitor.error = update, ""
        if update.refused:
            self.get_logger().warning(f"window {update.window}: {update.refused}")
        if update.new_submap:
            self.get_logger().warning(f"the map is broken here: submap {update.submap} begins; where it lies in the "
                                      "map is not known")
        if self._active:
            self.outputs.publish_keyframes(update.keyframes)
            self._report()

    # Now and then.

    def _tick(self) -> None:
        if self._active and not self._is_resetting():
            self.frames.tick()
            self.metric.tick()

    def _look_after(self) -> None:
        self.maps.look_after()
        if not self._active:
            return
        self.source.warn_if_silent()
        pause = self.config.windows.flush_after
        if pause > 0:
            self.tracking.flush(pause)
        if not self._is_resetting():
            self.outputs.refresh()

    def _report(self) -> None:
        status = self.monitor.status(self.get_fully_qualified_name().lstrip("/"), self._active)
        self.outputs.status.publish(status)
        if self._active and (stuck := self.monitor.stuck()):
            self.get_logger().warning(stuck, throttle_duration_sec=30.0)
        now = self.get_clock().now().nanoseconds
        self.outputs.diagnostics.publish(DiagnosticArray(header=header(now, ""), status=[status]))

    def _change(self, config: Config) -> None:
        """Take settings that changed while the node runs."""
        self.config = config
        if self._parts_made:
            self._in_worker(lambda: self.slam.configure(config))
            self.outputs.republish()

    # Commands.

    def reset(self, why: str, record: MapRecord | None = None) -> Future[Any]:
        """Begin an empty map, or with a saved one, at once; windows of the old one end without effect.

        In mode localization, which would have nothing to find itself in, the saved map follows.
        """
        if not self._parts_made:
            raise RuntimeError("the node was cleaned up meanwhile")
        self.get_logger().warning(f"the map begins anew: {why}")
        done = self.worker.reset() if record is None else self.worker.load(record)
        done.add_done_callback(self._forget_updates)
        self._resetting = done
        self.frames.clear()
        self.frames.loaded_world = None if record is None else record.map_world
        self.metric.clear()
        self.outputs.clear()
        self.monitor.clear()
        self.monitor.resets += 1
        if record is None:
            self.maps.load_again()
        return done

    def _forget_updates(self, _: Future[Any]) -> None:
        """Drop, on the worker's thread, the updates of before the reset that just ended, and wake the executor."""
        self._updates.clear()
        self._wake.trigger()

    def _is_resetting(self) -> bool:
        """Return True while the worker still holds the map of before a reset."""
        return self._resetting is not None and not self._resetting.done()

    def _reset_command(self) -> Steps:
        yield self.reset("~/reset was called")
        return "the map is empty" if self.config.mode == "mapping" else "the saved map is loaded again"

    def _in_worker(self, function: Callable[[], Any]) -> Future[Any]:
        """Run a function on the worker's thread and wake the executor when it is done."""
        future = self.worker.call(function)
        future.add_done_callback(lambda _: self._wake.trigger())
        return future


def main() -> int:
    """Run the node until it is interrupted."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print("usage: slam_node [--ros-args ...]\n\nThe lifecycle node vggt_slam; topics, services and parameters are "
              "listed in the README.")
        return 0
    single_threaded_blas()
    shorten_switch_interval()
    return spin("vggt_slam", SlamNode)


if __name__ == "__main__":
    sys.exit(main())
