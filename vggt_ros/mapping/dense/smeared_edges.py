"""Pixels of a depth map between two surfaces, where depth goes over gradually from one to the other.

Stereo at low resolution, smoothing and networks smear edges of depth over a few pixels. In the map they are walls along
the viewing rays that nothing is behind. They are as steep as a surface at a grazing angle, but unlike its slope, theirs
ends after a few pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array

Map = NDArray[np.float32]

_GRAZING = 0.5
"""Cosine of the angle of the surface's normal to the ray below which a pixel may be smeared."""
_TOO_GRAZING = 0.15
"""The same below which its depth is too uncertain anyway."""
_NEAR, _FAR = 0.015, 0.04
"""Reach to both sides over which the slope of a pixel, and that around it, are taken, as fractions of the width."""
_CONTINUED = 0.75
"""The slope of a surface is at least this fraction of the pixel's, over the larger reach."""
_JUMP = 0.05
"""A larger relative change from pixel to pixel is an edge that is not smeared."""


def smeared(depth: Map, intrinsics: Array) -> NDArray[np.bool_]:
    """Return which pixels (h, w) of a depth map are smeared edges; depth is 0 where unknown."""
    height, width = depth.shape
    known = depth > 0
    rho = np.where(known, 1 / np.where(known, depth, np.float32(1)), np.float32(0))
    reaches = max(1, round(_NEAR * width)), max(3, round(_FAR * width))
    (near_x, far_x), (near_y, far_y) = _slopes(rho, reaches, 1), _slopes(rho, reaches, 0)
    x = (np.arange(width, dtype=np.float32) - np.float32(intrinsics[0, 2])) / np.float32(intrinsics[0, 0])
    y = ((np.arange(height, dtype=np.float32) - np.float32(intrinsics[1, 2])) / np.float32(intrinsics[1, 1]))[:, None]
    along_x, along_y = near_x * np.float32(intrinsics[0, 0]), near_y * np.float32(intrinsics[1, 1])
    # The normal is that of the plane with these slopes of inverse depth; its product with the ray (x, y, 1) is `rho`.
    ahead = rho - along_x * x - along_y * y
    square = (along_x * along_x + along_y * along_y + ahead * ahead) * (1 + x * x + y * y)
    in_rows = np.abs(along_x) >= np.abs(along_y)
    near, far = np.where(in_rows, near_x, near_y), np.where(in_rows, far_x, far_y)
    ends = np.abs(far) < np.float32(_CONTINUED) * np.abs(near)
    rho *= rho  # the cosine is `rho` over the square root
    return np.asarray(known & ((rho < np.float32(_GRAZING**2) * square) & ends
                               | (rho < np.float32(_TOO_GRAZING**2) * square)), np.bool_)


def _slopes(rho: Map, reaches: tuple[int, int], axis: int) -> tuple[Map, Map]:
    """Return the mean change of inverse depth (h, w) per pixel along an axis, over a smaller and a larger reach.

    Changes to unknown pixels and across sharp edges are left out.
    """
    first, second = (rho[:, :-1], rho[:, 1:]) if axis else (rho[:-1], rho[1:])
    step = second - first
    valid = (np.abs(step) < np.float32(_JUMP) * np.minimum(first, second)).astype(np.float32)  # not if one is unknown
    step *= valid
    step, valid = (cv2.copyMakeBorder(values, 0, 1 - axis, 0, axis, cv2.BORDER_CONSTANT) for values in (step, valid))
    slopes = []
    for reach in reaches:
        size, anchor = ((2 * reach, 1), (reach, 0)) if axis else ((1, 2 * reach), (0, reach))
        total, count = (cv2.boxFilter(values, -1, size, anchor=anchor, borderType=cv2.BORDER_CONSTANT)
                        for values in (step, valid))
        slopes.append(np.asarray(total / np.maximum(count, np.float32(0.1 / reach)), np.float32))
    return slopes[0], slopes[1]
