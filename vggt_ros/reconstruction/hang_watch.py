"""Tells a process that hangs from one that is slow, because others take the processor from it."""

from __future__ import annotations

import os
import time
from pathlib import Path

_PROGRESS = 0.02
"""Processor time that counts as progress, seconds; the kernel counts in hundredths."""


class HangWatch:
    """Watches a process from now on.

    After the deadline it hangs if it has had the deadline's time of the processor, or if it has stood still for half of
    the deadline.
    """

    def __init__(self, pid: int | None, deadline: float) -> None:
        """Begin to watch a process; `deadline` in seconds."""
        self._pid, self._deadline = pid, deadline
        self._began = self._last_progress = time.monotonic()
        self._began_cpu = self._last_cpu = _cpu_seconds(pid)

    @property
    def seconds(self) -> float:
        """Time since the beginning."""
        return time.monotonic() - self._began

    def hangs(self) -> bool:
        """Return whether the process hangs; to be asked several times within the deadline."""
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
