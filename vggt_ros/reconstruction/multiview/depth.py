"""Dense depth of the keyframes of a window by a plane sweep, and by optical flow with known poses.

Each keyframe is matched with a few neighbors twice. A plane sweep at low resolution (`plane_sweep`) finds depth without
a guess. A neighbor image is then warped into the keyframe with this depth, so that the residual flow is small. Flow is
computed with DIS (Kroeger et al., Fast Optical Flow using Dense Inverse Search, ECCV 2016). The component of a flow
vector along the epipolar line gives an inverse depth; the component perpendicular to it is an error from which the
variance is estimated. The estimates of the neighbors are averaged with inverse-variance weights. Where flow and sweep
agree, they are averaged, too; elsewhere the sweep counts if it is certain, with a larger variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import resize_intrinsics
from vggt_ros.geometry.poses import inverse
from vggt_ros.images.exposure import brightness_change
from vggt_ros.reconstruction.multiview.plane_sweep import Sweep, sweep

Array = NDArray[np.float64]
Map = NDArray[np.float32]

TARGET_PARALLAX = 12.0
"""Preferred parallax of a neighbor for flow, pixels: less is imprecise, more is hard to match."""
SWEEP_PARALLAX, SWEEP_NEIGHBORS = 24.0, 7
"""The same for the plane sweep, and the number of neighbors, which see what is hidden from some of them."""
FLOW_SIGMA = 0.25
"""Standard deviation of the flow where it is consistent, pixels."""
MIN_POINTS = 10
"""Fewest sparse points that a keyframe must observe to get depth."""
MAX_POINTS = 100
"""About how many sparse points decide which keyframes are neighbors."""
PRIOR_WEIGHT = 0.05
"""Weight of the coarser pyramid level when sparse points are interpolated."""
MAX_RELATIVE_SIGMA = 0.25
"""Depth with a larger relative standard deviation is set to unknown."""
MIN_RELATIVE_SIGMA = 0.004
"""Smallest relative standard deviation of each estimate: errors of the poses are common to all pixels."""
AGREEING_PLANES = 2.0
"""Flow and sweep agree up to this difference, in planes of the sweep."""
UNCONFIRMED = 1.2
"""Factor of the sweep's standard deviation where flow does not agree."""
MAX_UNCONFIRMED_SIGMA = 0.1
"""Depth by the sweep alone with a larger relative standard deviation is set to unknown."""


@dataclass(frozen=True, eq=False)
class InverseDepthEstimate:
    """Inverse depth (h, w) of a keyframe and its information, one over the variance; 0 where it is unknown."""

    inverse_depth: Map
    information: Map


def dense_depth(grays: NDArray[np.uint8], intrinsics: Array, window_camera: Array, points: Array,
                visible: NDArray[np.bool_], neighbors: int = 3,
                wanted: Sequence[int] | None = None) -> tuple[Map, Map]:
    """Return depth and its relative standard deviation, float32 (S, h, w), NaN where unknown.

    Args:
        grays: uint8 (S, h, w).
        intrinsics: (S, 3, 3) for this size.
        window_camera: (S, 4, 4).
        points: sparse points (n, 3) in the window frame, for the depth prior and the choice of neighbors.
        visible: (n, S), which keyframe observes which point.
        neighbors: number of keyframes that each keyframe is matched with by flow.
        wanted: the keyframes that depth is wanted of, all by default; the others are neighbors only.

    """
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)  # MEDIUM: twice the time, errors 3 % smaller
    depth, sigma = np.full(grays.shape, np.nan, np.float32), np.full(grays.shape, np.nan, np.float32)
    for index in range(len(grays)) if wanted is None else wanted:
        camera_window = inverse(window_camera[index])
        points_camera = points[visible[:, index]] @ camera_window[:3, :3].T + camera_window[:3, 3]
        if len(points_camera) < MIN_POINTS:
            continue
        overlap, parallax = _views_in_common(index, points_camera, intrinsics, window_camera)
        others = _best_neighbors(overlap, parallax, SWEEP_NEIGHBORS, SWEEP_PARALLAX)
        if not others:
            continue
        swept = sweep(grays, intrinsics, window_camera, points_camera, index, others)
        prior = np.where(np.isfinite(swept.sigma), swept.inverse_depth,
                         _interpolate_coarsely(points_camera, intrinsics[index], grays.shape[1:]))
        others = _best_neighbors(overlap, parallax, neighbors)
        estimates = [_match_neighbor(grays[index], grays[other], intrinsics[index], intrinsics[other],
                                     camera_window @ window_camera[other], prior, flow) for other in others]
        depth[index], sigma[index] = _combine(*_fuse(estimates), swept)
    return depth, sigma


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


def _interpolate_coarsely(points: Array, matrix: Array, shape: tuple[int, int]) -> Map:
    """Return what `interpolate` does, computed in half the size."""
    half = (shape[0] + 1) // 2, (shape[1] + 1) // 2
    small = resize_intrinsics(matrix, half[1] / shape[1], half[0] / shape[0])
    return np.asarray(cv2.resize(interpolate(points, small, half), shape[::-1], interpolation=cv2.INTER_LINEAR),
                      np.float32)


