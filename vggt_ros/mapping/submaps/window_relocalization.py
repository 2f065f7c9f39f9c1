"""Relocalization of the images of a window in a map that it shares no keyframe with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import TrackingConfig
from vggt_ros.features.tracks import ImageFeatures
from vggt_ros.places.relocalization import Relocalization, Relocalizer
from vggt_ros.windows.keyframe import Keyframe, Window
from vggt_ros.windows.solution import Solution


class WindowRelocalizer:
    """Relocalizes the images of windows, near the poses that the tracker estimated, or in the whole map."""

    def __init__(self, config: TrackingConfig) -> None:
        """Search with the settings of `config`."""
        self._config = config
        self._relocalizer = Relocalizer(config)

    def find(
        self, window: Window, solution: Solution, rows: NDArray[np.int64] | None = None
    ) -> dict[int, Relocalization]:
        """Return keyframe id to its relocalization, for those images of the window that were found.

        With `rows` (n,), only those keyframes of the solution are searched, without the tracker's poses. If no image
        was found near the tracker's pose, the relocalizations are returned only if there is more than one.
        """
        found, near_estimate = {}, False
        for keyframe in window.keyframes:
            image = ImageFeatures.from_keyframe(keyframe, self._config.features)
            relocalization = self._find_near(keyframe, image, solution) if rows is None else None
            near_estimate |= relocalization is not None
            if relocalization is None:
                relocalization = self._relocalizer.search(image, keyframe.intrinsics, solution, rows)
            if relocalization is not None:
                found[keyframe.id] = relocalization
        return found if near_estimate or len(found) > 1 else {}

    def _find_near(self, keyframe: Keyframe, image: ImageFeatures, solution: Solution) -> Relocalization | None:
        """Return the relocalization of a keyframe near the tracker's pose, in the first submap where it succeeds."""
        if keyframe.map_camera is None:
            return None
        attempts = (self._relocalizer.search_near(image, keyframe.intrinsics, solution, keyframe.map_camera, submap)
                    for submap in np.unique(solution.submaps).tolist())
        return next((found for found in attempts if found is not None), None)
