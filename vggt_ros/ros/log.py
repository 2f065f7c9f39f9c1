"""What the package logs reaches the node's log, and so /rosout."""

from __future__ import annotations

import logging

from rclpy.impl.rcutils_logger import RcutilsLogger


class NodeLog(logging.Handler):
    """Hands records of the logger `vggt_ros` to a node's logger, from any thread."""

    def __init__(self, logger: RcutilsLogger) -> None:
        """Begin; `close` ends it."""
        super().__init__(logging.INFO)
        self._logger = logger
        self._package = logging.getLogger("vggt_ros")
        self._package.addHandler(self)
        self._package.setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record at its level."""
        # rclpy remembers a level for each line of code that logs, so each level has its own.
        if record.levelno >= logging.ERROR:
            self._logger.error(record.getMessage())
        elif record.levelno >= logging.WARNING:
            self._logger.warning(record.getMessage())
        else:
            self._logger.info(record.getMessage())

    def close(self) -> None:
        """Take no more records."""
        self._package.removeHandler(self)
        super().close()
