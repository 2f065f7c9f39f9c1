"""Windows that are expected are solved ahead; whoever asks for a window gets what it would have got without that.

A window that depends on the one before it is sent as soon as that one is answered, with what is carried from it; others
are sent at once. An expectation that does not come true costs time, but does not change any result: an answer is used
only for a window with the same contents, and the same carried to it.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass

from vggt_ros.geometry.camera import Camera
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.windows.keyframe import Window
from vggt_ros.workers.pool import Pool
from vggt_ros.workers.requests import Answer, Carried, Request, fingerprint, plain

_SPARE = 2
"""Windows that are expected beyond those that workers solve, so that none of them waits (back-pressure)."""


@dataclass(eq=False)
class _Expected:
    """A window that is expected, with what is carried to it once that is known, and its answer once it is sent."""

    window: Window
    fingerprint: bytes
    carried: Carried | None = None
    future: Future[Answer] | None = None


class AheadReconstructor:
    """A reconstructor whose windows are solved by a pool of workers, those that are expected ahead of time.

    Attributes:
        name, adjusted: as of the workers.
        ahead: how many windows were asked for that had been expected.
        unexpected: how many had not: those around loops, second attempts, and after wrong expectations.

    """

    def __init__(self, pool: Pool) -> None:
        """Solve windows by `pool`, which stays open."""
        self._pool = pool
        self.name, self.adjusted = pool.name, pool.adjusted
        self.ahead = self.unexpected = 0
        self._carried = Carried()
        self._expected: deque[_Expected] = deque()
        self._lock = threading.RLock()  # answers come in other threads

    @property
    def figures(self) -> dict[str, int]:
        """Number of workers, windows that were expected and that were not, and requests sent again."""
        return {"workers": self._pool.size, "ahead": self.ahead, "unexpected": self.unexpected,
                "retries": self._pool.retries}

    @property
    def is_full(self) -> bool:
        """True if no more windows should be expected for now."""
        return len(self._expected) >= self._pool.size + _SPARE

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return (width, height) of the images that the reconstructor needs from this camera."""
        return self._pool.image_size(camera)

    def expect(self, window: Window) -> None:
        """Solve a window ahead; windows have to be expected in the order in which they will be asked for."""
        window = plain(window)
        with self._lock:
            self._expected.append(_Expected(window, fingerprint(window)))
            self._send()

    def forget(self) -> None:
        """Expect no window any more: something else will be asked for."""
        with self._lock:
            for entry in self._expected:
                if entry.future is not None:
                    entry.future.cancel()
            self._expected.clear()

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Return the geometry of a window; raises as the reconstructor does."""
        window = plain(window)
        with self._lock:
            entry = self._expected[0] if self._expected else None
            if entry is not None and entry.window.id <= window.id:  # else this is one around a loop, or tried again
                if entry.fingerprint != fingerprint(window):
                    self.forget()
                    entry = None
            else:
                entry = None
            self._send()
        if entry is not None and entry.future is not None:
            return self._take(entry)
        self.unexpected += 1
        answer = self._pool.submit(Request(window, self._carried), urgent=True).result()
        with self._lock:
            if answer.carried is not None:
                self._carried = answer.carried
                for later in self._expected:
                    self._recall(later)
            self._send()
        return answer.result()

    def _take(self, entry: _Expected) -> WindowGeometry:
        """Wait for the answer of the first expected window, and go on from what it carries."""
        assert entry.future is not None
        self.ahead += 1
        try:
            answer = entry.future.result()
        except BaseException:
            self.forget()
            raise
        with self._lock:
            self._expected.popleft()
            self._carried = answer.carried or self._carried
        return answer.result()

    def _recall(self, entry: _Expected) -> None:
        """Take a window back that depends on what is carried to it, because that has changed."""
        if not self._is_independent(entry.window):
            if entry.future is not None:
                entry.future.cancel()
            entry.carried = entry.future = None

    def _send(self) -> None:
        """Send the expected windows whose carried is known."""
        with self._lock:
            carried: Carried | None = self._carried
            for entry in self._expected:
                if self._is_independent(entry.window):
                    if entry.future is None:
                        self._submit(entry, self._carried)
                    continue
                if entry.future is None:
                    if carried is None:
                        break
                    self._submit(entry, carried)
                carried = _carried_from(entry)

    def _submit(self, entry: _Expected, carried: Carried) -> None:
        entry.carried, entry.future = carried, self._pool.submit(Request(entry.window, carried))
        entry.future.add_done_callback(lambda future: None if future.cancelled() else self._send())

    def _is_independent(self, window: Window) -> bool:
        return self._pool.carries == "never" or (
            self._pool.carries == "uncalibrated" and all(keyframe.calibrated for keyframe in window.keyframes))


def _carried_from(entry: _Expected) -> Carried | None:
    """Return what an expected window carries to the next one; None if it is not known yet."""
    if entry.future is None or not entry.future.done() or entry.future.cancelled() or entry.future.exception():
        return None
    return entry.future.result().carried or entry.carried
