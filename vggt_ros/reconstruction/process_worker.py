"""What runs in the process of a reconstructor: it is created, then it answers requests until it is closed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from vggt_ros.child_process import receive_arrays, send_arrays
from vggt_ros.config import Config
from vggt_ros.heap import return_free_memory, single_heap
from vggt_ros.reconstruction.base import ReconstructionRefused, ReconstructorLost
from vggt_ros.settings import ConfigError
from vggt_ros.threads import single_threaded_blas, single_threaded_opencv
from vggt_ros.windows.keyframe import Keyframe, Window

CREATED, DONE, ERROR, PROGRESS, LOG = "created", "done", "error", "progress", "log"
"""Messages to the parent: answers to the creation and to a request, both with status values; and others."""
_NICENESS = 10
"""Niceness of the CPU reconstructor: tracking an image has priority over solving a window."""


def run(connection: Connection, questions: Connection, config: Config,
        create: Callable[[Config, Callable[[str], None]], tuple[Any, str]],
        describe: Callable[[Keyframe], Any] | None = None) -> None:
    """Create a reconstructor and answer requests `(method, arguments)`; the target of the process.

    `questions` carries cameras, and the image sizes that answer them. The answer to `reconstruct` has the geometry, and
    by keyframe what `describe` returned for those that no window had before.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # the node ends this process by `close`
        signal.signal(number, signal.SIG_IGN)
    single_heap()
    single_threaded_blas()
    single_threaded_opencv()
    channel = _Channel(connection)
    logging.getLogger().addHandler(_Forward(channel))
    logging.getLogger("vggt_ros").setLevel(logging.INFO)
    reconstructor: Any = None
    try:
        reconstructor, reason = create(config, lambda text: channel.send(PROGRESS, text))
    except Exception as error:
        channel.send(ERROR, _portable(error))
        return
    on_cpu = getattr(reconstructor, "on_cpu", False)
    if on_cpu:
        os.nice(_NICENESS)
    has_leftovers = config.reconstructor == "auto" and on_cpu and "torch" in sys.modules
    threading.Thread(target=_answer_sizes, args=(questions, reconstructor), daemon=True).start()
    channel.send(CREATED, (_status(reconstructor), (reconstructor.name, reason, has_leftovers)))
    describe_new = _DescribeNew(describe)
    while (request := channel.receive()) is not None:
        method, arguments = request
        try:
            if method == "close":
                if hasattr(reconstructor, "close"):
                    reconstructor.close()
                return
            answer = None
            if method == "prepare" and hasattr(reconstructor, "prepare"):
                reconstructor.prepare(*arguments, lambda text: channel.send(PROGRESS, text))
            elif method == "reconstruct":
                answer = reconstructor.reconstruct(*arguments), describe_new(*arguments)
        except Exception as error:
            channel.send(ERROR, _portable(error))
        else:
            channel.send(DONE, (_status(reconstructor), answer))
        answer = None
        del request, arguments  # the window, for as long as the next one does not come
        return_free_memory()


class _DescribeNew:
    """Describes those keyframes of a window that are newer than all before."""

    def __init__(self, describe: Callable[[Keyframe], Any] | None) -> None:
        self._describe, self._newest = describe, -1

    def __call__(self, window: Window) -> dict[int, Any]:
        if self._describe is None:
            return {}
        new = [keyframe for keyframe in window.keyframes if keyframe.id > self._newest]
        self._newest = max(self._newest, *window.ids)
        return {keyframe.id: self._describe(keyframe) for keyframe in new}


def _answer_sizes(questions: Connection, reconstructor: Any) -> None:
    """Answer each camera with the size of its images, or with the error, until the parent closes the connection."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            camera = questions.recv()
            try:
                answer = reconstructor.image_size(camera)
            except Exception as error:
                answer = _portable(error)
            questions.send(answer)


class _Channel:
    """The connection to the parent; several threads may send."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def send(self, kind: str, value: Any) -> None:
        with self._lock:
            send_arrays(self._connection, (kind, value))

    def receive(self) -> tuple[str, tuple[Any, ...]] | None:
        """Return the next request, None if the parent has closed the connection."""
        try:
            request: tuple[str, tuple[Any, ...]] = receive_arrays(self._connection)
            return request
        except (EOFError, OSError):
            return None


class _Forward(logging.Handler):
    """Sends log records to the parent, where the node shows them."""

    def __init__(self, channel: _Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record with its text complete: arguments and exceptions of it may not be known to the parent."""
        plain = logging.makeLogRecord({**record.__dict__, "msg": self.format(record), "args": None, "exc_info": None,
                                       "exc_text": None, "stack_info": None})
        with contextlib.suppress(OSError):  # the parent has gone
            self._channel.send(LOG, plain)


def _status(reconstructor: Any) -> dict[str, str]:
    return dict(getattr(reconstructor, "status_values", {}))


def _portable(error: Exception) -> Exception:
    """Return an error that the parent can read without torch."""
    if isinstance(error, ReconstructionRefused | ReconstructorLost | ConfigError):
        return type(error)(str(error))
    text = "".join(traceback.format_exception_only(error)).strip()
    where = "".join(traceback.format_tb(error.__traceback__))
    return RuntimeError(f"{text}\nin the process of the reconstructor:\n{where}")

