"""Which keyframes of the map an image is compared with when the camera is lost: those that look most like it."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from vggt_ros.features.tracks import ImageFeatures
from vggt_ros.places.database import PlaceDatabase
from vggt_ros.windows.solution import Solution

_LOG = logging.getLogger(__name__)
_SHORTLIST = 64
"""Keyframes that come into question for an image."""
_BEST, _IN_TURN = 4, 4
"""Keyframes that are tried for one image: the best, and others of the shortlist, on from image to image."""


class RelocalizationCandidates:
    """Ranks the keyframes of a map for an image, and never names so many that an image would have to wait."""

    def __init__(self) -> None:
        """Begin without a map."""
        self.clear()

    def clear(self) -> None:
        """Forget the map."""
        self._places = PlaceDatabase()
        self._looks: dict[int, NDArray[np.float32]] = {}
        self._version = -1
        self._turn = 0
        self._warned = False

    def choose(self, image: ImageFeatures, rows: NDArray[np.int64], solution: Solution) -> list[int]:
        """Return those of `rows`, of keyframes of the solution, that `image` is compared with now, the best first.

        The ranking is often right within a few places, and nearly always within the shortlist: the best are tried with
        every image, the others in turn. Keyframes without a descriptor of their place all take their turn.
        """
        self._follow(solution)
        allowed = dict(zip(solution.ids[rows].tolist(), rows.tolist(), strict=True))
        ranked = self._places.similar(image.appearance, _SHORTLIST, before=int(solution.ids[-1]) + 1)
        order = [allowed[k] for k in ranked.tolist() if k in allowed]
        unknown = [row for k, row in allowed.items() if k not in self._places]
        if unknown and not self._warned:
            self._warned = True
            _LOG.warning("%d of %d keyframes have no descriptor of their place: for them the search goes round the map",
                         len(unknown), len(rows))
        if len(rows) < len(solution):  # a part of the map is gone through as a whole
            unknown = [row for row in allowed.values() if row not in order]
        best, others = order[:_BEST], order[_BEST:] + unknown
        now = [others[(self._turn + i) % len(others)] for i in range(min(_IN_TURN, len(others)))]
        self._turn = (self._turn + len(now)) % max(len(others), 1)
        return best + now

    def _follow(self, solution: Solution) -> None:
        """Take up the keyframes that are new in the map, and let go of those that left it."""
        if solution.version == self._version:
            return
        self._version = solution.version
        looks = {k: look for k in solution.ids.tolist() if (look := solution.keyframes[k].appearance) is not None}
        for keyframe in self._looks.keys() - looks.keys():
            self._places.remove(keyframe)
        self._places.add_all({k: look for k, look in looks.items() if look is not self._looks.get(k)})
        self._looks = looks
