"""The heap of the C library, which NumPy and OpenCV allocate from: free memory goes back to the system (glibc only)."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

from vggt_ros.process_info import resident_bytes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Parameters of mallopt, see malloc.h."""
_KEPT = 1 << 28
"""Free memory at the end of the heap that `keep_free_memory` keeps, bytes."""
_LARGE = 1 << 25
"""Size from which an array has pages of its own then, bytes: the largest that glibc allows."""


def single_heap() -> None:
    """Let all threads of this process share one heap; to be called before other threads start.

    By default each gets its own, and what one has freed no other can use. Python runs one thread at a time anyway.
    """
    if (library := _library()) is not None:
        library.mallopt(_M_ARENA_MAX, 1)


def keep_free_memory() -> None:
    """Let this process keep memory that is free, for a run that only computes, and ends soon.

    By default each large temporary array gets new pages, which the system has to clear, and gives them back.
    """
    if (library := _library()) is not None:
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)


def return_free_memory(growth: int = 0) -> None:
    """Give free memory back to the system; takes some milliseconds, in which no thread can allocate.

    With `growth` only if the process has grown by so many bytes since the last time, which is quick to find out.
    """
    if (library := _library()) is None or (growth and resident_bytes(os.getpid()) < _after[0] + growth):
        return
    library.malloc_trim(ctypes.c_size_t(0))
    _after[0] = resident_bytes(os.getpid())


_after = [0]
"""Memory of the process after free memory was given back last, bytes."""


def _library() -> Any:
    """Return the C library of this process; None if it is not glibc."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None
