"""The lifecycle node `vggt_slam`: images are tracked on the executor thread, windows are solved by the worker."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from typing import Any

from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from tf2_ros import Buffer

from vggt_ros.config import Config
from vggt_ros.features.description import describe_keyframe
from vggt_ros.geometry.camera import Camera
from vggt_ros.heap import single_heap
from vggt_ros.mapping.files.restored_map import RestoredMap
from vggt_ros.reconstruction import create_reconstructor
from vggt_ros.reconstruction.deferred import DeferredReconstructor, ReconstructorFactory
from vggt_ros.ros.common import parameters
from vggt_ros.ros.common.bond import Bond
from vggt_ros.ros.common.dds_profile import use_node_profile
from vggt_ros.ros.common.log import NodeLogHandler
from vggt_ros.ros.common.namesakes import namesake_problems
from vggt_ros.ros.common.spinning import spin, take_ros_arguments
from vggt_ros.ros.conversions import interfaces
from vggt_ros.ros.inputs.image_source import ImageSource
from vggt_ros.ros.inputs.initial_pose import InitialPose
from vggt_ros.ros.inputs.metric_scale import MetricInput
from vggt_ros.ros.node.commands import NodeCommands
from vggt_ros.ros.node.image_tracking import ImageTracking
from vggt_ros.ros.node.live_settings import LiveSettings
from vggt_ros.ros.node.map_files import MapFiles
from vggt_ros.ros.node.parts import NodeParts
from vggt_ros.ros.node.periodic_work import PeriodicWork
from vggt_ros.ros.node.results import Results
from vggt_ros.ros.node.services import CommandServices
from vggt_ros.ros.node.window_results import WindowResults
from vggt_ros.ros.outputs.diagnostics import StatusMonitor
from vggt_ros.ros.outputs.publishers import Outputs
from vggt_ros.ros.tf.transforms import Transforms
from vggt_ros.settings import ConfigError
from vggt_ros.slam import Slam
from vggt_ros.threads import shorten_switch_interval, single_threaded_blas
from vggt_ros.worker import Worker

_CREATE_IN_SEPARATE_PROCESS = partial(create_reconstructor, separate_process=True, describe=describe_keyframe)
_CLOSE_TIMEOUT = 3.0
"""Longest wait for the worker when the node is closed, seconds; launch kills a node after 5 s."""
Success = TransitionCallbackReturn.SUCCESS


class SlamNode(NodeParts):
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
        self.commands = CommandServices(self, {**interfaces.SERVICES, **interfaces.TYPED_SERVICES})
        if interfaces.MISSING:
            self.get_logger().info("no ~/slam_status, ~/set_mode, ~/localize and services with names of maps: "
                                   f"vggt_ros_msgs is not built beside vggt_ros ({interfaces.MISSING})")
        self._is_configured = False

    # Lifecycle.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Create all parts of the node; the worker loads the reconstructor, in the meantime the state is LOADING."""
        with ExitStack() as closers:  # an error on the way closes what was created before
            self._create_parts(closers)
            self._closers = closers.pop_all()
        self._is_configured = True
        self.maps.load_at_start()
        return Success

    def _create_parts(self, closers: ExitStack) -> None:
        """Create all parts; `closers` closes those that were created, the newest first."""
        self._log = NodeLogHandler(self.get_logger())
        closers.callback(self._log.close)
        self.reconstructor = DeferredReconstructor(self._reconstructor_factory, self.config)
        closers.callback(self.reconstructor.close)
        self.slam = Slam(self.config, self.reconstructor)
        self.slam.search_in_background()
        self._results = Results(self, self._process_results)
        closers.callback(self._results.close)
        self.worker = Worker(self.slam, self._results.put, self._results.put)
        closers.callback(self._close_worker)
        self.worker.call(self.reconstructor.load)
        self.transforms = Transforms(self, self.config.tf, self._buffer, self.config.odometry_source == "tf")
        closers.callback(self.transforms.close)
        self.outputs = Outputs(self, self.config.tf, self.transforms, self.slam, self._run_in_worker,
                               lambda: self.metric.withholds)
        closers.callback(self.outputs.close)
        self.source = ImageSource(self, self.config.camera, self._image_size,
                                  lambda frame, camera_frame: self.tracking.track(frame, camera_frame), self._interrupt,
                                  lambda: self.reconstructor.was_ready)
        closers.callback(self.source.stop)
        self.metric = MetricInput(self, self.config, self.slam, self.transforms, self.source, self.worker.call)
        closers.callback(self.metric.stop)
        self.monitor = StatusMonitor(self.slam, self.worker, self.source, self.reconstructor, self.metric)
        self.windows = WindowResults(self, self.slam, self.outputs, self.monitor, self.transforms, self._run_in_worker)
        self._reset_done: Future[Any] | None = None
        self.live_settings = LiveSettings(self.slam, self._run_in_worker)
        self.tracking = ImageTracking(self, self.slam, self.worker, self.source, self.transforms, self.outputs,
                                      self.metric, self.monitor, self._is_resetting)
        self.maps = MapFiles(self, lambda: self.config, self.slam, self.transforms, self._run_in_worker, self.reset)
        closers.callback(self.maps.close)
        self.initial_pose = InitialPose(self, self.config.tf.map_frame, self.slam, self.transforms,
                                        lambda: self.maps.expects_map)
        closers.callback(self.initial_pose.close)
        self.monitor.map_error = lambda: self.maps.load_error
        self.monitor.callback_errors = lambda: self.guard.errors
        self.monitor.problems = lambda: [*self.source.problems(), *self.metric.problems(), *self.monitor.contradictions,
                                         *self.transforms.problems(), *self.maps.problems, *namesake_problems(self)]
        self.monitor.map_problems = lambda: self.maps.problems
        self.transforms.may_send = lambda: not self.metric.withholds
        self.monitor.late_transforms = lambda: self.transforms.mounting.late
        self.monitor.is_paused, self.monitor.map_adjusted = lambda: self.is_paused, lambda: self.maps.adjuster.report
        self.commands.set_handlers(NodeCommands(self, self.reset).handlers())
        closers.callback(self.commands.set_handlers, {})
        self.periodic_work = PeriodicWork(self)
        closers.callback(self.periodic_work.close)
        self.bond = Bond(self, self.config.bond_heartbeat_period)
        closers.callback(self.bond.close)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe, and publish the results from while the node was inactive."""
        super().on_activate(state)
        self.is_active = True
        self.outputs.republish()
        self.resume()
        self.bond.start()
        self.get_logger().info(f"images from {self.source.topic}, calibration from {self.source.info_topic}")
        return Success

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and flush the partial window; the map is kept."""
        self.bond.stop()
        self.pause()
        self.is_paused = False
        self.periodic_work.publish_status()
        self.is_active = False
        return super().on_deactivate(state)

    def pause(self) -> None:
        """Unsubscribe and flush the partial window; map and TF stay, and the state is active."""
        self.source.stop()
        self.metric.stop()
        self.tracking.flush()
        self.is_paused = True

    def resume(self) -> None:
        """Subscribe; the images go on where the camera is found."""
        self.tracking.resume()
        self.source.start()
        self.metric.start()
        self.is_paused = False

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
        self.maps.autosave()
        self._is_configured = self.is_active = False
        self._closers.close()

    def _close_worker(self) -> None:
        self.reconstructor.cancel()
        if not self.worker.close(_CLOSE_TIMEOUT):
            self.get_logger().error(f"the worker has not ended after {_CLOSE_TIMEOUT:g} s; what it does is given up")

    # For every image; see also image_tracking.py.

    def _image_size(self, camera: Camera) -> tuple[int, int]:
        """Return the (width, height) to rectify images of a camera to, and let the reconstructor prepare for it."""
        size = self.reconstructor.image_size(camera)
        self.worker.call(lambda: self.reconstructor.prepare(*size))
        return size

    # For every window.

    def _process_results(self) -> None:
        for result in self._results.take():
            if isinstance(result, Exception):
                self.windows.take_error(result)
            elif not self._is_resetting():
                self.windows.take_update(result, self.is_active)
                self.periodic_work.publish_status()
        if self.is_active and not self._is_resetting():
            self.outputs.publish_changes()

    def _apply_config(self, config: Config) -> None:
        """Apply settings that were changed while the node runs; raises ConfigError where that is not possible."""
        previous, self.config = self.config, config
        if self._is_configured:
            if config.mode != previous.mode:
                try:
                    self.tracking.change_mode(config.mode)
                except ConfigError:
                    self.config = previous
                    raise
                self.get_logger().info(f"the mode is now {config.mode}")
            self.transforms.configure(config.tf)
            self.outputs.republish()
            self.live_settings.apply(config)

    # Commands.

    def reset(self, why: str, restored: RestoredMap | None = None) -> Future[Any]:
        """Reset to an empty map, or to a saved map that was `restored`; windows of the old map are discarded.

        In mode localization, which needs a map, the saved map is then loaded again.
        """
        if not self._is_configured:
            raise RuntimeError("the node was cleaned up in the meantime")
        self.get_logger().warning(f"the map is reset: {why}", throttle_duration_sec=1.0)
        self.maps.autosave()
        self._reset_done = done = self.worker.reset() if restored is None else self.worker.load(restored)
        done.add_done_callback(self._results.drop)
        self.tracking.clear()
        self.transforms.clear()
        self.transforms.loaded_world = None if restored is None else restored.record.map_world
        self.metric.clear()
        self.outputs.clear()
        self.monitor.clear()
        self.monitor.resets += 1
        if restored is None:
            self.maps.reload()
        return done

    def _interrupt(self, why: str) -> None:
        """Begin a submap, because the next image does not continue the last one; in simulated time, reset the map."""
        if self.get_parameter("use_sim_time").value:
            self.reset(why)
            return
        self.get_logger().warning(f"a submap begins: {why}", throttle_duration_sec=1.0)
        self.maps.autosave()
        self.monitor.interruptions += 1
        self.metric.interrupt()
        self.transforms.interrupt()
        self.tracking.interrupt()

    @property
    def has_map(self) -> bool:
        """Whether the node is active and its map is not just being replaced."""
        return self.is_active and not self._is_resetting()

    def _is_resetting(self) -> bool:
        """Return True while the worker still has the map from before a reset."""
        return self._reset_done is not None and not self._reset_done.done()

    def _run_in_worker(self, function: Callable[[], Any]) -> Future[Any]:
        """Run a function on the worker thread and wake the executor when it is done."""
        return self._results.wake_when_done(self.worker.call(function))


def main() -> int:
    """Run the node until it is interrupted."""
    take_ros_arguments("slam_node", "The lifecycle node vggt_slam; topics, services and parameters are listed in "
                       "docs/reference.")
    single_heap()
    single_threaded_blas()
    shorten_switch_interval()
    if profile := use_node_profile():
        get_logger("vggt_slam").info(profile)
    return spin("vggt_slam", SlamNode)


if __name__ == "__main__":
    sys.exit(main())
