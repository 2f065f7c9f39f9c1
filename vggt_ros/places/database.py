"""Retrieval of keyframes that may show the same place: by descriptor similarity, gated by distance in the map."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import LoopConfig
from vggt_ros.windows.solution import Solution

_PROJECTED_SIZE = 192
"""Dimensions to which descriptors are projected for the search; the shortlist is compared in full dimension."""
_SHORTLIST = 64
"""Keyframes that are compared in full dimension."""
_VIEW_RANGE = 3.0
"""Largest distance between two cameras that see the same place, in median depths."""


class PlaceDatabase:
    """The place descriptors of keyframes, and a search for the most similar ones.

    The search is by inner product after a random projection to fewer dimensions, which nearly preserves inner products
    (Johnson and Lindenstrauss, 1984), over all keyframes; 10,000 take about 1 ms, and no index has to be built.
    """

    def __init__(self) -> None:
        """Begin without keyframes."""
        self._descriptors: dict[int, NDArray[np.float32]] = {}
        self._projection = np.zeros((0, 0), np.float32)
        self._projected = np.zeros((0, _PROJECTED_SIZE), np.float32)  # more rows than keyframes
        self._ids = np.zeros(0, np.int64)  # of the rows that are used

    def __len__(self) -> int:
        """Return the number of keyframes."""
        return len(self._descriptors)

    def __contains__(self, keyframe: int) -> bool:
        """Return True if a keyframe is in the database."""
        return keyframe in self._descriptors

    def add(self, keyframe: int, descriptor: NDArray[np.float32]) -> None:
        """Add the descriptor (D,) of unit length of a keyframe; raises as `add_all` does."""
        self.add_all({keyframe: descriptor})

    def add_all(self, descriptors: Mapping[int, NDArray[np.float32]]) -> None:
        """Add the descriptors (D,) of keyframes, each of unit length; replaces earlier ones of the same keyframes.

        Raises:
            ValueError: a descriptor differs in size from earlier ones, or is not finite.

        """
        for keyframe, descriptor in descriptors.items():
            if descriptor.ndim != 1 or not np.isfinite(descriptor).all():
                raise ValueError(f"descriptor of keyframe {keyframe}: shape {descriptor.shape}, or not finite")
            if not len(self._projection):
                random = np.random.default_rng(0).standard_normal((_PROJECTED_SIZE, len(descriptor)), np.float32)
                self._projection = random / np.float32(np.sqrt(_PROJECTED_SIZE))
            if len(descriptor) != self._projection.shape[1]:
                raise ValueError(f"descriptor of keyframe {keyframe} has {len(descriptor)} numbers, others have "
                                 f"{self._projection.shape[1]}")
            self.remove(keyframe)
        if descriptors:
            self._descriptors |= descriptors
            projected = np.array(list(descriptors.values())) @ self._projection.T
            used, count = len(self._ids), len(self._ids) + len(descriptors)
            if count > len(self._projected):
                room = np.zeros((max(2 * used, count), _PROJECTED_SIZE), np.float32)
                room[:used], self._projected = self._projected[:used], room
            self._projected[used:count] = projected
            self._ids = np.concatenate([self._ids, np.array(list(descriptors), np.int64)])

    def remove(self, keyframe: int) -> None:
        """Remove a keyframe; harmless if it is not in the database."""
        if self._descriptors.pop(keyframe, None) is not None:
            row, last = int(np.flatnonzero(self._ids == keyframe)[0]), len(self._ids) - 1
            self._projected[row], self._ids[row] = self._projected[last], self._ids[last]
            self._ids = self._ids[:last]

    def query(self, descriptor: NDArray[np.float32], count: int, before: int) -> NDArray[np.int64]:
        """Return at most `count` keyframes (64 at most) with ids below `before`, the most similar first."""
        if not len(self):
            return np.zeros(0, np.int64)
        similarity = self._projected[:len(self._ids)] @ (self._projection @ descriptor)
        rows = np.flatnonzero(self._ids < before)
        if len(rows) > _SHORTLIST:
            rows = rows[np.argpartition(-similarity[rows], _SHORTLIST)[:_SHORTLIST]]
        if not len(rows):
            return np.zeros(0, np.int64)
        found = self._ids[rows[np.argsort(-similarity[rows], kind="stable")]]
        scores = np.array([self._descriptors[k] @ descriptor for k in found.tolist()])
        return np.asarray(found[np.argsort(-scores, kind="stable")[:count]], np.int64)


def gate_by_distance(keyframe: int, candidates: NDArray[np.int64], solution: Solution, depth: float,
                     config: LoopConfig) -> NDArray[np.int64]:
    """Return the `candidates` that may show the place of `keyframe`, by their distance in the map and its drift.

    Between two keyframes of a submap the drift is at most `loops.drift` of the path between them; `depth` is the
    keyframe's median depth in map units. Candidates in other submaps always pass, since the relative pose of submaps
    is unknown. Candidates that are not solved are removed.
    """
    row = solution.index(keyframe)
    rows = np.searchsorted(solution.ids, candidates)
    solved = (rows < len(solution)) & (solution.ids[np.minimum(rows, len(solution) - 1)] == candidates)
    if row is None:
        return candidates[:0]
    candidates, rows = candidates[solved], rows[solved]
    centers = solution.map_camera[:, :3, 3]
    step_lengths = np.linalg.norm(np.diff(centers, axis=0), axis=1) * (np.diff(solution.submaps) == 0)
    path = np.concatenate([[0.0], np.cumsum(step_lengths)])
    near = np.linalg.norm(centers[rows] - centers[row], axis=1) <= \
        _VIEW_RANGE * depth + config.drift * np.abs(path[row] - path[rows])
    return candidates[near | (solution.submaps[rows] != solution.submaps[row])]
