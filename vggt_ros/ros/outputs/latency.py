"""Latency from the arrival of an image to the publication of its odometry."""

from __future__ import annotations

import time
from collections import deque

import numpy as np

_KEPT = 2000
"""Latencies of each kind that are kept, the newest ones."""


class Latency:
    """Latencies of the newest images, separately for those that arrived while a window was being solved.

    The latency starts when DDS has received the image, not when the executor calls the callback, so that the time in
    the queue is included.
    """

    def __init__(self) -> None:
        """Begin without any."""
        self._seconds: dict[str, deque[float]] = {kind: deque(maxlen=_KEPT) for kind in ("idle", "busy")}

    def record(self, arrival: int, busy: bool) -> None:
        """Record an image whose odometry has just been published.

        Args:
            arrival: when DDS received it, nanoseconds of the system clock; 0 if the middleware does not provide it.
            busy: whether a window is being solved.

        """
        seconds = (time.time_ns() - arrival) / 1e9
        if arrival and seconds >= 0:  # negative if the system clock was set back
            self._seconds["busy" if busy else "idle"].append(seconds)

    def report(self) -> dict[str, float]:
        """Return median and 99th percentile in milliseconds, for each kind with images."""
        return {f"latency {kind} {name} ms": float(1e3 * np.quantile(list(seconds), quantile, method="inverted_cdf"))
                for kind, seconds in self._seconds.items() if seconds
                for name, quantile in (("median", 0.5), ("p99", 0.99))}
