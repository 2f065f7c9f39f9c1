"""A lifecycle node that survives what others send: messages that raise errors, and transitions it is not ready for."""

from __future__ import annotations

from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from vggt_ros.ros.common.guard import CallbackGuard
from vggt_ros.ros.common.namesakes import namesake_problems

START_TIME = 10.0
"""Seconds after which a node that nobody has activated says so."""


class TolerantLifecycleNode(LifecycleNode):
    """Guards every callback, and refuses a transition that its state does not allow, with a log message.

    In rclpy of Jazzy either error ends the executor and the node. `ros2 lifecycle set NODE activate` on a node that a
    launch file has already activated would cause the second.

    Attributes:
        guard: counts the errors.

    """

    def __init__(self, name: str, **options: Any) -> None:
        """Create the node; `options` are those of rclpy's LifecycleNode."""
        self.guard = CallbackGuard(self)  # first: the constructor of the node subscribes
        super().__init__(name, **options)
        self._start_timer = self.create_timer(START_TIME, self._say_what_it_waits_for,
                                              clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _say_what_it_waits_for(self) -> None:
        """Say once if nobody has configured the node, which looks as if it did nothing."""
        self._start_timer.cancel()
        name, others = self.get_fully_qualified_name(), namesake_problems(self)
        self.get_logger().warning(
            "; ".join([f"the node is unconfigured, and does nothing yet: `ros2 lifecycle set {name} configure`, then "
                       "the same with `activate`; slam.launch.py does it by itself, as a lifecycle manager does",
                       *others]))

    def create_subscription(self, msg_type: Any, topic: str, callback: Any, *arguments: Any, **options: Any) -> Any:
        """Subscribe with a guarded callback."""
        return super().create_subscription(msg_type, topic, self.guard.wrap(topic, callback), *arguments, **options)

    def create_timer(self, timer_period_sec: float, callback: Any, *arguments: Any, **options: Any) -> Any:
        """Create a timer with a guarded callback."""
        name = getattr(callback, "__qualname__", "timer")
        return super().create_timer(timer_period_sec, self.guard.wrap(name, callback), *arguments, **options)

    def create_guard_condition(self, callback: Any, *arguments: Any, **options: Any) -> Any:
        """Create a guard condition with a guarded callback."""
        name = getattr(callback, "__qualname__", "guard condition")
        return super().create_guard_condition(self.guard.wrap(name, callback), *arguments, **options)

    def _LifecycleNodeMixin__execute_callback(self, state_id: int,  # noqa: N802
                                              previous: LifecycleState) -> TransitionCallbackReturn:
        """Do what a transition does; an error, of which rclpy says nothing, is logged. Overrides a private method."""
        try:
            callback = self._callbacks.get(state_id)
            return TransitionCallbackReturn.SUCCESS if callback is None else callback(previous)
        except Exception as error:
            self.guard.report(self._state_machine.current_state[1], error)
            return TransitionCallbackReturn.ERROR

    def _LifecycleNodeMixin__change_state(self, transition_id: int) -> TransitionCallbackReturn:  # noqa: N802
        """Execute a transition; overrides the private `__change_state` of rclpy, hence the mangled name."""
        self._start_timer.cancel()
        try:
            done: TransitionCallbackReturn = super()._LifecycleNodeMixin__change_state(  # type: ignore[misc]
                transition_id)
            return done
        except rclpy_implementation.RCLError as error:
            state = self._state_machine.current_state[1]
            self.get_logger().error(f"transition {transition_id} is refused: {state} does not allow it "
                                    f"({str(error).splitlines()[0]})", throttle_duration_sec=1.0)
            return TransitionCallbackReturn.FAILURE
