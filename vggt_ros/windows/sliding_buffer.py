"""The sliding buffer: forms windows from keyframes, and thins waiting keyframes under back-pressure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from vggt_ros.config import WindowConfig
from vggt_ros.windows.keyframe import Corners, Keyframe, Window
from vggt_ros.windows.load import Load

_MIN_COMMON = 0.3
"""Least fraction of common corners of the keyframes beside one that is thinned: with fewer, the map may break there."""
_MOST_WAITING = 4
"""Factor of the setting `max_waiting` beyond which keyframes are thinned all the same, since each takes a megabyte."""


@dataclass
class _Waiting:
    """A waiting keyframe.

    Attributes:
        keyframe: the keyframe.
        gap: how far it is from the one before, in usual distances of keyframes.
        begins: whether it shares no window with the one before: they have no tracks in common.

    """

    keyframe: Keyframe
    gap: float
    begins: bool


class SlidingBuffer:
    """Forms windows of `size` keyframes that share `overlap` keyframes with the previous window.

    While the reconstructor is busy no window is formed. If keyframes of more than `max_waiting` windows wait, they are
    thinned: always the one whose removal leaves the smallest gap, so that those left are spaced evenly, however slow it
    is. Where the camera moves so fast that those beside it would have little in common, none is thinned,
    and more wait. A window that was formed is never dropped.

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
        self._entries: list[_Waiting] = []
        self._shared = 0
        self._begins = True  # the next keyframe shares no window with those before
        self._is_new = False  # no image has come after the newest keyframe

    @property
    def newest(self) -> Keyframe | None:
        """The newest keyframe, None if there is none that the next one may share a window with."""
        return None if self._begins else self._entries[-1].keyframe

    @property
    def waiting(self) -> int:
        """How many windows the waiting keyframes make: full ones, and partial ones that nothing can be added to."""
        size, step = self._config.size, self._config.size - self._config.overlap
        *ended, last = self._chains()
        if self._begins and last:
            ended, last = [*ended, last], 0
        return sum(max(1, 1 - (size - count) // step) for count in ended) + max(0, 1 + (last - size) // step)

    def add(self, keyframe: Keyframe, load: Load = Load()) -> None:
        """Add a keyframe."""
        self.spaced += load.waiting > 0
        self._entries.append(_Waiting(keyframe, load.spacing, self._begins))
        self._begins, self._is_new = False, True

    def next_image(self, corners_before: Callable[[], Corners], load: Load = Load()) -> Window | None:
        """Form a window at an image, before it is added itself; None if keyframes are lacking, or `load` is busy.

        `corners_before` returns what is known by this image of the features in the one before it.
        """
        is_new, self._is_new = self._is_new, False
        if is_new and (corners := self._entries[-1].keyframe.corners) is not None:
            newest = self._entries[-1]
            newest.keyframe = replace(newest.keyframe, corners=corners.with_velocity(corners_before()))
        if self.waiting and not load.busy:
            return self._form_window()
        if is_new and self.waiting > self._config.max_waiting:
            self._thin()
        return None

    def flush(self) -> Window | None:
        """Return the next window, a partial one with its actual overlap at last; None if it had no new keyframe."""
        count = self._chains()[0]
        return None if count == self._shared or count < 2 else self._form_window()

    def flush_without_overlap(self) -> Window | None:
        """End the overlap, and return what `flush` does."""
        self.end_overlap()
        return self.flush()

    def end_overlap(self) -> None:
        """Let no later window have both waiting keyframes and new ones: nothing is common to them.

        A single keyframe that cannot form a window is counted with the thinned ones.
        """
        *ended, last = self._chains()
        shared = 0 if ended else self._shared
        if not self._begins and (last == shared or last < 2):
            self.thinned += last - shared
            del self._entries[-last:]
            self._shared -= shared
        self._begins, self._is_new = True, False

    def _chains(self) -> list[int]:
        """Return how many waiting keyframes there are in each chain of windows that overlap, the oldest first."""
        begins = [i for i, entry in enumerate(self._entries) if i and entry.begins]
        return [end - begin for begin, end in zip([0, *begins], [*begins, len(self._entries)], strict=True)]

    def _form_window(self) -> Window:
        first, *others = self._chains()
        keyframes = tuple(entry.keyframe for entry in self._entries[:min(self._config.size, first)])
        window = Window(self.next_window, keyframes, tuple(keyframe.id for keyframe in keyframes[:self._shared]))
        self.next_window += 1
        ends = len(keyframes) == first and (self._begins or len(others) > 0)
        self._shared = 0 if ends else min(self._config.overlap, len(keyframes))
        del self._entries[:len(keyframes) - self._shared]
        return window

    def _thin(self) -> None:
        """Remove the keyframe, neither shared nor at an end, whose removal leaves the smallest gap, if one may go."""
        entries = self._entries
        inner = [i for i in range(max(self._shared, 1), len(entries) - 1)
                 if not entries[i].begins and not entries[i + 1].begins]
        rows = [i for i in inner if _have_common(entries[i - 1].keyframe, entries[i + 1].keyframe)]
        if self.waiting > _MOST_WAITING * self._config.max_waiting:
            rows = rows or inner
        if rows:
            removed = min(rows, key=lambda i: entries[i].gap + entries[i + 1].gap)
            entries[removed + 1].gap += entries[removed].gap
            del entries[removed]
            self.thinned += 1


def _have_common(one: Keyframe, other: Keyframe) -> bool:
    """Return whether two keyframes have enough in common to follow each other, as far as is known."""
    return one.corners is None or other.corners is None or one.corners.common(other.corners) >= _MIN_COMMON
