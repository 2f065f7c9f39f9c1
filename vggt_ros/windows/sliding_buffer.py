"""The sliding buffer: keyframes become windows, and are thinned under back-pressure."""

from __future__ import annotations

from vggt_ros.config import WindowConfig
from vggt_ros.windows.keyframe import Keyframe, Window


class SlidingBuffer:
    """Forms windows of `size` keyframes that share `overlap` with the window before.

    While the reconstructor has no room for another window, keyframes that wait here are thinned, always the one whose
    removal leaves the smallest gap. A formed window is never dropped.

    Attributes:
        thinned: keyframes removed so far.
        next_window: id of the next window.

    """

    def __init__(self, config: WindowConfig) -> None:
        """Form windows as `config` says."""
        self._config = config
        self.next_window = 0
        self.clear()

    def clear(self) -> None:
        """Forget the waiting keyframes and the count; window ids go on."""
        self.thinned = 0
        self._keyframes: list[Keyframe] = []
        self._gaps: list[int] = []
        self._shared = 0

    def add(self, keyframe: Keyframe, room: bool = True) -> Window | None:
        """Take a keyframe; return a window if it completes one and there is `room` for it."""
        self._keyframes.append(keyframe)
        self._gaps.append(1)
        if len(self._keyframes) < self._config.size:
            return None
        if room:
            return self._emit()
        self._thin()
        return None

    def flush(self) -> Window | None:
        """Return the partial window, with its true overlap, or None if it would hold nothing new or a single frame."""
        if len(self._keyframes) == self._shared or len(self._keyframes) < 2:
            return None
        return self._emit()

    def cut(self) -> Window | None:
        """Return what `flush` does, and share nothing of it: what follows has nothing in common with what was.

        A single keyframe that is left over is counted with those thinned.
        """
        window = self.flush()
        if window is None:
            self.thinned += len(self._keyframes) - self._shared
        self._keyframes, self._gaps, self._shared = [], [], 0
        return window

    def _emit(self) -> Window:
        window = Window(self.next_window, tuple(self._keyframes),
                        tuple(keyframe.id for keyframe in self._keyframes[: self._shared]))
        self.next_window += 1
        self._keyframes = self._keyframes[-self._config.overlap:]
        self._gaps = self._gaps[-self._config.overlap:]
        self._shared = len(self._keyframes)
        return window

    def _thin(self) -> None:
        """Remove the keyframe, neither shared nor newest, whose neighbors then lie closest together."""
        candidates = range(self._shared, len(self._keyframes) - 1)
        if not candidates:
            return
        victim = min(candidates, key=lambda i: self._gaps[i] + self._gaps[i + 1])
        self._gaps[victim + 1] += self._gaps[victim]
        del self._keyframes[victim], self._gaps[victim]
        self.thinned += 1
