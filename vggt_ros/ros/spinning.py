"""Running a node until SIGINT, with its exit status, whatever messages arrive meanwhile."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException
from rclpy.impl.implementation_singleton import rclpy_implementation

from vggt_ros.ros.executor import TolerantExecutor
from vggt_ros.ros.interrupts import bounded_end, single_interrupt
from vggt_ros.settings import ConfigError

END_TIMEOUT = 4.0
"""Longest time from SIGINT until the process is ended, seconds; launch escalates after five, and the system needs up to
a second to release the memory of a process on a busy machine."""


def spin(name: str, create: Callable[[], Any]) -> int:
    """Run the node that `create` returns; return the exit status, 2 if a parameter is invalid."""
    with single_interrupt(), bounded_end(END_TIMEOUT):
        rclpy.init()
        try:
            return _spin(name, create)
        finally:
            rclpy.try_shutdown()
    return 0


def _spin(name: str, create: Callable[[], Any]) -> int:
    try:
        node = create()
    except (ConfigError, InvalidParameterTypeException, InvalidParameterValueException) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    executor = TolerantExecutor()
    executor.add_node(node)
    try:
        _spin_guarded(executor, node)
    except ExternalShutdownException:
        pass
    except rclpy_implementation.RCLError:  # a callback published while a signal shut the context down
        if rclpy.ok():
            raise
    finally:
        node.close()
        node.destroy_node()
    return 0


def _spin_guarded(executor: TolerantExecutor, node: Any) -> None:
    """Spin until the context is shut down; an error of rclpy itself is reported, and spinning goes on.

    Errors of callbacks and of messages do not come here: see `CallbackGuard` and `TolerantExecutor`.
    """
    while node.context.ok():
        try:
            executor.spin()
            return
        except ExternalShutdownException:
            raise
        except Exception as error:
            if not hasattr(node, "guard") or not node.context.ok():
                raise
            node.guard.report("the executor", error)
            time.sleep(0.01)  # whatever goes on failing leaves some time to others
