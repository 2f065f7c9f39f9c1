"""What Linux tells about processes in /proc: their children, memory, files and threads."""

from __future__ import annotations

import os
from pathlib import Path


def children(pid: int) -> set[int]:
    """Return the ids of the running child processes of a process."""
    return {child for child, parent in _parents().items() if parent == pid}


def descendants(pid: int) -> list[int]:
    """Return a process and all that it started, and those that these started; it is the first."""
    parents, found = _parents(), [pid]
    for one in found:  # which grows meanwhile
        found += sorted(child for child, parent in parents.items() if parent == one)
    return found


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process; 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_files_and_threads(pid: int) -> tuple[int, int]:
    """Return how many files a process has open, and how many threads it has."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), len(list(Path(f"/proc/{pid}/task").iterdir()))


def _parents() -> dict[int, int]:
    """Return the parent of each running process."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            found[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended in the meantime
            continue
    return found
