"""Results of the worker's thread, brought to the executor's thread."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from rclpy.exceptions import InvalidHandle
from rclpy.node import Node

from vggt_ros.windows.solution import Update


class Results:
    """A queue of updates and errors; the executor is woken when something is ready."""

    def __init__(self, node: Node, process: Callable[[], None]) -> None:
        """Call `process` on the executor's thread when there are results, or something else is done."""
        self._node = node
        self._queue: deque[Update | Exception] = deque()
        self._ready = node.create_guard_condition(process)

    def put(self, result: Update | Exception) -> None:
        """Queue a result; from any thread."""
        self._queue.append(result)
        self._wake()

    def take(self) -> Iterator[Update | Exception]:
        """Yield the queued results, and remove them."""
        while self._queue:
            yield self._queue.popleft()

    def drop(self, _: Future[Any]) -> None:
        """Discard the queued results, when a reset is done that they are from before; wake the executor."""
        self._queue.clear()
        self._wake()

    def wake_when_done(self, future: Future[Any]) -> Future[Any]:
        """Wake the executor when a future is done; return it."""
        future.add_done_callback(lambda _: self._wake())
        return future

    def _wake(self) -> None:
        with contextlib.suppress(InvalidHandle):  # closed: of a worker that was given up, and ended at last
            self._ready.trigger()

    def close(self) -> None:
        """Destroy the guard condition."""
        self._node.destroy_guard_condition(self._ready)
