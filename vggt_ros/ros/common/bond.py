"""A bond with Nav2's lifecycle manager: heartbeats both ways while the node is active, as of nav2_util's LifecycleNode.

The protocol is that of the package bond (bond_core). Both sides send `bond/msg/Status` on one topic with the name of
the node as id, each with an instance id of its own. The first message of the other side forms the bond; `active:
false`, or silence, ends it, and the end is acknowledged by `active: false`. The heartbeats are sent by the executor: if
that hangs, the manager notices. After SIGINT nothing can be sent any more, and the manager notices by the silence.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode

try:
    from bond.msg import Constants, Status
    MISSING = ""
except ImportError as error:
    Constants = Status = None
    MISSING = str(error)
"""Why the messages of bond cannot be imported; empty if they can."""

WAITING, ALIVE, ENDING, DEAD = "waiting for the other side", "alive", "ending", "dead"
_TIMEOUT = 4.0
"""Silence of the other side that ends the bond, seconds; as in nav2_util."""


class Bond:
    """One side of a bond.

    Attributes:
        state: `WAITING`, `ALIVE`, `ENDING` (until the other side has acknowledged) or `DEAD`.

    """

    def __init__(self, node: LifecycleNode, period: float) -> None:
        """Prepare; `start` begins.

        Args:
            node: the node, whose name is the id of the bond.
            period: of the heartbeats, seconds; 0: there is no bond.

        """
        self._node, self._period = node, period
        self.state = DEAD
        self._timer: Any = None
        self._publisher: Any = None
        self._subscription: Any = None
        if period > 0 and MISSING:
            node.get_logger().info(f"no bond with a lifecycle manager: the package bond is not installed ({MISSING}); "
                                   "for Nav2 install it, or set bond_timeout of the lifecycle manager to 0.0")
        self._is_used = period > 0 and not MISSING

    def start(self) -> None:
        """Send heartbeats, and wait for those of the other side."""
        if not self._is_used:
            return
        self._release()
        self._instance, self._began, self._heard, self._is_silent = str(uuid.uuid4()), time.monotonic(), 0.0, False
        self.state = WAITING
        self._publisher = self._node.create_publisher(Status, "bond", 5)
        self._subscription = self._node.create_subscription(Status, "bond", self._take, 100)
        self._set_timer(self._period)

    def stop(self) -> None:
        """End the bond; the other side is told until it has acknowledged."""
        if self.state in (WAITING, ALIVE):
            self.state, self._began = ENDING, time.monotonic()
            self._publish(False)
            self._set_timer(Constants.DEAD_PUBLISH_PERIOD)

    def close(self) -> None:
        """End the bond without waiting for the other side."""
        if self.state != DEAD:
            with contextlib.suppress(rclpy_implementation.RCLError):  # a signal has shut the context down
                self._publish(False)
        self.state = DEAD
        self._release()

    def _take(self, message: Status) -> None:
        """Take a message of the other side."""
        if message.id != self._node.get_name() or message.instance_id == self._instance or self.state == DEAD:
            return
        if message.active:
            self._heard = time.monotonic()
            if self.state == WAITING:
                self.state = ALIVE
                self._node.get_logger().info("bonded with a lifecycle manager")
        else:
            if self.state != ENDING:
                self._publish(False)
                self._node.get_logger().info("the lifecycle manager ended the bond")
            self.state = DEAD

    def _tick(self) -> None:
        now = time.monotonic()
        limits = {WAITING: Constants.DEFAULT_CONNECT_TIMEOUT, ENDING: Constants.DEFAULT_DISCONNECT_TIMEOUT}
        if now - self._began > limits.get(self.state, np.inf):
            self.state = DEAD
        elif self.state == ALIVE:
            # Twice: after a delay of this node, heartbeats that wait in the queue are taken first.
            was_silent, self._is_silent = self._is_silent, now - self._heard > _TIMEOUT
            if was_silent and self._is_silent:
                self.state = DEAD
                self._node.get_logger().warning(f"no heartbeat of the lifecycle manager for {now - self._heard:.0f} s: "
                                                "the bond is broken; the node stays active")
        if self.state == DEAD:
            self._set_timer(None)
        else:
            self._publish(self.state != ENDING)

    def _publish(self, active: bool) -> None:
        assert self._publisher is not None
        message = Status(id=self._node.get_name(), instance_id=self._instance, active=active,
                         heartbeat_timeout=_TIMEOUT, heartbeat_period=self._period)
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def _set_timer(self, period: float | None) -> None:
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
        self._timer = None if period is None else \
            self._node.create_timer(period, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _release(self) -> None:
        self._set_timer(None)
        if self._publisher is not None:
            self._node.destroy_publisher(self._publisher)
            self._node.destroy_subscription(self._subscription)
        self._publisher = self._subscription = None
