"""Running a node until SIGINT, with its exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation

from vggt_ros.ros.interrupts import single_interrupt
from vggt_ros.settings import ConfigError


def spin(name: str, create: Callable[[], Any]) -> int:
    """Run the node that `create` returns; return the exit status, 2 if a parameter is invalid."""
    with single_interrupt():
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
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        executor.spin()
    except ExternalShutdownException:
        pass
    except rclpy_implementation.RCLError:  # a callback published while a signal shut the context down
        if rclpy.ok():
            raise
    finally:
        node.close()
        node.destroy_node()
    return 0
