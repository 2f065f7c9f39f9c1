"""The CPU reconstructor in a process of its own.

Python runs one thread at a time. In one process, tracking at camera rate and a reconstructor that is half Python take
turns, and a window takes twice as long.
"""

from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from vggt_ros.camera import Camera
from vggt_ros.config import Config
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.reconstruction.multiview import Multiview
from vggt_ros.threads import one_thread_for_linear_algebra
from vggt_ros.windows import Window

_here: Multiview | None = None  # in the other process


class MultiviewProcess:
    """`Multiview` elsewhere; gives the same answers."""

    name = Multiview.name

    def __init__(self, config: Config) -> None:
        """Start the process; it is ready a second or two later."""
        self._config = config
        self._sizes = Multiview(config)
        self._pool = self._start()

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return (width, height) of the images that it wants from this camera."""
        return self._sizes.image_size(camera)

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Solve a window.

        Raises:
            ReconstructionRefused: the window cannot be solved.
            RuntimeError: the process has ended, killed for its memory perhaps; another one is started.

        """
        try:
            return self._pool.submit(_reconstruct, window).result()
        except BrokenProcessPool as error:
            self._pool = self._start()
            raise RuntimeError("the reconstructor's process has ended; another one is started") from error

    def close(self) -> None:
        """End the process after the window that it solves."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        # A fork would take along locks that other threads hold.
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin, (self._config,))
        pool.submit(int)  # starts it now, not at the first window
        return pool


def _begin(config: Config) -> None:
    global _here
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the node ends it
    one_thread_for_linear_algebra()
    _here = Multiview(config)


def _reconstruct(window: Window) -> WindowGeometry:
    assert _here is not None
    return _here.reconstruct(window)
