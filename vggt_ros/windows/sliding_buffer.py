"""The sliding buffer: forms windows from keyframes, and thins waiting keyframes under back-pressure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vggt_ros.config import WindowConfig
from vggt_ros.windows.keyframe import Corners, Keyframe, Window
from vggt_ros.windows.load import Load


class SlidingBuffer:
    """Forms windows of `size` keyframes that share `overlap` keyframes with the previous window.

    While the reconstructor is busy no window is formed. If keyframes of more than `max_waiting` windows wait, they are
    thinned: always the one whose removal leaves the smallest gap, so that those left are evenly spaced, as slow as the
    reconstructor is. A window that was formed is never dropped.

    A window is formed at the image after its newest keyframe, which tells the velocity of the features in it.

    Attributes:
        spaced: keyframes added so far while windows waited, farther apart than usual.
        thinned: keyframes removed so far.
        next_window: id of the next window.

    """

    def __init__(self, config: WindowConfig) -> None:
        """Form windows of the size and overlap in `config`."""
        self._config = config
        self.next_window = 0
        self.clear()

    def clear(self) -> None:
        """Forget the waiting keyframes and the counts; window ids go on."""
        self.spaced = self.thinned = 0
        self._keyframes: list[Keyframe] = []
        self._gaps: list[float] = []
        self._shared = 0
        self._is_new = False  # no image has come after the newest keyframe

    @property
    def newest(self) -> Keyframe | None:
        """The newest keyframe, None if there is none."""
        return self._keyframes[-1] if self._keyframes else None

    @property
    def waiting(self) -> int:
        """How many full windows the waiting keyframes make."""
        return max(0, 1 + (len(self._keyframes) - self._config.size) // (self._config.size - self._config.overlap))

    def add(self, keyframe: Keyframe, load: Load = Load()) -> None:
        """Add a keyframe."""
        self.spaced += load.waiting > 0
        self._keyframes.append(keyframe)
        self._gaps.append(load.spacing)
        self._is_new = True

    def next_image(self, corners_before: Callable[[], Corners], load: Load = Load()) -> Window | None:
        """Form a window at an image, before it is added itself; None if keyframes are lacking, or `load` is busy.

        `corners_before` returns what is known by this image of the features in the one before it.
        """
        if self._is_new and (newest := self._keyframes[-1]).corners is not None:
            self._keyframes[-1] = replace(newest, corners=newest.corners.with_velocity(corners_before()))
        self._is_new = False
        if self.waiting and not load.busy:
            return self._form_window()
        if self.waiting > self._config.max_waiting:
            self._thin()
        return None

    def flush(self) -> Window | None:
        """Return the next window, a partial one with its actual overlap at last; None if it had no new keyframe."""
        if len(self._keyframes) == self._shared or len(self._keyframes) < 2:
            return None
        return self._form_window()

    def flush_without_overlap(self) -> Window | None:
        """Return all that waits, thinned to one window, and share no keyframe with the next: no tracks are in common.

        A single keyframe that cannot form a window is counted with the thinned ones.
        """
        while len(self._keyframes) > self._config.size:
            self._thin()
        window = self.flush()
        if window is None:
            self.thinned += len(self._keyframes) - self._shared
        self._keyframes, self._gaps, self._shared, self._is_new = [], [], 0, False
        return window

    def _form_window(self) -> Window:
        window = Window(self.next_window, tuple(self._keyframes[:self._config.size]),
                        tuple(keyframe.id for keyframe in self._keyframes[: self._shared]))
        self.next_window += 1
        self._shared = min(self._config.overlap, len(window.ids))
        solved = len(window.ids) - self._shared
        del self._keyframes[:solved], self._gaps[:solved]
        return window

    def _thin(self) -> None:
        """Remove the keyframe, neither shared nor newest, whose removal leaves the smallest gap."""
        removed = min(range(self._shared, len(self._keyframes) - 1), key=lambda i: self._gaps[i] + self._gaps[i + 1])
        self._gaps[removed + 1] += self._gaps[removed]
        del self._keyframes[removed], self._gaps[removed]
        self.thinned += 1
