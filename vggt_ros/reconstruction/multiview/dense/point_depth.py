"""Depth around the sparse points of a keyframe, where dense depth is not worth its cost.

A window that only verifies a loop needs depth for the scale between the window and the map, and for the matched
features. Both are where the sparse points are, whose depth is the most exact that there is.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, inverse
from vggt_ros.reconstruction.multiview.dense.depth import MIN_POINTS, Map, interpolate

REACH = 0.03
"""Distance to the nearest point up to which depth is taken as known, as a fraction of the image width."""
SIGMA, SIGMA_AT_REACH = 0.01, 0.05
"""Relative standard deviation of depth at a point, and as far from it as depth is known."""


def depth_around_points(intrinsics: Array, window_camera: Array, points: Array, visible: NDArray[np.bool_],
                        shape: tuple[int, int]) -> tuple[Map, Map]:
    """Return depth and its relative standard deviation, float32 (S, h, w), NaN where no point is near.

    Args:
        intrinsics: (S, 3, 3) for this size.
        window_camera: (S, 4, 4).
        points: sparse points (n, 3) in the window frame.
        visible: (n, S), which keyframe observes which point.
        shape: h and w.

    """
    depth, sigma = (np.full((len(window_camera), *shape), np.nan, np.float32) for _ in range(2))
    for index, (matrix, camera) in enumerate(zip(intrinsics, window_camera, strict=True)):
        camera_window = inverse(camera)
        points_camera = points[visible[:, index]] @ camera_window[:3, :3].T + camera_window[:3, 3]
        points_camera = points_camera[points_camera[:, 2] > 0]
        if len(points_camera) < MIN_POINTS:
            continue
        inverse_depth = interpolate(points_camera, matrix, shape)
        image = points_camera[:, :2] / points_camera[:, 2:] * matrix[[0, 1], [0, 1]] + matrix[:2, 2]
        column, row = np.rint(image).astype(int).T
        inside = (column >= 0) & (column < shape[1]) & (row >= 0) & (row < shape[0])
        free = np.ones(shape, np.uint8)
        free[row[inside], column[inside]] = 0
        distance = cv2.distanceTransform(free, cv2.DIST_L2, cv2.DIST_MASK_3) / np.float32(REACH * shape[1])
        known = (distance < 1) & (inverse_depth > 0)
        depth[index][known] = 1 / inverse_depth[known]
        sigma[index][known] = SIGMA + (SIGMA_AT_REACH - SIGMA) * distance[known]
    return depth, sigma
