"""What reaches the log of the node, and so /rosout: at most a few lines of each kind, however fast messages arrive."""

from __future__ import annotations

import logging
import time

from rclpy.impl.rcutils_logger import RcutilsLogger

LOG_PERIOD = 5.0
"""Seconds between repetitions of a log message."""


class Throttle:
    """Lets one message of each kind pass in a period.

    A kind is a name in the code, never a text that a sender wrote: else each text would be a kind of its own, and kept.
    """

    def __init__(self, period: float = LOG_PERIOD) -> None:
        """Let one message of each kind pass in `period` seconds."""
        self._period = period
        self._last: dict[str, float] = {}

    def __call__(self, kind: str) -> bool:
        """Return True if a message of this kind may pass now."""
        now = time.monotonic()
        if now - self._last.get(kind, -self._period) < self._period:
            return False
        self._last[kind] = now
        return True


class NodeLogHandler(logging.Handler):
    """Log handler that forwards records of the logger `vggt_ros` to the logger of a node, from any thread.

    Of each line of code at most `MAX_RECORDS` records pass in `LOG_PERIOD`; the next one states how many did not.
    """

    MAX_RECORDS = 5

    def __init__(self, logger: RcutilsLogger) -> None:
        """Start forwarding; `close` stops it."""
        super().__init__(logging.INFO)
        self._logger = logger
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}  # line of code: begin of the period, records in it
        self._package = logging.getLogger("vggt_ros")
        self._package.addHandler(self)
        self._package.setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """Forward a record at its level."""
        line, now = (record.pathname, record.lineno), time.monotonic()
        began, count = self._seen.get(line, (now, 0))
        if now - began < LOG_PERIOD and count >= self.MAX_RECORDS:
            self._seen[line] = began, count + 1
            return
        suppressed = max(0, count - self.MAX_RECORDS)
        self._seen[line] = (now, 1) if now - began >= LOG_PERIOD else (began, count + 1)
        text = self.format(record) + (f" ({suppressed} more like this)" if suppressed else "")
        # rclpy stores one level per calling line of code, so each level needs a line of its own.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)

    def close(self) -> None:
        """Stop forwarding."""
        self._package.removeHandler(self)
        super().close()
