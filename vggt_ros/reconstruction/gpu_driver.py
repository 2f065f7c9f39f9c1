"""Whether there may be a GPU, by its driver: importing torch to ask it takes a second and 130 MB."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path


def may_have_gpu() -> bool:
    """Return False if torch cannot find a GPU on this machine: no CUDA driver counts one, and there is none by AMD."""
    if sys.platform != "linux" or Path("/dev/kfd").exists():
        return True
    try:
        driver = ctypes.CDLL("libcuda.so.1")  # the name by which CUDA itself loads it
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
