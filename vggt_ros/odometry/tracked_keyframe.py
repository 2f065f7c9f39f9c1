"""The tracker's record of a keyframe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.features.landmarks import landmarks
from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.geometry.poses import Array
from vggt_ros.odometry.solved_focal import solved_intrinsics
from vggt_ros.windows.solution import MapKeyframe, Solution


@dataclass(eq=False)
class TrackedKeyframe:
    """Observations of a keyframe, for the tracker.

    Attributes:
        ids: int64 (n,), rising, the feature tracks in its image.
        pixels: float32 (n, 2), their positions.
        map_camera: 4x4, the camera's pose by the tracker or, when solved, by the map; None if it is unknown.
        intrinsics: pinhole matrix (3, 3).
        width: of its image, pixels.
        shifts: float32 (n, 2), by how many pixels a rolling shutter shifted the tracks.

    """

    ids: NDArray[np.int64]
    pixels: NDArray[np.float32]
    map_camera: Array | None
    intrinsics: Array
    width: int
    shifts: NDArray[np.float32]

    def rays(self, tracks: NDArray[np.int64]) -> Array:
        """Return the rays (k, 3) at depth 1, in the camera's frame, of `tracks` (k,), all of which it has observed."""
        rows = np.searchsorted(self.ids, tracks)
        return pixel_rays(self.intrinsics, *(self.pixels - self.shifts)[rows].astype(np.float64).T)

    def update_intrinsics(self, solved: MapKeyframe) -> None:
        """Take the focal length that was solved: without a calibration it was assumed when the image came."""
        self.intrinsics = solved_intrinsics(self.intrinsics, self.width, [solved])

    def landmarks(self, at: NDArray[Any], keyframe: int, solution: Solution) -> Array:
        """Return the map points (k, 3) of its tracks `at` these rows, by the depth of the solved `keyframe`, or NaN."""
        row = solution.row(keyframe)
        map_keyframe = solution.keyframes[keyframe]
        factor = map_keyframe.depth.shape[1] / self.width
        scaled_pixels = (self.pixels[at].astype(np.float64) + 0.5) * factor - 0.5
        return landmarks(map_keyframe, solution.map_camera[row], float(solution.scale[row]), scaled_pixels,
                         factor * self.shifts[at])