def choose_neighbors(index: int, points_camera: Array, intrinsics: Array, window_camera: Array,
                     count: int, target: float = TARGET_PARALLAX) -> list[int]:
    """Return the keyframes to match `index` with: parallax near `target` pixels, and enough overlap.

    `points_camera` are the sparse points (n, 3) that it observes, in its camera frame.
    """
    return _best_neighbors(*_views_in_common(index, points_camera, intrinsics, window_camera), count, target)


def _views_in_common(index: int, points_camera: Array, intrinsics: Array, window_camera: Array) -> tuple[Array, Array]:
    """Return which fraction of a keyframe's points every keyframe sees (S,), and their median parallax, pixels (S,).

    Both are 0 for the keyframe itself.
    """
    matrix = intrinsics[index]
    size, focal = 2 * matrix[:2, 2] + 1, matrix[[0, 1], [0, 1]]
    index_others = inverse(window_camera[index]) @ window_camera
    overlap, parallax = np.zeros(len(window_camera)), np.zeros(len(window_camera))
    points_camera = points_camera[::max(1, len(points_camera) // MAX_POINTS)]
    rays = points_camera[:, :2] / points_camera[:, 2:]
    for other in np.flatnonzero(np.arange(len(window_camera)) != index):
        shifted = points_camera - index_others[other, :3, 3]
        in_other = shifted @ index_others[other, :3, :3]
        with np.errstate(divide="ignore", invalid="ignore"):
            image = in_other[:, :2] / in_other[:, 2:] * focal + matrix[:2, 2]
            visible = (in_other[:, 2] > 0) & (image >= 0).all(1) & (image < size).all(1)
            motion = (shifted[visible, :2] / shifted[visible, 2:] - rays[visible]) * focal
        if len(motion):
            overlap[other] = visible.mean()
            parallax[other] = np.sqrt(np.median((motion**2).sum(1)))
    return overlap, parallax


def _best_neighbors(overlap: Array, parallax: Array, count: int, target: float = TARGET_PARALLAX) -> list[int]:
    """Return the keyframes with parallax near `target` pixels and enough overlap, the best first."""
    usable = np.flatnonzero((overlap > 0.35) & (parallax > 0.5))
    score = overlap[usable] * np.exp(-0.5 * np.log(parallax[usable] / target) ** 2)
    return usable[np.lexsort((-usable, -score))][:count].tolist()


def _match_neighbor(gray: NDArray[np.uint8], other: NDArray[np.uint8], matrix: Array, other_matrix: Array,
                    camera_other: Array, prior: Map, flow: cv2.DISOpticalFlow) -> InverseDepthEstimate:
    """Return the inverse depth of a keyframe from one neighbor, whose pose in the keyframe is `camera_other`."""
    height, width = gray.shape
    column, row = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    shifted_x, shifted_y = _translate_pixels(column, row, prior, matrix, camera_other[:3, 3])
    homography = (other_matrix @ camera_other[:3, :3].T @ np.linalg.inv(matrix)).astype(np.float32)
    scale = homography[2, 0] * shifted_x + homography[2, 1] * shifted_y + homography[2, 2]
    map_x = (homography[0, 0] * shifted_x + homography[0, 1] * shifted_y + homography[0, 2]) / scale
    map_y = (homography[1, 0] * shifted_x + homography[1, 1] * shifted_y + homography[1, 2]) / scale
    warped = cv2.remap(other, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = (map_x >= 0) & (map_x <= width - 1) & (map_y >= 0) & (map_y <= height - 1) & (scale > 0)

    change = brightness_change(warped, gray)
    if not change.is_negligible:
        warped = change.apply(warped)
    residual_flow = flow.calc(gray, warped, None)
    backward = flow.calc(warped, gray, None)
    flow_x, flow_y = cv2.split(residual_flow)
    at_x, at_y = column + flow_x, row + flow_y
    back_x, back_y = cv2.split(cv2.remap(backward, at_x, at_y, cv2.INTER_LINEAR) + residual_flow)
    round_trip = back_x**2 + back_y**2
    valid = (cv2.remap(inside.astype(np.uint8), at_x, at_y, cv2.INTER_NEAREST) > 0) & (round_trip < 1.0)
    translated_x = cv2.remap(shifted_x, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    translated_y = cv2.remap(shifted_y, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    moved_x, moved_y = translated_x - column, translated_y - row

    fx, fy, cx, cy = (np.float32(v) for v in (matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]))
    tx, ty, tz = (np.float32(v) for v in camera_other[:3, 3])
    epipolar_x, epipolar_y = (translated_x - cx) * tz - tx * fx, (translated_y - cy) * tz - ty * fy
    square = np.maximum(epipolar_x**2 + epipolar_y**2, np.float32(1e-12))
    rho = (epipolar_x * moved_x + epipolar_y * moved_y) / square
    epipolar_error = (epipolar_x * moved_y - epipolar_y * moved_x) ** 2 / square
    noise = FLOW_SIGMA**2 + cv2.boxFilter(epipolar_error, -1, (5, 5)) + 0.25 * round_trip
    information = square / (noise * (1 - rho * tz) ** 2)
    valid &= epipolar_error < 1.0
    return InverseDepthEstimate(rho, np.where(valid, information, np.float32(0)))


def _translate_pixels(column: Map, row: Map, rho: Map, matrix: Array, center: Array) -> tuple[Map, Map]:
    """Return the pixel positions after the camera is translated to `center`, for pixels of inverse depth `rho`."""
    fx, fy, cx, cy = (np.float32(v) for v in (matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]))
    tx, ty, tz = (np.float32(v) for v in center)
    scale = np.maximum(1 - rho * tz, np.float32(0.05))
    return (column - cx - rho * tx * fx) / scale + cx, (row - cy - rho * ty * fy) / scale + cy


def _fuse(estimates: list[InverseDepthEstimate]) -> tuple[Map, Map]:
    """Return depth and its relative standard deviation: the weighted mean of the estimates consistent with the best."""
    best, most = estimates[0].inverse_depth.copy(), estimates[0].information.copy()
    for one in estimates[1:]:
        better = one.information > most
        np.copyto(best, one.inverse_depth, where=better)
        np.copyto(most, one.information, where=better)
    total, mean, square, agreeing = (np.zeros_like(best) for _ in range(4))
    for one in estimates:
        difference, information = one.inverse_depth - best, one.information
        # The squared difference is below nine times the sum of both variances.
        consistent = difference**2 * information * most < 9 * (information + most)
        consistent &= information > 0
        information = np.where(consistent, information, np.float32(0))
        weighted = information * difference
        total += information
        mean += weighted
        square += weighted * difference
        agreeing += consistent
    with np.errstate(divide="ignore", invalid="ignore"):
        mean /= total  # of the differences
        scatter = np.maximum(square / total - mean**2, 0)
        mean += best
        sigma = np.sqrt(1 / total + scatter) / mean
        known = (total > 0) & (mean > 0) & (sigma < MAX_RELATIVE_SIGMA) & (agreeing >= min(2, len(estimates)))
        depth = np.where(known, 1 / mean, np.float32(np.nan))
    return depth.astype(np.float32), np.where(known, sigma, np.float32(np.nan)).astype(np.float32)


def _combine(depth: Map, sigma: Map, swept: Sweep) -> tuple[Map, Map]:
    """Return depth and its relative standard deviation by flow (the first two) and by the plane sweep."""
    rho = swept.inverse_depth
    by_sweep = np.maximum(swept.sigma / rho, np.float32(MIN_RELATIVE_SIGMA))
    by_flow = np.maximum(sigma, np.float32(MIN_RELATIVE_SIGMA))
    in_flow, swept_too = np.isfinite(depth), np.isfinite(by_sweep)
    by_flow_rho = 1 / np.where(in_flow, depth, np.float32(1))
    agree = in_flow & (~swept_too | (np.abs(by_flow_rho - rho) < AGREEING_PLANES * swept.step))
    flow_weight, sweep_weight = np.where(agree, by_flow**-2, 0), np.where(swept_too, by_sweep**-2, 0)
    total = np.maximum(flow_weight + sweep_weight, np.float32(1e-9))
    mean = (np.where(agree, by_flow_rho * flow_weight, 0) + rho * sweep_weight) / total
    best = np.fmin(by_flow, by_sweep)  # not less: both come from the same images and poses
    contradiction = np.where(in_flow, by_flow_rho / rho - 1, 0)
    combined = np.where(agree, best, np.hypot(UNCONFIRMED * by_sweep, contradiction))
    known = (agree | swept_too) & (mean > 0) & (combined < np.where(agree, MAX_RELATIVE_SIGMA, MAX_UNCONFIRMED_SIGMA))
    return (np.where(known, 1 / np.where(known, mean, np.float32(1)), np.nan).astype(np.float32),
            np.where(known, combined, np.nan).astype(np.float32))


def rank(sigma: Map) -> Map:
    """Return the confidence, the rank in (0, 1] among all known values of `sigma`: 1 for the smallest, 0 if unknown."""
    known = np.isfinite(sigma)
    # The upper bits of a positive float32 are in its order, and finer than a thousandth: ranks are counted, not sorted.
    keys = np.where(known, sigma, np.float32(0)).view(np.uint32) >> 13
    counts = np.bincount(keys[known], minlength=1)
    at_least = np.cumsum(counts[::-1])[::-1]  # values of this key or larger
    ranks = (at_least / max(int(known.sum()), 1)).astype(np.float32)
    return np.where(known, ranks[np.minimum(keys, len(ranks) - 1)], np.float32(0))
