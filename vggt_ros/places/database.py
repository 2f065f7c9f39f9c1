"""Which known keyframes may show the same place as an image: the most similar, and which of them can lie there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import LoopConfig
from vggt_ros.windows.solution import Solution

_SEARCHED = 192
"""Dimensions in which all keyframes are searched; the few found are compared in full."""
_SHORTLIST = 64
"""Keyframes that are compared in full."""
_REACH = 3.0
"""How far from each other two cameras may see the same place, in median depths."""


search_parameters: Any = faiss.SearchParameters  # its stub takes no arguments


class PlaceDatabase:
    """A descriptor a keyframe, and the keyframes whose descriptors are most similar to a given one.

    All are searched by inner product after a random projection into fewer dimensions, which keeps it nearly as it is
    (Johnson and Lindenstrauss, 1984), with faiss (Douze et al., 2024); 10,000 keyframes take well under 2 ms.
    """

    def __init__(self) -> None:
        """Begin without keyframes."""
        self._descriptors: dict[int, NDArray[np.float32]] = {}
        self._projection = np.zeros((0, 0), np.float32)
        self._index: Any = None  # faiss.Index; what its stubs say of the arguments is not so

    def __len__(self) -> int:
        """Return the number of keyframes."""
        return len(self._descriptors)

    def __contains__(self, keyframe: int) -> bool:
        """Return True if a keyframe is known."""
        return keyframe in self._descriptors

    def add(self, keyframe: int, descriptor: NDArray[np.float32]) -> None:
        """Take a keyframe's descriptor (D,) of unit length; raises as `add_all` does."""
        self.add_all({keyframe: descriptor})

    def add_all(self, descriptors: Mapping[int, NDArray[np.float32]]) -> None:
        """Take the descriptors (D,) of keyframes, each of unit length.

        Raises:
            ValueError: one has another size than those before, or is not finite.

        """
        for keyframe, descriptor in descriptors.items():
            if descriptor.ndim != 1 or not np.isfinite(descriptor).all():
                raise ValueError(f"descriptor of keyframe {keyframe}: shape {descriptor.shape}, or not finite")
            if self._index is None:
                random = np.random.default_rng(0).standard_normal((_SEARCHED, len(descriptor)), np.float32)
                self._projection = random / np.float32(np.sqrt(_SEARCHED))
                self._index = faiss.index_factory(_SEARCHED, "IDMap,Flat", faiss.METRIC_INNER_PRODUCT)
            if len(descriptor) != self._projection.shape[1]:
                raise ValueError(f"descriptor of keyframe {keyframe} has {len(descriptor)} numbers, others have "
                                 f"{self._projection.shape[1]}")
            self.remove(keyframe)
        if descriptors:
            self._descriptors |= descriptors
            short = np.array(list(descriptors.values())) @ self._projection.T
            self._index.add_with_ids(short, np.array(list(descriptors), np.int64))

    def remove(self, keyframe: int) -> None:
        """Forget a keyframe; harmless if it is not known."""
        if self._descriptors.pop(keyframe, None) is not None:
            assert self._index is not None
            self._index.remove_ids(np.array([keyframe], np.int64))

    def similar(self, descriptor: NDArray[np.float32], count: int, before: int) -> NDArray[np.int64]:
        """Return at most `count` keyframes (64 at most) with ids below `before`, the most similar first."""
        if self._index is None or not len(self):
            return np.zeros(0, np.int64)
        faiss.omp_set_num_threads(1)  # of this thread: to wait for a second one takes far longer than the search
        older = search_parameters(sel=faiss.IDSelectorRange(0, before))
        found = self._index.search((self._projection @ descriptor)[None], _SHORTLIST, params=older)[1][0]
        found = found[found >= 0]
        if not len(found):
            return np.zeros(0, np.int64)
        scores = np.array([self._descriptors[k] @ descriptor for k in found.tolist()])
        return np.asarray(found[np.argsort(-scores, kind="stable")[:count]], np.int64)


def within_reach(keyframe: int, candidates: NDArray[np.int64], solution: Solution, depth: float,
                 config: LoopConfig) -> NDArray[np.int64]:
    """Return the `candidates` that may lie where `keyframe` does, by what the map knows and how far that may be off.

    Between two keyframes of a submap the map may be off by `loops.drift` of the path between them; `depth` is the
    keyframe's median depth in the map. How submaps lie to each other is not known at all.
    """
    row = solution.index(keyframe)
    rows = np.searchsorted(solution.ids, candidates)
    solved = (rows < len(solution)) & (solution.ids[np.minimum(rows, len(solution) - 1)] == candidates)
    if row is None:
        return candidates[:0]
    candidates, rows = candidates[solved], rows[solved]
    centers = solution.map_camera[:, :3, 3]
    steps = np.linalg.norm(np.diff(centers, axis=0), axis=1) * (np.diff(solution.submaps) == 0)
    path = np.concatenate([[0.0], np.cumsum(steps)])
    near = np.linalg.norm(centers[rows] - centers[row], axis=1) <= \
        _REACH * depth + config.drift * np.abs(path[row] - path[rows])
    return candidates[near | (solution.submaps[rows] != solution.submaps[row])]
