"""Dense depth of the keyframes of a window, whose poses are known, by a plane sweep that is refined.

A plane sweep at low resolution (`plane_sweep`) finds depth without a guess, and where it is ambiguous. It is refined
at full resolution to a fraction of a pixel (`depth_refinement`). The standard deviation takes both into account. Where
there is no texture, planes through the depth around take part (`planar_segments`).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import resize_intrinsics
from vggt_ros.geometry.poses import Array, inverse
from vggt_ros.reconstruction.multiview.dense.dense_neighbors import PARTS, DenseNeighbors
from vggt_ros.reconstruction.multiview.dense.depth_refinement import projection, refine
from vggt_ros.reconstruction.multiview.dense.planar_segments import with_planes
from vggt_ros.reconstruction.multiview.dense.plane_sweep import SmallImages, Sweep, sweep

Map = NDArray[np.float32]

REFINED_PARALLAX, REFINED_NEIGHBORS = 25.0, 5
"""Preferred parallax of the neighbors by which depth is refined, pixels, and their number."""
SWEEP_PARALLAX, SWEEP_NEIGHBORS = 24.0, 7
"""The same for the plane sweep: several neighbors see what is hidden from some of them."""
MIN_POINTS = 10
"""Fewest sparse points that a keyframe must observe to get depth."""
PRIOR_WEIGHT = 0.05
"""Weight of the coarser pyramid level when sparse points are interpolated."""
MAX_RELATIVE_SIGMA = 0.11
"""Depth with a larger relative standard deviation is set to unknown."""
MIN_RELATIVE_SIGMA = 0.004
"""Smallest relative standard deviation: errors of the poses are common to all pixels."""
LEAST_PLANES, UNSEEN_PLANES = 0.075, 6.0
"""Least standard deviation of the sweep with which depth is refined, in planes, and that where it found none."""


def dense_depth(grays: NDArray[np.uint8], intrinsics: Array, window_camera: Array, points: Array,
                visible: NDArray[np.bool_], wanted: Sequence[int] | None = None) -> tuple[Map, Map]:
    """Return depth and its relative standard deviation, float32 (S, h, w), NaN where unknown.

    Args:
        grays: uint8 (S, h, w).
        intrinsics: (S, 3, 3) for this size.
        window_camera: (S, 4, 4).
        points: sparse points (n, 3) in the window frame, for the range of depth and the choice of neighbors.
        visible: (n, S), which keyframe observes which point.
        wanted: the keyframes that depth is wanted of, all by default; the others are neighbors only.

    """
    depth, sigma = np.full(grays.shape, np.nan, np.float32), np.full(grays.shape, np.nan, np.float32)
    small = SmallImages(grays, intrinsics)
    for index in range(len(grays)) if wanted is None else wanted:
        camera_window = inverse(window_camera[index])
        points_camera = points[visible[:, index]] @ camera_window[:3, :3].T + camera_window[:3, 3]
        if len(points_camera) < MIN_POINTS:
            continue
        neighbors = DenseNeighbors(index, _part_depths(points_camera, intrinsics[index], grays.shape[1:]), intrinsics,
                                   window_camera, grays.shape[1:])
        others = neighbors.best(SWEEP_NEIGHBORS, SWEEP_PARALLAX)
        if not others:
            continue
        swept = sweep(small, window_camera, points_camera, index, others)
        others = neighbors.best(REFINED_NEIGHBORS, REFINED_PARALLAX)
        depth[index], sigma[index] = _refined(grays, intrinsics, window_camera, index, others, swept)
    return depth, sigma


def _refined(grays: NDArray[np.uint8], intrinsics: Array, window_camera: Array, index: int, others: Sequence[int],
             swept: Sweep) -> tuple[Map, Map]:
    """Return depth and its relative standard deviation.

    The latter is the geometric mean of that of the sweep, which knows other depths that fit almost as well, and of that
    of the refinement, which knows how exactly the images determine this one. Parts without texture get planes.
    """
    found = np.isfinite(swept.sigma)
    by_sweep = np.where(found, np.maximum(swept.sigma, np.float32(LEAST_PLANES * swept.step)),
                        np.float32(UNSEEN_PLANES * swept.step))
    rho, by_refinement, agree = refine(grays, intrinsics, window_camera, index, others, swept.inverse_depth, by_sweep)
    sigma = np.sqrt(by_sweep * by_refinement)
    known = found & (rho > 0) & (sigma < MAX_RELATIVE_SIGMA * rho)
    neighbors = [(grays[row], *projection(intrinsics[index], intrinsics[row],
                                          inverse(window_camera[row]) @ window_camera[index])) for row in others]
    rho, sigma = with_planes(grays[index], rho, np.where(known, sigma, np.float32(np.inf)), neighbors)
    known = agree & np.isfinite(sigma)
    rho = np.where(known, rho, np.float32(1))
    sigma = np.maximum(sigma / rho, np.float32(MIN_RELATIVE_SIGMA))
    return (np.where(known, 1 / rho, np.float32(np.nan)).astype(np.float32),
            np.where(known, sigma, np.float32(np.nan)).astype(np.float32))


def _part_depths(points: Array, matrix: Array, shape: tuple[int, ...]) -> Array:
    """Return the depths of the parts of an image (h, w) by sparse points (n, 3) in the camera frame, see `PARTS`.

    What a car passes by is far nearer than the end of the street, and needs neighbors that are nearer.
    """
    (rows, columns), fine = PARTS, 4
    coarse = resize_intrinsics(matrix, columns * fine / shape[1], rows * fine / shape[0])
    inverse_depth = interpolate(points, coarse, (rows * fine, columns * fine))
    return np.asarray(1 / inverse_depth.reshape(rows, fine, columns, fine).mean((1, 3)), np.float64)


def interpolate(points: Array, matrix: Array, shape: tuple[int, ...]) -> Map:
    """Return inverse depth (h, w) interpolated from the sparse points (n, 3) in a camera frame, by push-pull.

    Push-pull interpolation goes down an image pyramid with averages and back up with fill-in.
    """
    height, width = shape
    image = points[:, :2] / points[:, 2:] * matrix[[0, 1], [0, 1]] + matrix[:2, 2]
    column, row = np.rint(image).astype(int).T
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (points[:, 2] > 0)
    value, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    np.add.at(value, (row[inside], column[inside]), 1.0 / points[inside, 2])
    np.add.at(weight, (row[inside], column[inside]), 1.0)
    levels = [(value, weight)]
    while min(levels[-1][0].shape) > 3:
        levels.append((cv2.pyrDown(levels[-1][0]) * 4, cv2.pyrDown(levels[-1][1]) * 4))
    dense = np.full(levels[-1][0].shape, 1.0 / np.median(points[:, 2]), np.float32)
    for value, weight in reversed(levels):
        dense = cv2.resize(dense, value.shape[::-1], interpolation=cv2.INTER_LINEAR)
        dense = (value + PRIOR_WEIGHT * dense) / (weight + PRIOR_WEIGHT)
    return cv2.GaussianBlur(dense, (0, 0), 2.0)


def rank(sigma: Map) -> Map:
    """Return the confidence, the rank in (0, 1] among all known values of `sigma`: 1 for the smallest, 0 if unknown."""
    known = np.isfinite(sigma)
    # The upper bits of a positive float32 are in its order, and finer than a thousandth: ranks are counted, not sorted.
    keys = np.where(known, sigma, np.float32(0)).view(np.uint32) >> 13
    counts = np.bincount(keys[known], minlength=1)
    at_least = np.cumsum(counts[::-1])[::-1]  # values of this key or larger
    ranks = (at_least / max(int(known.sum()), 1)).astype(np.float32)
    return np.where(known, ranks[np.minimum(keys, len(ranks) - 1)], np.float32(0))
