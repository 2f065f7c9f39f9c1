"""What the node does periodically, apart from its images: TF, silent inputs, changes of the map, status."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.impl.implementation_singleton import rclpy_implementation

from vggt_ros.ros.common.periodic import PeriodicThread
from vggt_ros.ros.conversions.messages import header
from vggt_ros.ros.conversions.typed_status import typed_status
from vggt_ros.ros.node.parts import NodeParts


class PeriodicWork:
    """The timers of a configured node, and the thread that sends map -> odom."""

    def __init__(self, node: NodeParts) -> None:
        """Start them, by wall time: they go on while simulated time stands still."""
        self._node, self._reported = node, ""
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timers = [node.create_timer(period, callback, clock=clock) for period, callback in
                        ((0.05, self._poll_tf), (0.5, self._poll_inputs), (1.0, self.publish_status))]
        self._map_odom_sender = PeriodicThread(self._send_map_odom, 0.02, "vggt_ros_map_odom")

    def close(self) -> None:
        """Stop them."""
        self._map_odom_sender.close()
        for timer in self._timers:
            self._node.destroy_timer(timer)

    def publish_status(self) -> None:
        """Publish the status, and log what is new in it."""
        node, log = self._node, self._node.get_logger()
        self._reported = node.reconstructor.state
        monitor, now = node.monitor, node.get_clock().now().nanoseconds
        status = monitor.status(node.get_fully_qualified_name().lstrip("/"), node.is_active)
        node.outputs.status.publish(status)
        if node.outputs.slam_status is not None:
            node.outputs.slam_status.publish(typed_status(
                header(now, node.config.tf.map_frame), node.is_active, node.is_paused, status.level, status.message,
                monitor.values(), monitor.problems()))
        for problem in monitor.new_problems(node.is_active):
            log.warning(problem)
        if (found := monitor.found_or_lost()) is not None:
            if found:
                log.info("tracking: the camera is found in the map")
            else:
                log.warning(status.message)
        if node.is_active and (problem := monitor.parallax_problem()):
            log.warning(problem, throttle_duration_sec=30.0)
        node.outputs.diagnostics.publish(DiagnosticArray(header=header(now, ""), status=[status]))

    def _adapt_qos(self, periodic: bool) -> None:
        """Follow the QoS that the publishers of the inputs offer."""
        self._node.source.adapt_qos(periodic)
        self._node.metric.adapt_qos(periodic)

    def _send_map_odom(self) -> None:
        """Send map -> odom, on a thread of its own: images that are tracked, or do not come, do not delay it."""
        if not self._node.has_map:
            return
        try:
            self._node.transforms.broadcast_map_odom()
        except rclpy_implementation.RCLError:  # a signal shut the context down meanwhile
            if self._node.context.ok():
                raise

    def _poll_tf(self) -> None:
        node = self._node
        if node.reconstructor.state != self._reported:  # whoever waits until it is loaded need not wait any longer
            self.publish_status()
        self._adapt_qos(periodic=False)
        if node.has_map:
            node.initial_pose.poll()
            node.tracking.publish()
            node.transforms.update_map_odom()
            node.metric.poll_tf()

    def _poll_inputs(self) -> None:
        node = self._node
        node.maps.continue_loading()
        if not node.is_active:
            return
        self._adapt_qos(periodic=True)
        node.transforms.watch.poll()
        node.outputs.grid.poll()
        node.source.warn_if_silent()
        pause = node.config.windows.flush_after
        if pause > 0:
            node.tracking.flush(pause)
        if node.has_map:
            node.outputs.publish_changes()
