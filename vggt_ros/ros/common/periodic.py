"""A function that is called periodically by a thread of its own, so that callbacks of the executor do not delay it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

_LOG = logging.getLogger(__name__)


class PeriodicThread:
    """Calls a function every `period` seconds of wall time until it is closed."""

    def __init__(self, function: Callable[[], None], period: float, name: str) -> None:
        """Start the thread; an error of the function is logged once, and the calls go on."""
        self._function, self._period = function, period
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self, timeout: float | None = None) -> None:
        """End the thread and wait for it, at most `timeout` seconds: one that hangs does not keep the process."""
        self._end.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        failed, due = False, time.monotonic()
        while not self._end.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._period, time.monotonic())
            try:
                self._function()
            except Exception as error:  # whatever it is, the next call may succeed
                if not failed:
                    _LOG.error("%s failed: %r", self._thread.name, error)
                failed = True
