"""Candidate keyframes for relocalization: those with the most similar place descriptors."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from vggt_ros.features.tracks import ImageFeatures
from vggt_ros.places.database import PlaceDatabase
from vggt_ros.windows.solution import Solution

_LOG = logging.getLogger(__name__)
_SHORTLIST = 64
"""Most similar keyframes that are candidates for an image."""
_TOP_RANKED, _ROUND_ROBIN = 4, 4
"""Keyframes tried for one image: the most similar ones, and others of the shortlist, round robin over the images."""


class RelocalizationCandidates:
    """Ranks the keyframes of a map by similarity to an image, and limits how many are tried for one image."""

    def __init__(self) -> None:
        """Begin without a map."""
        self.clear()

    def clear(self) -> None:
        """Forget the map."""
        self._database = PlaceDatabase()
        self._descriptors: dict[int, NDArray[np.float32]] = {}
        self._version = -1
        self._next = 0
        self._has_warned = False

    def choose(self, image: ImageFeatures, rows: NDArray[np.int64], solution: Solution) -> list[int]:
        """Return those of `rows`, rows of the solution, that are to be tried for `image` now, the most similar first.

        The correct keyframe is often among the first few of the ranking, and nearly always in the shortlist. The first
        few are therefore tried for every image, and the others round robin over the images, together with keyframes
        without a place descriptor.
        """
        self._update(solution)
        row_of = dict(zip(solution.ids[rows].tolist(), rows.tolist(), strict=True))
        ranked = self._database.query(image.appearance, _SHORTLIST, before=int(solution.ids[-1]) + 1)
        by_similarity = [row_of[k] for k in ranked.tolist() if k in row_of]
        unranked = [row for k, row in row_of.items() if k not in self._database]
        if unranked and not self._has_warned:
            self._has_warned = True
            _LOG.warning("%d of %d keyframes of the map have no place descriptor: they are tried one after the other",
                         len(unranked), len(rows))
        if len(rows) < len(solution):  # a subset of the map is searched completely
            unranked = [row for row in row_of.values() if row not in by_similarity]
        best, others = by_similarity[:_TOP_RANKED], by_similarity[_TOP_RANKED:] + unranked
        selected = [others[(self._next + i) % len(others)] for i in range(min(_ROUND_ROBIN, len(others)))]
        self._next = (self._next + len(selected)) % max(len(others), 1)
        return best + selected

    def _update(self, solution: Solution) -> None:
        """Add the descriptors of keyframes that are new in the solution, and remove those that are gone."""
        if solution.version == self._version:
            return
        self._version = solution.version
        descriptors = {k: descriptor for k in solution.ids.tolist()
                       if (descriptor := solution.keyframes[k].appearance) is not None}
        for keyframe in self._descriptors.keys() - descriptors.keys():
            self._database.remove(keyframe)
        self._database.add_all({k: descriptor for k, descriptor in descriptors.items()
                                if descriptor is not self._descriptors.get(k)})
        self._descriptors = descriptors
