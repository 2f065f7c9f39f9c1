"""The search for a lost camera in a thread of its own: it takes as long as tracking several images.

Meanwhile the images go on without a pose. What was found in the searched image is followed by optical flow through
those after it, into the newest one.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vggt_ros.features.tracks import ImageFeatures, follow
from vggt_ros.geometry.poses import Array
from vggt_ros.places.relocalization import Relocalization, Relocalizer
from vggt_ros.threads import give_way
from vggt_ros.windows.solution import Solution

_MAX_IMAGES = 20
"""Images through which something is followed at most, 0.5 MB each; a search that takes longer was in vain."""


class BackgroundSearch:
    """Searches one image after the other."""

    def __init__(self, relocalizer: Relocalizer) -> None:
        """Search by a relocalizer, which nobody else may use before `stop`."""
        self._relocalizer = relocalizer
        self._search: _Search | None = None

    def search(self, image: ImageFeatures, intrinsics: Array, solution: Solution) -> Relocalization | None:
        """Return what was found in an earlier image, followed into this one; else None, and search for this one.

        Only the pose is that of the earlier image. What was found in another solution is not used.

        Raises:
            Exception: as the search did.

        """
        found = None
        if self._search is not None:
            self._search.grays.append(image.gray)
            if len(self._search.grays) > _MAX_IMAGES:
                self.skip()
            if self._search.thread.is_alive():
                return None
            done, self._search = self._search, None
            if done.error is not None:
                raise done.error
            if done.found is not None and not done.in_vain and done.solution is solution:
                found = _followed(done.found, done.grays)
        if found is None:
            self._search = _Search(self._relocalizer, image, intrinsics, solution)
        return found

    def skip(self) -> None:
        """Note that an image has a pose without a search: what is found in one before it will not be used."""
        if self._search is not None:
            self._search.in_vain = True
            self._search.grays.clear()

    def stop(self) -> None:
        """Wait for the end of the search, and forget what it finds."""
        if self._search is not None:
            self._search.thread.join()
            self._search = None


class _Search:
    """The search of one image, which begins at once.

    Attributes:
        solution: in which it is searched for.
        grays: the image and those after it.
        in_vain: whether what is found will not be used.
        found, error: the result, when `thread` has ended.

    """

    def __init__(self, relocalizer: Relocalizer, image: ImageFeatures, intrinsics: Array, solution: Solution) -> None:
        self.solution, self.grays, self.in_vain = solution, [image.gray], False
        self.found: Relocalization | None = None
        self.error: Exception | None = None
        self._relocalizer, self._image, self._intrinsics = relocalizer, image, intrinsics
        self.thread = threading.Thread(target=self._run, name="vggt_ros_search", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        give_way()
        try:
            self.found = self._relocalizer.search(self._image, self._intrinsics, self.solution)
        except Exception as error:  # for the thread of the images, which reports it
            self.error = error


def _followed(found: Relocalization, grays: Sequence[NDArray[np.uint8]]) -> Relocalization | None:
    """Return a relocalization in the first image with its pixels in the last one, those that are followed there."""
    for source, target in pairwise(grays):
        if source.shape != target.shape:
            return None
        pixels, valid = follow(source, target, found.pixels)
        if not valid.any():
            return None
        found = replace(found, points=found.points[valid], pixels=pixels[valid])
    return found
