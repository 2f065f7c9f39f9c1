"""How long after its arrival an image's odometry goes out."""

from __future__ import annotations

import time
from collections import deque

import numpy as np


class Latency:
    """Latencies of the newest images, apart for those that came while a window was being solved.

    The clock starts when DDS has received the image, not when the executor gets round to it: what waits in the queue
    has its place in the figures.
    """

    def __init__(self, kept: int = 2000) -> None:
        """Keep the newest `kept` of each kind."""
        self._seconds: dict[str, deque[float]] = {kind: deque(maxlen=kept) for kind in ("idle", "busy")}

    def note(self, arrival: int, busy: bool) -> None:
        """Note an image whose odometry has just gone out.

        Args:
            arrival: when DDS received it, nanoseconds of the system's clock; 0: the middleware does not tell.
            busy: whether a window is being solved.

        """
        seconds = (time.time_ns() - arrival) / 1e9
        if arrival and seconds >= 0:  # else the clock was set meanwhile
            self._seconds["busy" if busy else "idle"].append(seconds)

    def report(self) -> dict[str, float]:
        """Return median and 99th percentile in milliseconds, of those kinds that there were images of."""
        return {f"latency {kind} {name} ms": float(1e3 * np.quantile(list(seconds), quantile, method="inverted_cdf"))
                for kind, seconds in self._seconds.items() if seconds
                for name, quantile in (("median", 0.5), ("p99", 0.99))}
