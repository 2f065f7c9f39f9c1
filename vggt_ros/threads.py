"""Sharing of CPU cores and of Python's global interpreter lock between the threads of the node."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
from threadpoolctl import threadpool_limits

_MAX_WAIT = 0.05
"""Longest wait in `yield_to_tracking`, seconds: a machine too slow for its camera still has to build a map."""
_NICENESS = 5
"""What `give_way` adds to the niceness of a thread."""
_no_priority = threading.Event()
_no_priority.set()


def single_threaded_blas() -> None:
    """Make the BLAS of NumPy and SciPy single-threaded in this process.

    The tracker, the worker and the reconstructor run side by side, on matrices of some hundred rows. BLAS would split
    these over all cores and busy-wait for threads that cannot run: on two cores a window then takes a fifth longer.
    PyTorch and OpenCV have thread pools of their own, which are not changed.
    """
    threadpool_limits(limits=1, user_api="blas")


def single_threaded_opencv() -> None:
    """Make OpenCV single-threaded in this process.

    What windows do is too short to be shared: on two cores they take as long with two threads, which wait busily for
    each other, and a fifth more processor time.
    """
    cv2.setNumThreads(1)


def shorten_switch_interval() -> None:
    """Set the switch interval of Python's threads to 0.5 ms instead of 5 ms in this process.

    Tracking an image calls OpenCV a dozen times and releases the global interpreter lock each time. While the worker
    computes, tracking has to wait after each call until it gets the lock back.
    """
    sys.setswitchinterval(0.0005)


def give_way() -> None:
    """Let this thread run after the others of the process; Linux only, where each thread has a niceness of its own."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS)


@contextmanager
def prioritize() -> Iterator[None]:
    """Make `yield_to_tracking` wait in other threads while the body runs, or until it calls `end_priority`."""
    _no_priority.clear()
    try:
        yield
    finally:
        _no_priority.set()


def end_priority() -> None:
    """Release the threads that wait in `yield_to_tracking`; harmless if there is no priority."""
    _no_priority.set()


def yield_to_tracking() -> None:
    """Wait while another thread has priority; the worker calls it between pieces of work of some milliseconds.

    Python runs one thread at a time, so tracking an image takes twice as long next to a busy worker. Two cores have
    other processes to run, too.
    """
    _no_priority.wait(_MAX_WAIT)
