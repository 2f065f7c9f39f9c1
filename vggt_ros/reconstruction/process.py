"""The CPU reconstructor in a process of its own.

Python runs one thread at a time. In one process, tracking at camera rate and a reconstructor that is half Python take
turns, and a window takes twice as long. And pycolmap is loaded there only: its library takes SIGTERM for a crash, with
which a node would not end in order.
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
"""A window may take a little longer; an image, whose pose is waited for, may not."""

_here: Multiview | None = None  # in the other process


class MultiviewProcess:
    """`Multiview` elsewhere; gives the same answers."""

    name = "multiview"

    def __init__(self, config: Config) -> None:
        """Start the process, which takes a second or two.

        Raises:
            RuntimeError: it does not start; what it said is on stderr.

        """
        self._config = config
        self._pool = self._start()
        try:
            self._pool.submit(int).result()
        except BrokenProcessPool as error:
            raise RuntimeError("the process of multiview does not start; stderr says why") from error

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return (width, height) of the images that it wants from this camera."""
        return camera.size_within(self._config.multiview.width)

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
    from vggt_ros.reconstruction.multiview import Multiview
    for number in (signal.SIGINT, signal.SIGTERM):  # the node ends it
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(_NICENESS)
    single_threaded_blas()
    _here = Multiview(config)


def _end_with_parent() -> None:
    """Do not outlive a node that was killed: the pool's queue would be waited for for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _reconstruct(window: Window) -> WindowGeometry:
    assert _here is not None
    return _here.reconstruct(window)
