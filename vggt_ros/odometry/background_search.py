"""The search for a lost camera in a thread of its own: it takes as long as tracking several images.

Meanwhile the images go on without a pose. What was found in the searched image is followed into the newest one by
optical flow.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.features.tracks import ImageFeatures, follow
from vggt_ros.geometry.poses import Array
from vggt_ros.places.relocalization import Relocalization, Relocalizer
from vggt_ros.threads import give_way
from vggt_ros.windows.solution import Solution


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
            if self._search.thread.is_alive():
                return None
            done, self._search = self._search, None
            if done.error is not None:
                raise done.error
            if done.found is not None and done.solution is solution and done.image.gray.shape == image.gray.shape:
                found = _followed(done.found, done.image.gray, image.gray)
        if found is None:
            self._search = _Search(self._relocalizer, image, intrinsics, solution)
        return found

    def stop(self) -> None:
        """Wait for the end of the search, and forget what it finds."""
        if self._search is not None:
            self._search.thread.join()
            self._search = None


class _Search:
    """The search of one image, which begins at once; `found` and `error` are valid when `thread` has ended."""

    def __init__(self, relocalizer: Relocalizer, image: ImageFeatures, intrinsics: Array, solution: Solution) -> None:
        self.image, self.solution = image, solution
        self.found: Relocalization | None = None
        self.error: Exception | None = None
        self._relocalizer, self._intrinsics = relocalizer, intrinsics
        self.thread = threading.Thread(target=self._run, name="vggt_ros_search", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        give_way()
        try:
            self.found = self._relocalizer.search(self.image, self._intrinsics, self.solution)
        except Exception as error:  # for the thread of the images, which reports it
            self.error = error


def _followed(found: Relocalization, source: NDArray[np.uint8], target: NDArray[np.uint8]) -> Relocalization | None:
    """Return a relocalization with its pixels in a later image, those that are found there; None if there are none."""
    pixels, valid = follow(source, target, found.pixels)
    return replace(found, points=found.points[valid], pixels=pixels[valid]) if valid.any() else None
