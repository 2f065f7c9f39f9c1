"""A reconstructor in a process of its own.

Python runs one thread at a time. In one process, tracking at camera rate and the reconstructor, which is half Python,
compete for the interpreter lock, and a window takes twice as long. torch is loaded in that process only. A GPU whose
context is lost is lost to its process: only another one can use it again, and its memory is free when the process has
ended, whatever it was doing.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from vggt_ros.child_process import ChildProcess, receive_arrays, send_arrays
from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera
from vggt_ros.reconstruction.base import Reconstructor, ReconstructorLost, WindowGeometry
from vggt_ros.reconstruction.hang_watch import HangWatch
from vggt_ros.reconstruction.process_worker import CREATED, DONE, ERROR, LOG, PROGRESS, run
from vggt_ros.windows.keyframe import Keyframe, Window

Create = Callable[[Config, Callable[[str], None]], tuple[Reconstructor, str]]
"""Creates a reconstructor in the process; a function of a module, since it is sent there by its name."""
Describe = Callable[[Keyframe], Any]
"""Computes something of a keyframe that does not need the other ones; also a function of a module."""
_MAX_DESCRIPTIONS = 100
"""Most keyframes whose descriptions wait to be taken."""
_POLL = 0.2
"""Period of asking whether waiting has been canceled, seconds."""
_GRACE = 2.0
"""How long the process may take to finish what it computes when it is closed, seconds; then it is killed."""


class ReconstructorProcess:
    """Runs a reconstructor in a child process, with the same results.

    Attributes:
        name: of the reconstructor.
        reason: why it was chosen.
        status_values: its entries for the status message, as of its last answer.

    """

    def __init__(self, config: Config, create: Create, progress: Callable[[str], None] = lambda text: None,
                 describe: Describe | None = None) -> None:
        """Start the process and create the reconstructor in it.

        Args:
            config: all settings.
            create: creates the reconstructor in the process.
            progress: called with the loading progress, several times a second; an exception that it raises ends the
                process, whatever it is doing, and is raised.
            describe: called in the process with each keyframe that is new in a window; see `take_description`.

        Raises:
            ConfigError: as `create_reconstructor`.
            ReconstructorLost: the process has ended, possibly killed for lack of memory.

        """
        self._closed, self._config = threading.Event(), config
        self._closed_at: float | None = None
        self._sizes: dict[tuple[int, int, bytes], tuple[int, int]] = {}
        self._sizes_lock = threading.Lock()
        self.status_values: dict[str, str] = {}
        self._descriptions: dict[int, Any] = {}
        self._start(config, create, describe)
        try:
            self.name, self.reason, has_leftovers = self._wait(CREATED, progress)
            if has_leftovers:  # of another one that was tried; they take memory of host and GPU
                self._end()
                self._start(config.replace({"reconstructor": self.name}), create, describe)
                self._wait(CREATED, progress)
        except BaseException:
            self._kill()
            raise

    @property
    def pid(self) -> int | None:
        """Number of the process."""
        return self._process.pid

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return the (width, height) to which images of this camera must be rectified; from any thread.

        The process answers at once, also while it solves a window.

        Raises:
            ReconstructorLost: the process has ended.

        """
        key = (camera.width, camera.height, camera.intrinsics.tobytes())
        with self._sizes_lock:
            if key not in self._sizes:
                try:
                    self._questions.send(camera)
                    answer = self._questions.recv()
                except (EOFError, OSError) as error:
                    raise ReconstructorLost("the process of the reconstructor has ended") from error
                if isinstance(answer, Exception):
                    raise answer
                self._sizes[key] = answer
            return self._sizes[key]

    def prepare(self, width: int, height: int, progress: Callable[[str], None] = lambda text: None) -> None:
        """Prepare for images of this size; raises as `__init__` does, and as the reconstructor does."""
        self._ask("prepare", (width, height), progress)

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Solve a window.

        Raises:
            ReconstructionRefused: the window cannot be solved.
            ReconstructorLost: the process has ended, possibly killed for lack of memory, has lost its GPU, or hangs and
                was killed.

        """
        geometry: WindowGeometry
        geometry, found = self._ask("reconstruct", (window,), deadline=self._config.windows.deadline)
        self._descriptions |= found
        for keyframe in sorted(self._descriptions)[:-_MAX_DESCRIPTIONS]:  # of windows that found no place in the map
            del self._descriptions[keyframe]
        return geometry

    def take_description(self, keyframe: int) -> Any:
        """Return what `describe` returned for a keyframe, once; None if it was not called."""
        return self._descriptions.pop(keyframe, None)

    def cancel(self) -> None:
        """End what the process does, after a moment in which it may finish; from any thread."""
        self._closed_at = self._closed_at or time.monotonic()
        self._closed.set()

    def close(self) -> None:
        """End the process after what it is doing, or kill it if that takes too long, since `cancel` at most."""
        self.cancel()
        self._end()

    def _start(self, config: Config, create: Create, describe: Describe | None) -> None:
        self._process = ChildProcess(run, (config, create, describe), connections=2)
        self._connection, self._questions = self._process.connections

    def _ask(self, method: str, arguments: tuple[Any, ...], progress: Callable[[str], None] = lambda text: None,
             deadline: float | None = None) -> Any:
        try:
            send_arrays(self._connection, (method, arguments))
        except OSError as error:
            raise self._lost() from error
        return self._wait(DONE, progress, deadline)

    def _wait(self, expected: str, progress: Callable[[str], None], deadline: float | None = None) -> Any:
        """Return the answer of the process, after forwarding its progress and its log; raises its error."""
        text, canceled = "starting the reconstructor", 0.0
        watch = None if deadline is None else HangWatch(self._process.pid, deadline)
        while True:
            kind: str
            value: Any
            try:
                answered = self._connection.poll(_POLL)
                kind, value = receive_arrays(self._connection) if answered else (PROGRESS, text)
            except (EOFError, OSError) as error:
                raise self._lost() from error
            if kind == PROGRESS:
                text = value
                try:
                    progress(text)
                except BaseException:  # whatever the process does, it is no longer wanted
                    self._kill()
                    raise
            elif kind == LOG:
                logger = logging.getLogger(value.name)
                if logger.isEnabledFor(value.levelno):
                    logger.handle(value)
            elif kind == ERROR:
                raise value
            elif kind == expected:
                self.status_values, answer = value
                return answer
            if watch is not None and watch.hangs():
                self._kill()
                raise ReconstructorLost(f"the process of the reconstructor has hung for {watch.seconds:.0f} s "
                                        "(windows.deadline), and was killed")
            if self._closed.is_set():
                canceled = canceled or time.monotonic()
                if time.monotonic() - canceled > _GRACE:
                    self._kill()
                    raise ReconstructorLost("the reconstructor was closed")

    def _lost(self) -> ReconstructorLost:
        self._process.join(_GRACE)
        self._kill()
        code = self._process.exitcode
        cause = "it was killed, possibly for lack of memory" if code == -9 else f"exit status {code}; see stderr"
        return ReconstructorLost(f"the process of the reconstructor has ended: {cause}")

    def _end(self) -> None:
        """Ask the process to end, and kill it if it does not."""
        with contextlib.suppress(OSError):
            send_arrays(self._connection, ("close", ()))
        passed = 0.0 if self._closed_at is None else time.monotonic() - self._closed_at
        self._process.join(max(0.1, _GRACE - passed))
        self._kill()

    def _kill(self) -> None:
        self._process.kill()
        self._connection.close()
        self._questions.close()

