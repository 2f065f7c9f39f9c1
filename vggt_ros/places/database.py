"""Retrieval of keyframes that may show the same place: by descriptor similarity, gated by distance in the map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import faiss
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


search_parameters: Any = faiss.SearchParameters  # its stub takes no arguments


class PlaceDatabase:
    """The place descriptors of keyframes, and a search for the most similar ones.

    The search is by inner product after a random projection to fewer dimensions, which nearly preserves inner products
    (Johnson and Lindenstrauss, 1984), with faiss (Douze et al., 2024); 10,000 keyframes take well under 2 ms.
    """

    def __init__(self) -> None:
        """Begin without keyframes."""
        self._descriptors: dict[int, NDArray[np.float32]] = {}
        self._projection = np.zeros((0, 0), np.float32)
        self._index: Any = None  # faiss.Index; its stubs have wrong arguments

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
            if self._index is None:
                random = np.random.default_rng(0).standard_normal((_PROJECTED_SIZE, len(descriptor)), np.float32)
                self._projection = random / np.float32(np.sqrt(_PROJECTED_SIZE))
                self._index = faiss.index_factory(_PROJECTED_SIZE, "IDMap,Flat", faiss.METRIC_INNER_PRODUCT)
            if len(descriptor) != self._projection.shape[1]:
                raise ValueError(f"descriptor of keyframe {keyframe} has {len(descriptor)} numbers, others have "
                                 f"{self._projection.shape[1]}")
            self.remove(keyframe)
        if descriptors:
            self._descriptors |= descriptors
            projected = np.array(list(descriptors.values())) @ self._projection.T
            self._index.add_with_ids(projected, np.array(list(descriptors), np.int64))

    def remove(self, keyframe: int) -> None:
        """Remove a keyframe; harmless if it is not in the database."""
        if self._descriptors.pop(keyframe, None) is not None:
            assert self._index is not None
            self._index.remove_ids(np.array([keyframe], np.int64))

    def query(self, descriptor: NDArray[np.float32], count: int, before: int) -> NDArray[np.int64]:
        """Return at most `count` keyframes (64 at most) with ids below `before`, the most similar first."""
        if self._index is None or not len(self):
            return np.zeros(0, np.int64)
        faiss.omp_set_num_threads(1)  # in this thread: waiting for a second thread takes far longer than the search
        older = search_parameters(sel=faiss.IDSelectorRange(0, before))
        found = self._index.search((self._projection @ descriptor)[None], _SHORTLIST, params=older)[1][0]
        found = found[found >= 0]
        if not len(found):
            return np.zeros(0, np.int64)
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
