"""Where in the map an image was taken, by what is kept of the keyframes: from nothing, or near where it is expected.

Binary features of the image are matched to those of a keyframe, whose depth makes them points of the map. A pose on
which enough of them agree is held against the neighbors of that keyframe, whose matches must agree with it too, and at
last the keyframe's colors, moved into the image by its depth, must look like the image: places that look alike in
corners rarely do so in every pixel under one pose.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import TrackingConfig
from vggt_ros.features.landmarks import landmarks
from vggt_ros.features.photometric import PhotometricImage, textured_points
from vggt_ros.features.tracks import REFERENCE_WIDTH, ImageFeatures
from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.geometry.pnp import pnp_ransac, refine_pose
from vggt_ros.geometry.poses import Array, rotation_angle
from vggt_ros.places.candidates import RelocalizationCandidates
from vggt_ros.windows.keyframe import BinaryFeatures
from vggt_ros.windows.solution import Solution

_NEIGHBORS = 4
_RATIO = 0.8
"""Lowe's ratio of the best to the second match."""
_INLIER = 3.0
"""Largest reprojection error of an inlier, px at 640 px width."""
_FIRST_INLIERS, _INLIERS = 12, 30
"""Matches that must agree with one keyframe, and with it and its neighbors."""
_MIN_SPREAD = 0.1
"""Least standard deviation of the inliers in the image, x and y, as a fraction of its width."""
_TRACKED_SPREAD = 0.05
"""The same for a camera that tracks lead to: they rule out what a band of features across the image leaves open."""
_THINNED = 3
"""Of the keyframes' textured pixels every so many-th refines the pose; all of them judge it."""
_MIN_LIKENESS = 0.35
"""Least correlation of the keyframe's detail, moved into the image, with the image's."""


@dataclass(frozen=True, eq=False)
class Relocalization:
    """A place found: `map_camera` 4x4, covariance (6, 6), the points (n, 3) behind it at `pixels` (n, 2) of the image,
    the keyframe it was found by and its submap, and how like that one the image is.
    """

    map_camera: Array
    covariance: Array
    points: Array
    pixels: NDArray[np.float32]
    keyframe: int
    submap: int
    correlation: float


@dataclass(frozen=True)
class PosePrior:
    """Where the camera is said to be: `map_camera` 4x4, within `radius` map units and `angle` radians."""

    map_camera: Array
    radius: float
    angle: float


