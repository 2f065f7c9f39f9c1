"""Forwarding of Python log records of the package to the log of the node, and so to /rosout."""

from __future__ import annotations

import logging

from rclpy.impl.rcutils_logger import RcutilsLogger


class NodeLogHandler(logging.Handler):
    """Log handler that forwards records of the logger `vggt_ros` to the logger of a node, from any thread."""

    def __init__(self, logger: RcutilsLogger) -> None:
        """Start forwarding; `close` stops it."""
        super().__init__(logging.INFO)
        self._logger = logger
        self._package = logging.getLogger("vggt_ros")
        self._package.addHandler(self)
        self._package.setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """Forward a record at its level."""
        # rclpy stores one level per calling line of code, so each level needs a line of its own.
        if record.levelno >= logging.ERROR:
            self._logger.error(record.getMessage())
        elif record.levelno >= logging.WARNING:
            self._logger.warning(record.getMessage())
        else:
            self._logger.info(record.getMessage())

    def close(self) -> None:
        """Stop forwarding."""
        self._package.removeHandler(self)
        super().close()
