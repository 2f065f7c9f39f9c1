"""What the tracker remembers of a keyframe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.features.landmarks import landmarks
from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.geometry.poses import Array
from vggt_ros.windows.keyframe import BinaryFeatures
from vggt_ros.windows.solution import Solution


@dataclass(eq=False)
class TrackedKeyframe:
    """What a keyframe saw.

    Track ids (n,), rising, at pixels (n, 2); binary features; the camera's pose as the tracker knew it, or None; its
    pinhole matrix; and its image's width.
    """

    ids: NDArray[np.int64]
    pixels: NDArray[np.float32]
    binary: BinaryFeatures
    world_camera: Array | None
    intrinsics: Array
    width: int

    def rays(self, tracks: NDArray[np.int64]) -> Array:
        """Return the rays (k, 3) at depth 1, in the camera's frame, of `tracks` (k,) that it has seen."""
        pixels = self.pixels[np.searchsorted(self.ids, tracks)].astype(np.float64)
        return pixel_rays(self.intrinsics, *pixels.T)

    def landmarks(self, pixels: NDArray[np.float32], keyframe: int, solution: Solution) -> Array:
        """Return the world points (n, 3) at `pixels` (n, 2) of it as the solved `keyframe`; NaN where there is none."""
        row = solution.index(keyframe)
        assert row is not None
        kept = solution.keyframes[keyframe]
        small = (pixels.astype(np.float64) + 0.5) * (kept.depth.shape[1] / self.width) - 0.5
        return landmarks(kept, solution.map_camera[row], float(solution.scale[row]), small)
