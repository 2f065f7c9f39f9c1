"""The services: commands to the worker, for which images do not wait."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode
from std_srvs.srv import Trigger

Steps = Generator["Future[Any]", Any, str]
"""A command: yields each future that it waits for, gets its result back, and returns what to answer."""


class Commands:
    """Services of std_srvs/Trigger that answer when their command is done, or say why it failed.

    They are the node's for good: one that went with a cleanup could not answer what still waits, and rclpy would end
    the node for it.
    """

    def __init__(self, node: LifecycleNode, names: Iterable[str]) -> None:
        """Create a service `~/name` for every command."""
        self._node = node
        self._commands: dict[str, Callable[[], Steps]] = {}
        group = MutuallyExclusiveCallbackGroup()  # while one waits, the default group's callbacks go on
        for name in names:
            node.create_service(Trigger, f"~/{name}", self._answer(name), callback_group=group)

    def serve(self, commands: dict[str, Callable[[], Steps]]) -> None:
        """Carry these out from now on, or refuse them as not configured if there are none."""
        self._commands = commands

    def _answer(self, name: str) -> Callable[..., Any]:
        async def answer(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            try:
                if name not in self._commands:
                    raise RuntimeError("the node is not configured")
                response.success, response.message = True, await _carry_out(self._commands[name]())
            except Exception as error:  # whatever it is, the node stays up
                response.success, response.message = False, f"{name} failed: {error}"
                self._node.get_logger().error(response.message)
            return response

        return answer


async def _carry_out(steps: Steps) -> str:
    """Go from step to step, all on the executor's thread; an error of a future is raised where it was yielded."""
    result: Any = None
    error: BaseException | None = None
    while True:
        try:
            future = steps.send(result) if error is None else steps.throw(error)
        except StopIteration as end:
            return str(end.value)
        try:
            result, error = await _Awaited(future), None
        except Exception as raised:
            error = raised


class _Awaited:
    """Lets a coroutine in rclpy's executor wait for a future of another thread."""

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def __await__(self) -> Generator[None, None, Any]:
        while not self._future.done():
            yield
        return self._future.result()
