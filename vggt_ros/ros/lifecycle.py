"""A lifecycle node that stays up when it is asked for a transition that its state does not allow."""

from __future__ import annotations

from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn


class SteadyLifecycleNode(LifecycleNode):
    """Refuses such a transition and says so; in rclpy of Jazzy the error ends the executor, and so the node.

    `ros2 lifecycle set NODE activate` on a node that a launch file has activated already is enough for that.
    """

    def _LifecycleNodeMixin__change_state(self, transition_id: int) -> TransitionCallbackReturn:  # noqa: N802
        """Carry out a transition; the name is what rclpy makes of its own `__change_state`."""
        try:
            done: TransitionCallbackReturn = super()._LifecycleNodeMixin__change_state(  # type: ignore[misc]
                transition_id)
            return done
        except rclpy_implementation.RCLError as error:
            state = self._state_machine.current_state[1]
            self.get_logger().error(f"transition {transition_id} is refused: {state} does not allow it "
                                    f"({str(error).splitlines()[0]})")
            return TransitionCallbackReturn.FAILURE
