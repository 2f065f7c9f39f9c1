"""The CPU reconstructor in a process of its own.

Python runs one thread at a time. In one process, tracking at camera rate and the reconstructor, which is half Python,
compete for the interpreter lock, and a window takes twice as long. Also, pycolmap is then loaded in that process only:
its signal handler treats SIGTERM as a crash, which would prevent an orderly shutdown of the node.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.threads import single_threaded_blas
from vggt_ros.windows.keyframe import Window

if TYPE_CHECKING:
    from vggt_ros.reconstruction.multiview import Multiview

_NICENESS = 5
"""Niceness of the process: tracking an image has priority over solving a window."""

_here: Multiview | None = None  # the reconstructor, set in the child process only


class MultiviewProcess:
    """Runs `Multiview` in a child process, with the same results."""

    name = "multiview"

    def __init__(self, config: Config) -> None:
        """Start the process, which takes a second or two.

        Raises:
            RuntimeError: the process does not start; the cause is on stderr.

        """
        self._config = config
        self._pool = self._start()
        try:
            self._pool.submit(int).result()
        except BrokenProcessPool as error:
            raise RuntimeError("the multiview process did not start; see stderr for the cause") from error

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return the (width, height) to which images of this camera must be rectified."""
        return camera.size_within(self._config.multiview.width)

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Solve a window.

        Raises:
            ReconstructionRefused: the window cannot be solved.
            RuntimeError: the process has ended, possibly killed for lack of memory; a new one is started.

        """
        try:
            return self._pool.submit(_reconstruct, window).result()
        except BrokenProcessPool as error:
            self._pool = self._start()
            raise RuntimeError("the multiview process has ended unexpectedly; a new one is started") from error

    def close(self) -> None:
        """End the process after the window that it is solving."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        # A forked process would inherit locks held by other threads.
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _initialize_process, (self._config,))
        pool.submit(int)  # starts the process now, not at the first window
        return pool


def _initialize_process(config: Config) -> None:
    global _here
    from vggt_ros.reconstruction.multiview import Multiview
    for number in (signal.SIGINT, signal.SIGTERM):  # the node ends this process by `close`
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    os.nice(_NICENESS)
    single_threaded_blas()
    _here = Multiview(config)


def _exit_with_parent() -> None:
    """End this process when the node was killed; otherwise it would wait for the queue of the pool forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _reconstruct(window: Window) -> WindowGeometry:
    assert _here is not None
    return _here.reconstruct(window)
