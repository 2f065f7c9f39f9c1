"""What the keyframes of a map have observed: the tracks of all windows, joined, and those across loops."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.pose_graph.consistency import Loop
from vggt_ros.windows.tracks import Tracks

Observed = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class LoopTracks:
    """The tracks between the two places of a loop, with a keyframe of each: its `ends`.

    As lists of observations: numbers of points (m,), keyframes (m,), and pixels and shift rates (m, 4).
    """

    loop: Loop
    ends: tuple[int, int]
    points: NDArray[np.int64]
    keyframes: NDArray[np.int64]
    values: NDArray[np.float32]


class MapTracks:
    """Observations of points by keyframes, 8 to 12 kB a keyframe, for an adjustment of all of them at once.

    Attributes:
        newest: the tracks of the newest window, which have what is known of the camera; None if no window had any.

    """

    def __init__(self) -> None:
        """Begin empty."""
        self.newest: Tracks | None = None
        self._of: dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]] = {}
        self._across: list[LoopTracks] = []
        self._next = -1  # number of the next point across a loop; those of windows are not negative

    @property
    def across_loops(self) -> list[LoopTracks]:
        """The tracks across loops that are accepted now."""
        return [tracks for tracks in self._across if tracks.loop.accepted]

    def add(self, tracks: Tracks | None) -> None:
        """Add the tracks of a window; where a point was observed before, the newer observation replaces the older."""
        if tracks is None:
            return
        self.newest, values = tracks, _values(tracks)
        for keyframe in np.unique(tracks.keyframes).tolist():
            own = tracks.keyframes == keyframe
            points, new = tracks.points[own], values[own]
            if keyframe in self._of:
                known, before = self._of[keyframe]
                left = ~np.isin(known, points)
                points, new = np.concatenate([known[left], points]), np.concatenate([before[left], new])
            self._of[keyframe] = points, new

    def add_loop(self, loop: Loop, ends: tuple[int, int], tracks: Tracks | None) -> None:
        """Add what the joint reconstruction of a loop observed from both places, `ends` is a keyframe of each.

        Its points have other corners than those of the windows, so they are points of their own.
        """
        if tracks is None:
            return
        at_second = np.abs(tracks.keyframes - ends[0]) > np.abs(tracks.keyframes - ends[1])
        both = np.isin(tracks.points, np.intersect1d(tracks.points[at_second], tracks.points[~at_second]))
        if both.any():
            points = self._next - np.unique(tracks.points[both], return_inverse=True)[1]
            self._next = int(points.min()) - 1
            self._across.append(LoopTracks(loop, ends, points, tracks.keyframes[both], _values(tracks)[both]))

    def remove(self, keyframes: Iterable[int]) -> None:
        """Forget what keyframes have observed."""
        for keyframe in keyframes:
            self._of.pop(keyframe, None)

    def of(self, keyframes: Sequence[int]) -> Observed:
        """Return the observations of keyframes: their rows (m,), points (m,), and pixels and shift rates (m, 4)."""
        nothing = np.zeros(0, np.int64), np.zeros((0, 4), np.float32)
        parts = [(np.full(len(points), row), points, values) for row, (points, values)
                 in enumerate(self._of.get(keyframe, nothing) for keyframe in keyframes)]
        row_of = {keyframe: row for row, keyframe in enumerate(keyframes)}
        for tracks in self.across_loops:
            rows = np.array([row_of.get(keyframe, -1) for keyframe in tracks.keyframes.tolist()], np.int64)
            parts.append((rows[rows >= 0], tracks.points[rows >= 0], tracks.values[rows >= 0]))
        rows, points, values = (np.concatenate(part) for part in zip(*parts, strict=True))
        return rows, points, values


def _values(tracks: Tracks) -> NDArray[np.float32]:
    return np.concatenate([tracks.pixels, tracks.shift_rate], axis=1)
