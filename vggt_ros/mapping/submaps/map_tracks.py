"""What the keyframes of a map have observed: the tracks of all windows, joined."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from vggt_ros.windows.tracks import Tracks


class MapTracks:
    """Observations of points by keyframes, 8 to 12 kB a keyframe, for an adjustment of all of them at once.

    Attributes:
        newest: the tracks of the newest window, which have what is known of the camera; None if no window had any.

    """

    def __init__(self) -> None:
        """Begin empty."""
        self.newest: Tracks | None = None
        self._of: dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]] = {}

    def add(self, tracks: Tracks | None) -> None:
        """Add the tracks of a window; where a point was observed before, the newer observation replaces the older."""
        if tracks is None:
            return
        self.newest, values = tracks, np.concatenate([tracks.pixels, tracks.shift_rate], axis=1)
        for keyframe in np.unique(tracks.keyframes).tolist():
            own = tracks.keyframes == keyframe
            points, new = tracks.points[own], values[own]
            if keyframe in self._of:
                known, before = self._of[keyframe]
                left = ~np.isin(known, points)
                points, new = np.concatenate([known[left], points]), np.concatenate([before[left], new])
            self._of[keyframe] = points, new

    def remove(self, keyframes: Iterable[int]) -> None:
        """Forget what keyframes have observed."""
        for keyframe in keyframes:
            self._of.pop(keyframe, None)

    def of(self, keyframes: Iterable[int]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Return the observations of keyframes: their rows (m,), points (m,), and pixels and shift rates (m, 4)."""
        nothing = np.zeros(0, np.int64), np.zeros((0, 4), np.float32)
        ones = [self._of.get(keyframe, nothing) for keyframe in keyframes]
        rows = np.repeat(np.arange(len(ones)), [len(points) for points, _ in ones])
        return rows, np.concatenate([one for one, _ in ones]), np.concatenate([one for _, one in ones])
