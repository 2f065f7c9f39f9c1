"""Solves windows for robots without a GPU: the other side of the reconstructor `remote`."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from functools import partial
from typing import Any

import rclpy
from rclpy.action import ActionServer, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.node import Node
from vggt_ros_msgs.action import ReconstructWindow

from vggt_ros.reconstruction import create_reconstructor
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.reconstruction.deferred import READY, DeferredReconstructor, ReconstructorFactory
from vggt_ros.ros.common import parameters
from vggt_ros.ros.common.dds_profile import use_given_transports
from vggt_ros.ros.common.interrupts import bounded_end, single_interrupt
from vggt_ros.ros.common.log import NodeLogHandler
from vggt_ros.ros.common.spinning import END_TIMEOUT, initialize, without_ros_arguments
from vggt_ros.ros.remote.window_messages import MessageError, geometry_message, goal_window
from vggt_ros.settings import ConfigError
from vggt_ros.threads import single_threaded_blas

_SIGN_OF_LIFE = 0.5
"""Period of the feedback, seconds."""
_MAX_WAITING = 3
"""Most windows that wait or are being solved; more are rejected, and the clients try again."""
_REMEMBERED = 8
"""Newest answers that are kept, for clients that did not get them."""
_CREATE_IN_SEPARATE_PROCESS = partial(create_reconstructor, separate_process=True)
Result = ReconstructWindow.Result
Key = tuple[str, int, int]


class ReconstructionServer(Node):
    """Offers the action `~/reconstruct`; its parameters are those of the node, such as `reconstructor`."""

    def __init__(self, factory: ReconstructorFactory = _CREATE_IN_SEPARATE_PROCESS, **options: Any) -> None:
        """Begin to load the reconstructor; `options` as for rclpy's Node.

        Raises:
            ConfigError: a parameter is invalid, or the reconstructor is `remote` itself.

        """
        super().__init__("reconstruction_server", **options)
        config = parameters.declare(self)
        if config.reconstructor == "remote":
            raise ConfigError("reconstructor: remote cannot be that of a server; set auto, or one of this machine")
        self._log_handler = NodeLogHandler(self.get_logger())
        self._reconstructor = DeferredReconstructor(factory, config)
        self._pool = ThreadPoolExecutor(1, "reconstructor")
        self._jobs: OrderedDict[Key, Future[Any]] = OrderedDict()
        self._lock = threading.Lock()
        self._is_closed = False
        self._pool.submit(self._reconstructor.load)
        self._actions = ActionServer(self, ReconstructWindow, "~/reconstruct", self._execute,
                                     goal_callback=self._accept, callback_group=ReentrantCallbackGroup(),
                                     result_timeout=30)

    def close(self) -> None:
        """End the reconstructor; what is being solved is given up."""
        self._is_closed = True
        self._reconstructor.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._reconstructor.close()
        self._log_handler.close()

    def _accept(self, goal: Any) -> GoalResponse:
        """Accept a goal if the reconstructor is ready, and not too many windows wait."""
        if not goal.keyframes:  # the client asks whether answers arrive
            return GoalResponse.REJECT
        with self._lock:
            known = _key(goal) in self._jobs
            is_free = sum(not job.done() for job in self._jobs.values()) < _MAX_WAITING
        if self._reconstructor.state == READY and (known or is_free):
            return GoalResponse.ACCEPT
        self.get_logger().info(f"window {goal.window} of {goal.client} is rejected: the reconstructor is "
                               f"{self._reconstructor.state}, {self._reconstructor.detail}", throttle_duration_sec=5.0)
        return GoalResponse.REJECT

    def _execute(self, handle: Any) -> Any:
        """Wait for the answer, and show that the server is alive meanwhile; on a thread of the executor."""
        goal = handle.request
        job = self._job(goal)
        while not self._is_closed:
            try:
                result = job.result(_SIGN_OF_LIFE)
            except StillRunning:
                handle.publish_feedback(ReconstructWindow.Feedback(waiting=self._waiting()))
                continue
            except Exception as error:
                result = Result(outcome=Result.FAILED, reason=f"window {goal.window}: {error}"[:500])
                with self._lock:  # the next attempt is computed
                    self._jobs.pop(_key(goal), None)
                self.get_logger().error(result.reason)
            handle.succeed()
            return result
        handle.abort()
        return Result(outcome=Result.FAILED, reason="the server ends")

    def _job(self, goal: Any) -> Future[Any]:
        """Return the job of a goal: a new one, unless the same goal came before."""
        key = _key(goal)
        with self._lock:
            if key not in self._jobs:
                self._jobs[key] = self._pool.submit(self._solve, goal)
                while len(self._jobs) > _REMEMBERED + _MAX_WAITING:
                    self._jobs.popitem(last=False)
            return self._jobs[key]

    def _solve(self, goal: Any) -> Any:
        """Solve a window, on the reconstructor's thread."""
        began = time.monotonic()
        try:
            geometry = self._reconstructor.reconstruct(goal_window(goal))
        except (ReconstructionRefused, MessageError) as refusal:
            return Result(outcome=Result.REFUSED, reason=str(refusal), reconstructor=self._reconstructor.detail)
        seconds = time.monotonic() - began
        self.get_logger().info(f"window {goal.window} of {goal.client[:8]}: {len(goal.keyframes)} keyframes in "
                               f"{seconds:.2f} s", throttle_duration_sec=5.0)
        return Result(outcome=Result.SOLVED, geometry=geometry_message(geometry, goal.lossless), seconds=seconds,
                      reconstructor=self._reconstructor.detail)

    def _waiting(self) -> int:
        with self._lock:
            return sum(not job.done() for job in self._jobs.values())


def _key(goal: Any) -> Key:
    """Return what tells a window from all others; with the same ids, attempts at other sizes of a window differ."""
    return goal.client, goal.window, hash(tuple(keyframe.id for keyframe in goal.keyframes))


def main(args: list[str] | None = None, factory: ReconstructorFactory = _CREATE_IN_SEPARATE_PROCESS) -> int:
    """Run the server until it is interrupted; `factory` creates its reconstructor."""
    parser = argparse.ArgumentParser(prog="reconstruction_server", description="Solves windows for nodes with "
                                     "reconstructor: remote. The parameters are those of the node: --ros-args "
                                     "--params-file FILE (docs/how-to/robot-without-gpu.md).")
    parser.parse_args(without_ros_arguments(parser.prog, sys.argv)[1:] if args is None else args)
    single_threaded_blas()
    use_given_transports()
    with single_interrupt(), bounded_end(END_TIMEOUT):
        if not initialize("reconstruction_server"):
            return 2
        try:
            server = ReconstructionServer(factory)
        except (ConfigError, InvalidParameterTypeException, InvalidParameterValueException) as error:
            print(f"reconstruction_server: {error}", file=sys.stderr)
            return 2
        executor = MultiThreadedExecutor(_MAX_WAITING + 2)
        executor.add_node(server)
        try:
            executor.spin()
        except ExternalShutdownException:
            pass
        finally:
            server.close()
            rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
