"""Bundle adjustment of the whole map in the node: on a thread of its own, so that windows are solved meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vggt_ros.config import Config
from vggt_ros.slam import Slam

if TYPE_CHECKING:
    from vggt_ros.mapping.submaps.map_adjustment import MapAdjustment


class _EndedEarly(Exception):
    """The map is replaced, or the node ends."""


@dataclass(eq=False)
class _Task:
    """An adjustment in progress: what waits for it, and since when it runs; `error` says why it has failed."""

    adjustment: MapAdjustment
    version: int
    waiting: list[tuple[Callable[[], Any], Future[Any]]]
    error: str = "it was ended early"
    began: float = field(default_factory=time.monotonic)


class MapAdjuster:
    """Adjusts the map, if it has changed since the last time, and does something after it.

    Attributes:
        closed: whether the node ends, so that nothing may take long any more.

    """

    def __init__(self, slam: Slam, config: Callable[[], Config],
                 run_in_worker: Callable[[Callable[[], Any]], Future[Any]]) -> None:
        """Prepare; arguments as for `MapFiles`."""
        self._slam, self._config, self._run_in_worker = slam, config, run_in_worker
        self._task: _Task | None = None
        self._thread: threading.Thread | None = None
        self._version, self._report, self.closed = -1, "not yet", False

    @property
    def report(self) -> str:
        """What became of the last adjustment, or since when one runs, for the status."""
        task = self._task
        return self._report if task is None else f"in progress for {time.monotonic() - task.began:.0f} s"

    def call(self, then: Callable[[], Any]) -> Future[Any]:
        """Adjust the map, then call `then` on the worker's thread; the future gets its result.

        If an adjustment is in progress, that one is waited for.
        """
        result: Future[Any] = Future()
        self._run_in_worker(lambda: self._begin(then, result))
        return result

    def end_early(self) -> None:
        """Do what waits for an adjustment before what the worker gets next, with the map as it is."""
        self._run_in_worker(lambda: self._end(self._task))

    def close(self) -> None:
        """End as `end_early`, and wait a moment for the thread."""
        self.closed = True
        self.end_early()
        if self._thread is not None:
            self._thread.join(1.0)

    def _begin(self, then: Callable[[], Any], result: Future[Any]) -> None:
        solution = self._slam.solution
        if self._task is not None:
            self._task.waiting.append((then, result))
            return
        if not self._config().map.adjust or not len(solution) or solution.version == self._version:
            _answer(then, result)
            return
        self._task = _Task(self._slam.adjustment(), solution.version, [(then, result)])
        self._thread = threading.Thread(target=self._solve, args=(self._task,), name="vggt_ros_adjuster", daemon=True)
        self._thread.start()

    def _solve(self, task: _Task) -> None:
        def check() -> None:
            if self._task is not task:
                raise _EndedEarly

        try:
            task.adjustment.solve(check)
            task.error = ""
        except _EndedEarly:
            return
        except Exception as error:  # whatever it is, the map is saved
            task.error = f"it failed: {error!r}"
        self._run_in_worker(lambda: self._end(task))

    def _end(self, task: _Task | None) -> None:
        """Take the adjusted map over if it was solved, and do what waits for it; on the worker's thread."""
        if task is None or self._task is not task:
            return
        unchanged, self._task = self._slam.solution.version == task.version, None
        message = f"not adjusted: {task.error}" if task.error else \
            self._slam.take_adjusted(task.adjustment) or "nothing to adjust: too few keyframes, or none with tracks"
        self._version = self._slam.solution.version if unchanged and not task.error else -1
        self._report = f"{message} ({time.monotonic() - task.began:.1f} s)"
        for then, result in task.waiting:
            _answer(then, result)


def _answer(then: Callable[[], Any], result: Future[Any]) -> None:
    try:
        result.set_result(then())
    except Exception as error:  # goes to whoever waits for the result
        result.set_exception(error)
