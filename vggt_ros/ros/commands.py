"""The services: commands to the worker, for which images do not wait."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode
from std_srvs.srv import Trigger

Command = Callable[[], "tuple[Future[Any], str]"]
"""Starts a command; returns its future, which wakes the executor when it is done, and what to answer then."""


class Commands:
    """Services of std_srvs/Trigger that answer when their command is done, or say why it failed."""

    def __init__(self, node: LifecycleNode, commands: dict[str, Command]) -> None:
        """Create a service `~/name` for every command; `close` gives them back."""
        self._node = node
        group = MutuallyExclusiveCallbackGroup()  # while one waits, the default group's callbacks go on
        self._services = [node.create_service(Trigger, f"~/{name}", self._answer(name, command), callback_group=group)
                          for name, command in commands.items()]

    def close(self) -> None:
        """Give the services back to the node."""
        for service in self._services:
            self._node.destroy_service(service)

    def _answer(self, name: str, command: Command) -> Callable[..., Any]:
        async def answer(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            try:
                future, text = command()
                await _Awaited(future)
                response.success, response.message = True, text
            except Exception as error:  # whatever it is, the node stays up
                response.success, response.message = False, f"{name} failed: {error}"
                self._node.get_logger().error(response.message)
            return response

        return answer


class _Awaited:
    """Lets a coroutine in rclpy's executor wait for a future of another thread."""

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def __await__(self) -> Generator[None, None, Any]:
        while not self._future.done():
            yield
        return self._future.result()
