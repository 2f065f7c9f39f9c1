"""A guard around the callbacks of a node: an error in one is logged with its topic and counted, and the node lives.

A message may come from anyone on the network. Whatever it makes a callback raise, the next message is processed.
"""

from __future__ import annotations

import functools
import inspect
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from vggt_ros.ros.common.log import Throttle


class CallbackGuard:
    """Wraps callbacks.

    Attributes:
        errors: number of errors of each topic, and of each timer by the name of its function.
        last: the newest error, with its topic; empty if there was none.

    """

    def __init__(self, node: Node) -> None:
        """Log with the logger of `node`."""
        self._node = node
        self._throttle = Throttle()
        self.errors: Counter[str] = Counter()
        self.last = ""

    def wrap(self, name: str, callback: Callable[..., Any]) -> Callable[..., Any]:
        """Return `callback` with the same parameters, whose errors are logged and counted under `name`."""
        if inspect.iscoroutinefunction(callback):
            return callback

        @functools.wraps(callback)
        def guarded(*arguments: Any) -> Any:
            try:
                return callback(*arguments)
            except Exception as error:
                self.report(name, error)
                return None

        return guarded

    def report(self, name: str, error: Exception) -> None:
        """Count an error and log it, the first of its topic with a traceback; at the end of the process raise it."""
        if isinstance(error, ExternalShutdownException) or not self._node.context.ok():
            raise error
        self.errors[name] += 1
        self.last = f"{name}: {error!r}"[:500]
        if self._throttle(name):
            trace = "\n" + "".join(traceback.format_exception(error)) if self.errors[name] == 1 else ""
            self._node.get_logger().error(f"{self.last} (error {self.errors[name]} in this callback){trace}")
