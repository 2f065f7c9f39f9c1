"""Running a node until SIGINT, with its exit status, whatever messages arrive meanwhile."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException, NameValidationException
from rclpy.executors import ExternalShutdownException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.utilities import remove_ros_args

from vggt_ros.ros.common.executor import TolerantExecutor
from vggt_ros.ros.common.interrupts import bounded_end, single_interrupt
from vggt_ros.settings import ConfigError

END_TIMEOUT = 4.0
"""Longest time from SIGINT until the process is ended, seconds; launch escalates after five, and the system needs up to
a second to release the memory of a process on a busy machine."""


_ARGUMENT_ERRORS = (rclpy_implementation.RCLError, rclpy_implementation.UnknownROSArgsError)


def take_ros_arguments(prog: str, description: str) -> None:
    """Print help if it is asked for; end with status 2 if there are other arguments than those of ROS.

    Such as `--params-file` without `--ros-args` before it, which would be ignored.
    """
    parser = argparse.ArgumentParser(prog=prog, usage=f"{prog} [--ros-args ...]", description=description)
    if others := parser.parse_known_args(without_ros_arguments(prog, sys.argv)[1:])[1]:
        parser.error(f"{' '.join(others)}: only arguments of ROS are taken, behind --ros-args")


def without_ros_arguments(name: str, arguments: Sequence[str]) -> list[str]:
    """Return a command line without the arguments of ROS; end with status 2, and say why, if those are wrong."""
    try:
        return list(remove_ros_args(list(arguments)))
    except _ARGUMENT_ERRORS as error:
        _report(name, error)
        sys.exit(2)


def initialize(name: str, **options: Any) -> bool:
    """Initialize rclpy with the `options` of `rclpy.init`; return False, and say why, if arguments of ROS are wrong."""
    try:
        rclpy.init(**options)
    except _ARGUMENT_ERRORS as error:
        _report(name, error)
        return False
    return True


def _report(name: str, error: Exception) -> None:
    """Print what is wrong with arguments of ROS, without the places in the source of rcl."""
    text = re.sub(r", at \S+\.c:\d+", "", str(error)).removeprefix("failed to initialize rcl: ")
    unknown = isinstance(error, rclpy_implementation.UnknownROSArgsError)
    print(f"{name}: {'unknown arguments of ROS: ' if unknown else ''}{text}", file=sys.stderr)


def spin(name: str, create: Callable[[], Any]) -> int:
    """Run the node that `create` returns; return the exit status, 2 if an argument or a parameter is invalid."""
    with single_interrupt(), bounded_end(END_TIMEOUT):
        if not initialize(name):
            return 2
        try:
            return _spin(name, create)
        finally:
            rclpy.try_shutdown()
    return 0


def _spin(name: str, create: Callable[[], Any]) -> int:
    try:
        node = create()
    except (ConfigError, InvalidParameterTypeException, InvalidParameterValueException,
            NameValidationException) as error:
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