class Relocalizer:
    """Finds images in a map.

    Attributes:
        expected: where the camera is said to be, until it is found; None if nobody said.
        searched: True if the newest image had features and the map keyframes to try them with, found or not.

    """

    def __init__(self, config: TrackingConfig) -> None:
        """Search with the settings of `config`."""
        self._config = config
        self._matcher = cv2.BFMatcher(cv2.NORM_HAMMING)
        self._candidates = RelocalizationCandidates()
        self.clear()

    def clear(self) -> None:
        """Forget the map and what is expected."""
        self._candidates.clear()
        self.expected: PosePrior | None = None
        self.searched = False

    def search(self, image: ImageFeatures, intrinsics: Array, solution: Solution,
               rows: NDArray[np.int64] | None = None) -> Relocalization | None:
        """Return where `image` was taken, or None; the keyframes tried are those that look most like it.

        With `rows` (n,) only those keyframes of the solution are tried; with an expectation only those near it, and a
        place outside of it is not believed.
        """
        rows = self._allowed(solution) if rows is None else rows
        self.searched = len(rows) > 0 and len(image.binary) >= _INLIERS
        if not self.searched:
            return None
        found = self._try(image, intrinsics, solution, self._candidates.choose(image, rows, solution))
        if found is None or (self.expected is not None and not _within(found.map_camera, self.expected)):
            return None
        self.expected = None
        return found

    def near(self, image: ImageFeatures, intrinsics: Array, solution: Solution, map_camera: Array, submap: int,
             tracked: bool = False) -> Relocalization | None:
        """Return where `image` was taken, given about where in a submap; None if nothing there is like it.

        `tracked` says whether the pose given is one that tracks of known points lead to.
        """
        rows = neighbors(solution, map_camera, submap, _NEIGHBORS)
        return self._try(image, intrinsics, solution, rows, map_camera, _TRACKED_SPREAD if tracked else _MIN_SPREAD)

    def _allowed(self, solution: Solution) -> NDArray[np.int64]:
        rows = np.arange(len(solution))
        if self.expected is None:
            return rows
        return rows[[_within(camera, self.expected, 2.0) for camera in solution.map_camera]]

    def _try(self, image: ImageFeatures, intrinsics: Array, solution: Solution, rows: list[int],
             guess: Array | None = None, min_spread: float = _MIN_SPREAD) -> Relocalization | None:
        """Return the pose by the keyframes in `rows` that the most matches agree on, if it holds."""
        binary, (height, width) = image.binary, image.gray.shape
        if len(binary) < _INLIERS or not rows:
            return None
        pixels, limit = binary.pixels.astype(np.float64), _INLIER * width / REFERENCE_WIDTH
        map_camera, most, submap = guess, _FIRST_INLIERS, int(solution.submaps[rows[0]])
        matches: dict[int, tuple[NDArray[np.int64], Array]] = {}
        for row in rows:
            matches[row] = self._match(binary, solution, row)
            if len(matches[row][0]) < most:  # too few even if all agreed, which they take long to deny
                continue
            agreed = pnp_ransac(matches[row][1], pixels[matches[row][0]], intrinsics, limit)
            if agreed is not None and len(agreed[1]) >= most:
                map_camera, most, submap = agreed[0], len(agreed[1]), int(solution.submaps[row])
        if map_camera is None:
            return None
        around = neighbors(solution, map_camera, submap, _NEIGHBORS)
        for row in around:
            if row not in matches:
                matches[row] = self._match(binary, solution, row)
        which, once = np.unique(np.concatenate([matches[row][0] for row in around]), return_index=True)
        points = np.concatenate([matches[row][1] for row in around])[once]
        seen = pixels[which]
        if len(points) < _INLIERS:
            return None
        map_camera, covariance, inliers = refine_pose(map_camera, points, seen, intrinsics, limit)
        spread = seen[inliers].std(0).min() / width if inliers.any() else 0.0
        if inliers.sum() < _INLIERS or spread < min_spread:
            return None
        query = PhotometricImage.from_image(image.gray, intrinsics,
                                            solution.keyframes[int(solution.ids[around[0]])].depth.shape[1])
        textures = [textured_points(solution, row) for row in around]
        map_camera = query.refine(np.concatenate([points[::_THINNED] for points, _ in textures]),
                                  np.concatenate([values[::_THINNED] for _, values in textures]), map_camera)
        correlations = [query.correlation(*texture, map_camera) for texture in textures]
        chosen = int(np.argmax(correlations))
        if correlations[chosen] < _MIN_LIKENESS:
            return None
        points, where = _seen(points[inliers], intrinsics, map_camera, (height, width))
        return Relocalization(map_camera, covariance, points, where, int(solution.ids[around[chosen]]), submap,
                     correlations[chosen])

    def _match(self, binary: BinaryFeatures, solution: Solution, row: int) -> tuple[NDArray[np.int64], Array]:
        """Return which features (n,) of an image a keyframe has too, and where they are in the map (n, 3)."""
        kept = solution.keyframes[int(solution.ids[row])]
        if len(kept.features) < 2:
            return np.zeros(0, np.int64), np.zeros((0, 3))
        pairs = [best for best, second in self._matcher.knnMatch(binary.descriptors, kept.features, k=2)
                 if best.distance < _RATIO * second.distance]
        here = np.array([pair.queryIdx for pair in pairs], np.int64)
        there = kept.pixels[[pair.trainIdx for pair in pairs]].astype(np.float64).reshape(-1, 2)
        points = landmarks(kept, solution.map_camera[row], float(solution.scale[row]), there)
        known = np.isfinite(points[:, 2])
        return here[known], points[known]


