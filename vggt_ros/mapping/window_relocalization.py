"""Where the images of a window are in a map that it shares no keyframe with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import TrackingConfig
from vggt_ros.features.tracks import ImageFeatures
from vggt_ros.places.relocalization import Relocalization, Relocalizer
from vggt_ros.windows.keyframe import Keyframe, Window
from vggt_ros.windows.solution import Solution


class WindowRelocalizer:
    """Finds windows by their images, near where the tracker took them to be, or anywhere."""

    def __init__(self, config: TrackingConfig) -> None:
        """Search with the settings of `config`."""
        self._config = config
        self._relocalizer = Relocalizer(config)

    def clear(self) -> None:
        """Forget the map."""
        self._relocalizer.clear()

    def find(
        self, window: Window, solution: Solution, rows: NDArray[np.int64] | None = None
    ) -> dict[int, Relocalization]:
        """Return keyframe id to where it was taken, of those images of the window that were found.

        With `rows` (n,) only those keyframes of the solution are asked. What was found anywhere, and not near where it
        was expected, is believed if more than one image says so.
        """
        places, sure = {}, False
        for keyframe in window.keyframes:
            image = ImageFeatures.from_keyframe(keyframe, self._config.features)
            found = self._near(keyframe, image, solution) if rows is None else None
            sure |= found is not None
            if found is None:
                found = self._relocalizer.search(image, keyframe.intrinsics, solution, rows)
            if found is not None:
                places[keyframe.id] = found
        return places if sure or len(places) > 1 else {}

    def _near(self, keyframe: Keyframe, image: ImageFeatures, solution: Solution) -> Relocalization | None:
        """Return where a keyframe was taken, near where the tracker took it to be in any of the submaps."""
        if keyframe.map_camera is None:
            return None
        tries = (self._relocalizer.search_near(image, keyframe.intrinsics, solution, keyframe.map_camera, submap)
                 for submap in np.unique(solution.submaps).tolist())
        return next((found for found in tries if found is not None), None)
