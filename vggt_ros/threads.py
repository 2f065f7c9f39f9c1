"""How the threads of the node share the cores, and Python's lock."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

_PATIENCE = 0.05
"""Seconds for which one gives way at most: a machine that is too slow for its camera still has to make a map."""
_clear = threading.Event()
_clear.set()


def single_threaded_blas() -> None:
    """Let NumPy's and SciPy's BLAS run in the thread that calls it, for good.

    Tracker, worker and reconstructor are busy side by side, with matrices of some hundred rows. BLAS would split these
    over all cores and wait, spinning, for threads that others keep from running: on two cores a window then takes a
    fifth longer. PyTorch and OpenCV have threads of their own, which stay as they are.
    """
    threadpool_limits(limits=1, user_api="blas")


def shorten_switch_interval() -> None:
    """Let Python's threads take turns every half millisecond instead of every five, for good.

    Tracking an image calls OpenCV a dozen times, which gives Python's lock away; while the worker computes, it has to
    be waited for after each of them.
    """
    sys.setswitchinterval(0.0005)


@contextmanager
def prioritize() -> Iterator[None]:
    """Let the threads that give way wait while the body runs, or until it calls `end_priority`."""
    _clear.clear()
    try:
        yield
    finally:
        _clear.set()


def end_priority() -> None:
    """Let the threads that wait in `yield_to_tracking` go on; harmless if nobody goes first."""
    _clear.set()


def yield_to_tracking() -> None:
    """Wait while another thread is going first: called between pieces of work, some milliseconds each, by the worker.

    Python runs one thread at a time, so an image whose pose is waited for takes twice as long beside a busy worker,
    and two cores have other work, too.
    """
    _clear.wait(_PATIENCE)
