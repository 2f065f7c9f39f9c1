"""The services of the node: commands that run on the worker thread while the node continues to process images."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode

from vggt_ros.ros.common.log import Throttle

CommandSteps = Generator["Future[Any]", Any, str]
"""A command as a generator: yields each future to wait for, is sent its result, and returns the response text."""


Handler = Callable[[Any, Any], CommandSteps]
"""Begins a command, given the request and the response, whose fields beside `success` and `message` it may set."""


def plain(command: Callable[[], CommandSteps]) -> Handler:
    """Return the handler of a command without arguments, for std_srvs/Trigger."""
    return lambda request, response: command()


class CommandServices:
    """Services that respond when their command is done, or with the reason why it failed.

    They exist as long as the node. If cleanup destroyed a service, it could not respond to a pending request, and rclpy
    would end the node because of that.
    """

    def __init__(self, node: LifecycleNode, services: Mapping[str, type]) -> None:
        """Create a service `~/name` of a type for every command; types with `success` and `message` have the answer."""
        self._node = node
        self._throttle = Throttle(1.0)
        self._handlers: Mapping[str, Handler] = {}
        group = MutuallyExclusiveCallbackGroup()  # while a command waits, callbacks of the default group continue
        for name, kind in services.items():
            node.create_service(kind, f"~/{name}", self._make_callback(name), callback_group=group)

    def set_handlers(self, handlers: Mapping[str, Handler]) -> None:
        """Set the commands to run; requests for a missing command are refused as not configured."""
        self._handlers = handlers

    def _make_callback(self, name: str) -> Callable[..., Any]:
        async def callback(request: Any, response: Any) -> Any:
            success, message = True, ""
            try:
                if name not in self._handlers:
                    raise RuntimeError("the node is not configured")
                message = await _run_steps(self._handlers[name](request, response))
            except Exception as error:  # whatever it is, the node stays up
                success, message = False, f"{name} failed: {error}"
                if self._throttle(name):
                    self._node.get_logger().error(message)
            if hasattr(response, "success"):
                response.success, response.message = success, message
            return response

        return callback


async def _run_steps(steps: CommandSteps) -> str:
    """Run a command on the executor thread; an error of a future is raised at its yield in the command."""
    result: Any = None
    error: BaseException | None = None
    while True:
        try:
            future = steps.send(result) if error is None else steps.throw(error)
        except StopIteration as end:
            return str(end.value)
        try:
            result, error = await _AwaitFuture(future), None
        except Exception as raised:
            error = raised


class _AwaitFuture:
    """Awaitable for a coroutine in the executor of rclpy that waits for a future of another thread."""

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def __await__(self) -> Generator[None, None, Any]:
        while not self._future.done():
            yield
        return self._future.result()
