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
import time
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.threads import single_threaded_blas
from vggt_ros.windows.keyframe import Window

if TYPE_CHECKING:
    from vggt_ros.reconstruction.multiview import Multiview

_NICENESS = 5
"""Niceness of the process: tracking an image has priority over solving a window."""

_POLL_PERIOD = 0.25
"""Seconds between two looks at whether the process hangs."""
_PROGRESS = 0.02
"""Processor time that counts as progress, seconds; the kernel counts in hundredths."""
_T = TypeVar("_T")

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
        self._interrupted = threading.Event()
        self._pool = self._start()
        try:
            self._wait(self._pool.submit(int))
        except BrokenProcessPool as error:
            raise RuntimeError("the multiview process did not start; see stderr for the cause") from error

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return the (width, height) to which images of this camera must be rectified."""
        return camera.size_within(self._config.multiview.width)

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Solve a window.

        Raises:
            ReconstructionRefused: the window cannot be solved.
            RuntimeError: the process has ended, possibly killed for lack of memory, or hangs and was killed; a new one
                is started. Or `interrupt` was called.

        """
        try:
            return self._wait(self._pool.submit(_reconstruct, window))
        except BrokenProcessPool as error:
            if self._interrupted.is_set():
                raise RuntimeError("the multiview process is closed") from error
            self._pool = self._start()
            raise RuntimeError("the multiview process has ended unexpectedly; a new one is started") from error

    def interrupt(self) -> None:
        """Kill the process, from any thread; the window that it is solving is lost, and no new process is started."""
        self._interrupted.set()
        self._kill()

    def close(self) -> None:
        """End the process after the window that it is solving, or at once after `interrupt`."""
        if not self._interrupted.is_set():
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._interrupted.set()

    def _wait(self, future: Future[_T]) -> _T:
        """Return the result of a future of the process; raises RuntimeError if the process hangs."""
        watch = _Watch(self._pid, self._config.windows.deadline)
        while True:
            if wait((future,), timeout=_POLL_PERIOD).done:
                return future.result()
            if self._interrupted.is_set():
                raise RuntimeError("the multiview process is closed")
            if watch.hangs():
                self._kill()
                self._pool = self._start()
                raise RuntimeError(f"the multiview process has hung for {watch.seconds:.0f} s (windows.deadline); it "
                                   "is killed, and a new one is started")

    @property
    def _pid(self) -> int | None:
        processes = list((self._pool._processes or {}).values())
        return processes[0].pid if processes else None

    def _kill(self) -> None:
        for process in list((self._pool._processes or {}).values()):
            process.kill()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        # A forked process would inherit locks held by other threads.
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _initialize_process, (self._config,))
        pool.submit(int)  # starts the process now, not at the first window
        return pool


class _Watch:
    """Tells a process that hangs from one that is slow, because others take the processor from it.

    It hangs if it has had the deadline's time of the processor, or if it has stood still for half of the deadline.
    """

    def __init__(self, pid: int | None, deadline: float) -> None:
        self._pid, self._deadline = pid, deadline
        self._began = self._last_progress = time.monotonic()
        self._began_cpu = self._last_cpu = _cpu_seconds(pid)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def hangs(self) -> bool:
        now, cpu = time.monotonic(), _cpu_seconds(self._pid)
        if cpu is not None and self._last_cpu is not None and cpu > self._last_cpu + _PROGRESS:
            self._last_progress, self._last_cpu = now, cpu
        if now - self._began < self._deadline:
            return False
        if cpu is None or self._began_cpu is None:
            return True
        return cpu - self._began_cpu > self._deadline or now - self._last_progress > self._deadline / 2


def _cpu_seconds(pid: int | None) -> float | None:
    """Return the processor time of a process, seconds; None where it is not known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


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
