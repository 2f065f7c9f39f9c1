"""The thread that owns the map: it processes windows and commands in the order in which they were queued."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from vggt_ros.heap import return_free_memory
from vggt_ros.mapping.files.restored_map import RestoredMap
from vggt_ros.slam import Slam
from vggt_ros.threads import yield_to_tracking
from vggt_ros.windows.keyframe import Window
from vggt_ros.windows.load import Load
from vggt_ros.windows.solution import Update

_LOG = logging.getLogger(__name__)
_GROWTH = 1 << 23
"""Growth of the process after which a command gives free memory back to the system, bytes; a window always does."""


class Worker:
    """Runs `Slam.step` on the windows that are queued.

    `on_update(update)` and `on_error(error)` are called on the worker's thread. An error in a step is reported and its
    window is lost, but the thread goes on.
    """

    def __init__(self, slam: Slam, on_update: Callable[[Update], None],
                 on_error: Callable[[Exception], None] | None = None) -> None:
        """Start the thread."""
        self._slam = slam
        self._on_update = on_update
        self._on_error = on_error or (lambda error: _LOG.error("a window was lost", exc_info=error))
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._busy = False
        self._window: tuple[int, float] | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="vggt_ros_worker", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of queued windows, without the one in progress."""
        return self._waiting

    @property
    def idle(self) -> bool:
        """True if no window is in progress and none is queued."""
        with self._lock:
            return not self._busy and self._waiting == 0

    @property
    def backlog(self) -> Load:
        """How far the windows are behind, for `Slam.track`."""
        return Load(not self.idle, self._waiting + self._slam.buffer.waiting, self._slam.config.windows.max_waiting)

    def enqueue(self, window: Window) -> None:
        """Queue a window; it is never dropped."""
        with self._lock:
            self._waiting += 1
        self._jobs.put(lambda: self._step(window))

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """Run `function` on the worker's thread, after everything queued before; the future gets its result."""
        future: Future[Any] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        if self._closed:
            future.set_exception(RuntimeError("the worker is closed"))
        else:
            self._jobs.put(run)
        return future

    def reset(self) -> Future[Any]:
        """Begin a new map; call it on the thread of `Slam.track`. Windows of the old map will have no effect."""
        self._slam.reset_tracking()
        return self.call(self._slam.reset_map)

    def load(self, restored: RestoredMap) -> Future[Any]:
        """Continue with a saved map; as `reset`, call it on the thread of `Slam.track`."""
        self._slam.reset_tracking(restored.record)
        return self.call(lambda: self._slam.reset_map(restored))

    @property
    def window_in_progress(self) -> tuple[int, float] | None:
        """Id of the window that is being solved, and since when, on the monotonic clock; None if there is none."""
        return self._window

    def close(self, timeout: float | None = None) -> bool:
        """End the thread and wait for it; queued windows are dropped, queued commands are still run.

        Return False if it has not ended after `timeout` seconds; it ends with the process then.
        """
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # a command may be of the map: a message of it needs as much memory as the map
            return_free_memory(_GROWTH)

    def _step(self, window: Window) -> None:
        with self._lock:
            self._waiting, self._busy = self._waiting - 1, not self._closed
        if self._closed:
            return
        self._window = window.id, time.monotonic()
        try:
            self._on_update(self._slam.step(window, verify=self.backlog.waiting == 0))
        except Exception as error:
            if not self._closed:
                self._on_error(error)
        finally:
            self._window = None
            with self._lock:
                self._busy = False
        yield_to_tracking()
        return_free_memory()
