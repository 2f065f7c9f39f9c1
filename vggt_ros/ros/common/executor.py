"""An executor that survives messages which cannot be converted, and tells about them."""

from __future__ import annotations

import ctypes
import time
from typing import Any

from rclpy.executors import ExternalShutdownException, ShutdownException, SingleThreadedExecutor

from vggt_ros.native_stderr import held_back

_ERROR_TEXT = 1024
"""Size of the text of an error of rcutils, bytes (RCUTILS_ERROR_MESSAGE_MAX_LENGTH)."""
_INTERRUPTED, _SHUTDOWN_TIME = "Unable to convert call argument", 0.1
"""Part of the error of pybind11 where a signal came while it made a message, and seconds in which the handler of the
signal shuts the context down; a message alone cannot cause it."""


class DamagedMessageError(Exception):
    """A message whose bytes are not those of its type."""


class TolerantExecutor(SingleThreadedExecutor):
    """Reports messages that cannot be taken to the guard of their node, and goes on.

    Where rclpy of Jazzy raises while it takes a message, as for a text that is not UTF-8, it leaves the callback group
    of the subscription as executing: nothing in it is called any more, and the node is deaf. Where the middleware
    cannot deserialize a message, rclpy neither raises nor resets the error, so that each next one fills the terminal.
    """

    def _take_subscription(self, sub: Any) -> Any:
        """Take a message; overrides a private method of rclpy, which has no other place for it."""
        try:
            with held_back():  # a line for each message that is too short
                taken = super()._take_subscription(sub)
        except (ExternalShutdownException, ShutdownException):
            raise
        except Exception as error:
            _take_middleware_error()
            if _INTERRUPTED in str(error):
                time.sleep(_SHUTDOWN_TIME)
            if not self._context.ok():  # SIGINT came while the message was converted: it is not damaged
                raise ExternalShutdownException from error
            if not self._report(sub, error):
                raise
            return None
        if text := _take_middleware_error():  # also if the next message in the queue is whole, and was taken
            self._report(sub, DamagedMessageError(text))
        return taken

    def _report(self, sub: Any, error: Exception) -> bool:
        """Report an error to the guard of the first node that has one; return whether there is one."""
        guard = next((node.guard for node in self.get_nodes() if hasattr(node, "guard")), None)
        if guard is not None:
            guard.report(sub.topic_name, error)
        return guard is not None


class _ErrorString(ctypes.Structure):
    _fields_ = (("text", ctypes.c_char * _ERROR_TEXT),)


def _load() -> Any:
    try:
        library = ctypes.CDLL("librcutils.so")
    except OSError:  # not Linux
        return None
    library.rcutils_error_is_set.restype = ctypes.c_bool
    library.rcutils_get_error_string.restype = _ErrorString
    return library


_rcutils = _load()


def _take_middleware_error() -> str:
    """Return the error that the middleware has left in this thread, and reset it; empty if there is none."""
    if _rcutils is None or not _rcutils.rcutils_error_is_set():
        return ""
    text = str(_rcutils.rcutils_get_error_string().text.decode(errors="replace"))
    _rcutils.rcutils_reset_error()
    return text
