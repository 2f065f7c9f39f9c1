"""How the threads of the node share the cores, and Python's lock."""

import sys

from threadpoolctl import threadpool_limits


def one_thread_for_linear_algebra() -> None:
    """Let NumPy's and SciPy's BLAS run in the thread that calls it, for good.

    Tracker, worker and reconstructor are busy side by side, with matrices of some hundred rows. BLAS would split these
    over all cores and wait, spinning, for threads that others keep from running: on two cores a window then takes a
    fifth longer. PyTorch and OpenCV have threads of their own, which stay as they are.
    """
    threadpool_limits(limits=1, user_api="blas")


def hand_over_quickly() -> None:
    """Let Python's threads take turns every half millisecond instead of every five, for good.

    Tracking an image calls OpenCV a dozen times, which gives Python's lock away; while the worker computes, it has to
    be waited for after each of them.
    """
    sys.setswitchinterval(0.0005)
