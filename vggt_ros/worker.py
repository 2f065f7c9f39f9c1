"""The thread that owns the map: it solves windows and carries out commands, in the order in which they came."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from vggt_ros.slam import Slam
from vggt_ros.storage.map_record import MapRecord
from vggt_ros.windows.keyframe import Window
from vggt_ros.windows.solution import Update

_LOG = logging.getLogger(__name__)


class Worker:
    """Runs `Slam.step` for the windows that are offered.

    `on_update(update)` and `on_error(error)` are called on the worker's thread. An error of a step is reported, the
    window is lost, the thread goes on.
    """

    def __init__(self, slam: Slam, on_update: Callable[[Update], None],
                 on_error: Callable[[Exception], None] | None = None) -> None:
        """Start the thread."""
        self._slam = slam
        self._on_update = on_update
        self._on_error = on_error or (lambda error: _LOG.error("a window was lost", exc_info=error))
        self._mailbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._busy = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="vggt_ros_worker", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Windows that wait; the one being solved is not counted."""
        return self._waiting

    @property
    def idle(self) -> bool:
        """True if no window is being solved and none waits."""
        with self._lock:
            return not self._busy and self._waiting == 0

    @property
    def has_capacity(self) -> bool:
        """True if one more window may be offered; `Slam.track` thins keyframes while there is no room."""
        return self._waiting < self._slam.config.windows.max_waiting

    def offer(self, window: Window) -> None:
        """Queue a window; it is never dropped."""
        with self._lock:
            self._waiting += 1
        self._mailbox.put(lambda: self._step(window))

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """Run `function` on the worker's thread, after all that was queued before; its result is the future's."""
        future: Future[Any] = Future()

        def carry_out() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        if self._closed:
            future.set_exception(RuntimeError("the worker is closed"))
        else:
            self._mailbox.put(carry_out)
        return future

    def reset(self) -> Future[Any]:
        """Begin a new map; call it on the thread of `Slam.track`. Windows of the old map end without effect."""
        self._slam.reset_tracking()
        return self.call(self._slam.reset_map)

    def load(self, record: MapRecord) -> Future[Any]:
        """Go on from a saved map; call it on the thread of `Slam.track`. Windows of the old map end without effect."""
        self._slam.reset_tracking(record)
        return self.call(lambda: self._slam.restore_map(record))

    def close(self) -> None:
        """End the thread and wait for it; windows that wait are left unsolved, commands that wait are carried out."""
        if not self._closed:
            self._closed = True
            self._mailbox.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (job := self._mailbox.get()) is not None:
            job()

    def _step(self, window: Window) -> None:
        with self._lock:
            self._waiting, self._busy = self._waiting - 1, not self._closed
        if self._closed:
            return
        try:
            self._on_update(self._slam.step(window, verify=self._waiting == 0))
        except Exception as error:
            self._on_error(error)
        finally:
            with self._lock:
                self._busy = False
