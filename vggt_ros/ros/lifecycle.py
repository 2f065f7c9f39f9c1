"""A lifecycle node that survives requests for transitions that its state does not allow."""

from __future__ import annotations

from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn


class TolerantLifecycleNode(LifecycleNode):
    """Refuses such a transition with a log message; in rclpy of Jazzy the error ends the executor and the node.

    `ros2 lifecycle set NODE activate` on a node that a launch file has already activated would cause this.
    """

    def _LifecycleNodeMixin__change_state(self, transition_id: int) -> TransitionCallbackReturn:  # noqa: N802
        """Execute a transition; overrides the private `__change_state` of rclpy, hence the mangled name."""
        try:
            done: TransitionCallbackReturn = super()._LifecycleNodeMixin__change_state(  # type: ignore[misc]
                transition_id)
            return done
        except rclpy_implementation.RCLError as error:
            state = self._state_machine.current_state[1]
            self.get_logger().error(f"transition {transition_id} is refused: {state} does not allow it "
                                    f"({str(error).splitlines()[0]})")
            return TransitionCallbackReturn.FAILURE
