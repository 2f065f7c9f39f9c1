"""Memory of a process with its children, from /proc: the sum of their proportional shares (PSS)."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from vggt_ros.process_info import descendants

PERIOD = 0.5
"""Time between two samples, seconds."""


def proportional_mb(pid: int) -> float:
    """Return the memory of one process, MB, with its share of what it shares with others; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


class MemoryWatch:
    """Samples the memory of a process with its children until it is closed, or the process ends.

    Attributes:
        peak_mb: largest sum.
        parts_mb: memory of each process at that time, the first one's first.
        series: all sums with their time since the beginning, seconds.

    """

    def __init__(self, pid: int) -> None:
        """Begin."""
        self._pid, self._end = pid, threading.Event()
        self.peak_mb, self.parts_mb, self.series = 0.0, list[float](), list[tuple[float, float]]()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._end.wait(PERIOD):
            parts = [proportional_mb(pid) for pid in descendants(self._pid)]
            self.series.append((time.monotonic() - began, sum(parts)))
            if sum(parts) > self.peak_mb:
                self.peak_mb, self.parts_mb = sum(parts), parts
            if not parts[0]:
                return
