"""What a window has freed goes back to the system."""

import subprocess
import sys

import pytest

from vggt_ros.heap import _library

CODE = """
import resource
import numpy as np
from vggt_ros.heap import return_free_memory, single_heap
single_heap()
def resident():
    return int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize() / 1e6
blocks = [np.ones(10_000) for _ in range(1000)]  # 80 MB, each too small for pages of its own
kept = np.ones(10_000)  # above them, so that the heap cannot shrink from its end
full = resident()
del blocks
freed = resident()
return_free_memory()
returned = resident()
blocks = [np.ones(10_000) for _ in range(1000)]
kept = [kept, np.ones(10_000)]
del blocks
return_free_memory(growth=200_000_000)
ignored = resident()
return_free_memory(growth=40_000_000)
print(full, freed, returned, ignored, resident())
"""


@pytest.mark.skipif(_library() is None, reason="not glibc")
def test_free_memory_below_what_is_kept_goes_back() -> None:
    answer = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=60)
    full, freed, returned, ignored, again = map(float, answer.stdout.split())
    assert freed > full - 20, "the test tests nothing: the library has returned it by itself"
    assert returned < full - 70
    assert ignored > returned + 60 and again < ignored - 60
