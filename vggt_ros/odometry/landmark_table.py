"""A table of landmarks: the map point of each feature track that has one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array

Tracks = NDArray[np.int64]
Mask = NDArray[np.bool_]


def is_among(tracks: Tracks, others: Tracks) -> Mask:
    """Return which of the tracks (k,) are among others (n,), which rise; `np.isin` takes ten times as long."""
    return find(others, tracks)[0]


def find(ids: Tracks, tracks: Tracks) -> tuple[Mask, NDArray[np.intp]]:
    """Return which of the tracks (k,) are among the ids (n,), which rise, and the rows there of those that are."""
    rows = np.searchsorted(ids, tracks)
    known = rows < len(ids)
    known[known] = ids[rows[known]] == tracks[known]
    return known, rows[known]


class LandmarkTable:
    """Map points by feature track, as arrays: all tracks of an image are looked up at once.

    Attributes:
        ids: int64 (n,), rising, the tracks.
        points: float64 (n, 3), their map points.
        from_depth: bool (n,), True where the point comes from solved depth, False where it was triangulated.

    """

    def __init__(self) -> None:
        """Begin empty."""
        self.ids = np.zeros(0, np.int64)
        self.points = np.zeros((0, 3))
        self.from_depth = np.zeros(0, np.bool_)

    def __len__(self) -> int:
        """Return the number of landmarks."""
        return len(self.ids)

    def find(self, tracks: Tracks) -> tuple[Mask, NDArray[np.intp]]:
        """Return which of the tracks (k,) have landmarks, and the rows of those."""
        return find(self.ids, tracks)

    def set(self, tracks: Tracks, points: Array, from_depth: bool | Mask) -> None:
        """Add the points (k, 3) of tracks (k,), each at most once; those of tracks with landmarks are replaced."""
        known, rows = self.find(tracks)
        source = np.broadcast_to(from_depth, known.shape)
        self.points[rows], self.from_depth[rows] = points[known], source[known]
        ids = np.concatenate([self.ids, tracks[~known]])
        order = np.argsort(ids, kind="stable")
        self.ids = ids[order]
        self.points = np.concatenate([self.points, points[~known]])[order]
        self.from_depth = np.concatenate([self.from_depth, source[~known]])[order]

    def keep(self, rows: Mask) -> None:
        """Remove all other rows."""
        self.ids, self.points, self.from_depth = self.ids[rows], self.points[rows], self.from_depth[rows]
