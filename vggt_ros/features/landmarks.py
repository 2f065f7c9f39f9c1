"""Landmarks: map points of pixels by the depth stored with a keyframe."""

from __future__ import annotations

import numpy as np

from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.geometry.poses import Array
from vggt_ros.windows.solution import MapKeyframe

_DEPTH_JUMP = 1.15
"""Largest ratio of the largest to the smallest depth in the 3x3 neighborhood of a landmark."""


def landmarks(keyframe: MapKeyframe, map_camera: Array, scale: float, pixels: Array,
              shift: Array | float = 0.0) -> Array:
    """Return the map points (n, 3) at `pixels` (n, 2), x and y in the depth image, of a keyframe at `map_camera` 4x4.

    NaN where depth is unknown or discontinuous. Corners often lie on edges, where the depth may be of either side. A
    rolling shutter shifted them by `shift` (n, 2) pixels.
    """
    height, width = keyframe.depth.shape
    neighborhood = np.rint(pixels).astype(int)[:, None] + np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)])
    columns, rows = np.clip(neighborhood[..., 0], 0, width - 1), np.clip(neighborhood[..., 1], 0, height - 1)
    patches = np.sort(keyframe.depth[rows, columns].astype(np.float64), axis=1)  # (n, 9), NaN last
    depth = np.where(patches[:, 8] < _DEPTH_JUMP * patches[:, 0], patches[:, 4], np.nan) * scale
    rays = pixel_rays(keyframe.intrinsics, *(pixels - shift).T)
    return rays * depth[:, None] @ map_camera[:3, :3].T + map_camera[:3, 3]