def neighbors(solution: Solution, map_camera: Array, submap: int, count: int) -> list[int]:
    """Return the rows of the `count` keyframes of a submap that see most of what a camera at `map_camera` 4x4 sees.

    A keyframe's view is taken as the point at its median depth ahead of it: nearest to the other's wins.
    """
    rows = np.flatnonzero(solution.submaps == submap)
    median = np.array([solution.keyframes[k].median_depth for k in solution.ids[rows].tolist()])
    depth, cameras = np.nan_to_num(median, nan=1.0) * solution.scale[rows], solution.map_camera[rows]
    ahead = cameras[:, :3, 3] + depth[:, None] * cameras[:, :3, 2]
    here = map_camera[:3, 3] + depth[:, None] * map_camera[:3, 2]
    apart = np.linalg.norm(ahead - here, axis=1) + np.linalg.norm(cameras[:, :3, 3] - map_camera[:3, 3], axis=1)
    return [int(row) for row in rows[np.argsort(apart / depth, kind="stable")[:count]]]


def depth_seen(solution: Solution, rows: Iterable[int], map_camera: Array, intrinsics: Array,
               size: tuple[int, int]) -> NDArray[np.float16]:
    """Return the depth (h, w) that keyframes know of what a camera at `map_camera` 4x4 sees; map units, NaN elsewhere.

    `intrinsics` (3, 3) are for `size`, (h, w).
    """
    pixels, depths = [np.zeros((0, 2), int)], [np.zeros(0)]
    for row in rows:
        local = _points(solution, row) @ map_camera[:3, :3] - map_camera[:3, 3] @ map_camera[:3, :3]
        local = local[local[:, 2] > 1e-3]
        pixel = np.rint(local[:, :2] / local[:, 2:] * intrinsics[[0, 1], [0, 1]] + intrinsics[:2, 2])
        inside = (pixel >= 0).all(1) & (pixel < size[::-1]).all(1)
        pixels.append(pixel[inside].astype(int))
        depths.append(local[inside, 2])
    pixel, depth = np.concatenate(pixels), np.concatenate(depths)
    seen = np.full(size, np.nan, np.float16)
    order = np.argsort(-depth)  # of those on one pixel the nearest is written last
    seen[pixel[order, 1], pixel[order, 0]] = depth[order]
    return seen


def _points(solution: Solution, row: int) -> Array:
    """Return all points (n, 3) of a keyframe in the map."""
    kept, map_camera = solution.keyframes[int(solution.ids[row])], solution.map_camera[row]
    rows, columns = np.nonzero(kept.depth > 0)
    rays = pixel_rays(kept.intrinsics, columns, rows)
    local = rays * (kept.depth[rows, columns].astype(np.float64) * solution.scale[row])[:, None]
    return np.asarray(local @ map_camera[:3, :3].T + map_camera[:3, 3], np.float64)


def _seen(points: Array, intrinsics: Array, map_camera: Array,
          size: tuple[int, int]) -> tuple[Array, NDArray[np.float32]]:
    """Return those of `points` (n, 3) that a camera sees, and at which pixels (n, 2) of its image of `size`."""
    local = (points - map_camera[:3, 3]) @ map_camera[:3, :3]
    pixels = local[:, :2] / np.maximum(local[:, 2:], 1e-6) * intrinsics[[0, 1], [0, 1]] + intrinsics[:2, 2]
    inside = (local[:, 2] > 1e-3) & (pixels >= 0).all(1) & (pixels <= np.array(size[1::-1]) - 1).all(1)
    return points[inside], pixels[inside].astype(np.float32)


def _within(map_camera: Array, expected: PosePrior, factor: float = 1.0) -> bool:
    apart = np.linalg.norm(map_camera[:3, 3] - expected.map_camera[:3, 3])
    turn = rotation_angle(expected.map_camera[:3, :3].T @ map_camera[:3, :3])
    return bool(apart < factor * expected.radius and turn < factor * expected.angle)
