"""Relocalization: the pose of an image in the map, searched in all of it or near an expected pose.

ORB features of the image are matched to those of a keyframe, whose depth gives their map points. A pose from PnP with
enough inliers is verified with the keyframe's neighbors: their matches must agree with it too. Then the pose is refined
on image intensities, and the textured pixels of a keyframe, projected into the image, must correlate with it. Different
places that are similar in sparse features rarely correlate in all pixels under one pose.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import TrackingConfig
from vggt_ros.features.landmarks import landmarks
from vggt_ros.features.photometric import PhotometricImage, textured_points
from vggt_ros.features.tracks import ImageFeatures, match_binary, threshold_scale
from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.geometry.pnp import pnp_ransac, refine_pose, spread
from vggt_ros.geometry.poses import Array, rotation_angle
from vggt_ros.places.candidates import RelocalizationCandidates
from vggt_ros.windows.keyframe import BinaryFeatures
from vggt_ros.windows.solution import Solution

_LOG = logging.getLogger(__name__)
_NEIGHBORS = 4
_MAX_PRIOR_SEARCHES = 30
"""Images that are searched for near an expected pose before it is taken to be wrong."""
_MAX_REPROJECTION_ERROR = 3.0
"""Largest reprojection error of an inlier, px at 640 px."""
_MIN_INLIERS_PER_KEYFRAME, _MIN_INLIERS = 12, 30
"""Fewest inliers with a single keyframe, and with it and its neighbors."""
MIN_SPREAD = 0.1
"""Smallest spread of the inliers in the image, as a fraction of its width."""
MIN_SPREAD_SUPPORTED = 0.05
"""The same where something else, such as the prior pose of a tracked camera, resolves the ambiguity of inliers in a
narrow band of the image."""
_REFINEMENT_STRIDE = 3
"""Every n-th textured pixel of the keyframes is used in refinement; all of them are used for the correlation."""
_MIN_CORRELATION = 0.35
"""Smallest correlation of the textured pixels of a keyframe, projected into the image, with the image."""


@dataclass(frozen=True, eq=False)
class Relocalization:
    """A pose found in the map.

    Attributes:
        map_camera: 4x4.
        covariance: float64 (6, 6) of its perturbation on the right, [rotation, translation].
        points: float64 (n, 3), the map points of the inliers.
        pixels: float32 (n, 2), their projections into the image.
        keyframe, submap: the keyframe with the largest correlation, and its submap.
        correlation: of this keyframe's textured pixels with the image.

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
    """An expected pose of the camera: `map_camera` 4x4, within `radius` map units and `angle` radians."""

    map_camera: Array
    radius: float
    angle: float


class Relocalizer:
    """Finds images in a map.

    Attributes:
        pose_prior: expected pose of the camera until it is found or expires; None if there is none.
        attempted: True if the newest image had enough features for a search and there were keyframes to try, whether or
            not it was found.

    """

    def __init__(self, config: TrackingConfig, min_spread: float = MIN_SPREAD) -> None:
        """Search with the settings of `config`; `min_spread` is of the inliers in the image."""
        self._config, self._min_spread = config, min_spread
        self._candidates = RelocalizationCandidates()
        self.clear()

    def clear(self) -> None:
        """Forget the map and the pose prior."""
        self._candidates.clear()
        self.pose_prior: PosePrior | None = None
        self._searches = 0
        self.attempted = False

    def set_pose_prior(self, prior: PosePrior) -> None:
        """Search within a pose prior, until the camera is found there, or for `_MAX_PRIOR_SEARCHES` images."""
        self.pose_prior, self._searches = prior, 0

    def search(self, image: ImageFeatures, intrinsics: Array, solution: Solution,
               rows: NDArray[np.int64] | None = None) -> Relocalization | None:
        """Return the pose of `image`, or None if it was not found; the keyframes tried are the most similar ones.

        With `rows` (n,) only those keyframes of the solution are tried. With a pose prior only keyframes near it are
        tried, and a pose outside of it is rejected.
        """
        rows = self._candidate_rows(solution) if rows is None else rows
        self.attempted = len(rows) > 0 and len(image.binary) >= _MIN_INLIERS
        if not self.attempted:
            return None
        found = self._locate(image, intrinsics, solution, self._candidates.choose(image, rows, solution),
                             min_spread=self._min_spread)
        if found is None or (self.pose_prior is not None and not _satisfies(found.map_camera, self.pose_prior)):
            self._expire_prior()
            return None
        self.pose_prior = None
        return found

    def search_near(self, image: ImageFeatures, intrinsics: Array, solution: Solution, map_camera: Array, submap: int,
                    tracked: bool = False) -> Relocalization | None:
        """Return the pose of `image` near `map_camera` in a submap, or None if no keyframe there matches.

        `tracked` says whether `map_camera` was tracked by landmarks.
        """
        rows = neighbors(solution, map_camera, submap, _NEIGHBORS)
        return self._locate(image, intrinsics, solution, rows, map_camera,
                            MIN_SPREAD_SUPPORTED if tracked else MIN_SPREAD)

    def _candidate_rows(self, solution: Solution) -> NDArray[np.int64]:
        near = np.zeros(0, np.int64) if self.pose_prior is None else keyframes_near(solution, self.pose_prior)
        return near if len(near) else np.arange(len(solution))

    def _expire_prior(self) -> None:
        """Count a search within the prior that found nothing; after enough of them it is taken to be wrong."""
        self._searches += 1
        if self.pose_prior is not None and self._searches >= _MAX_PRIOR_SEARCHES:
            self.pose_prior = None
            _LOG.warning("the camera was not found near the expected pose in %d images; it is searched for in the "
                         "whole map", self._searches)

    def _locate(self, image: ImageFeatures, intrinsics: Array, solution: Solution, rows: list[int],
                guess: Array | None = None, min_spread: float = MIN_SPREAD) -> Relocalization | None:
        """Return the pose with the most inliers among the keyframes in `rows`, if it passes all checks."""
        binary, (height, width) = image.binary, image.gray.shape
        if len(binary) < _MIN_INLIERS or not rows:
            return None
        pixels = binary.pixels.astype(np.float64)
        max_error = _MAX_REPROJECTION_ERROR * threshold_scale(image.gray.shape)
        map_camera, best_inliers, submap = guess, _MIN_INLIERS_PER_KEYFRAME, int(solution.submaps[rows[0]])
        matches: dict[int, tuple[NDArray[np.int64], Array]] = {}
        for row in rows:
            matches[row] = self._match(binary, solution, row)
            if len(matches[row][0]) < best_inliers:  # too few even if all are inliers: skip RANSAC
                continue
            ransac = pnp_ransac(matches[row][1], pixels[matches[row][0]], intrinsics, max_error, best_inliers)
            if ransac is not None:
                map_camera, best_inliers, submap = ransac[0], len(ransac[1]), int(solution.submaps[row])
        if map_camera is None:
            return None
        covisible = neighbors(solution, map_camera, submap, _NEIGHBORS)
        for row in covisible:
            if row not in matches:
                matches[row] = self._match(binary, solution, row)
        features, first = np.unique(np.concatenate([matches[row][0] for row in covisible]), return_index=True)
        points = np.concatenate([matches[row][1] for row in covisible])[first]
        observed = pixels[features]
        if len(points) < _MIN_INLIERS:
            return None
        map_camera, covariance, inliers = refine_pose(map_camera, points, observed, intrinsics, max_error)
        if inliers.sum() < _MIN_INLIERS or spread(observed[inliers], image.gray.shape) < min_spread:
            return None
        query = PhotometricImage.from_image(image.gray, intrinsics,
                                            solution.keyframes[int(solution.ids[covisible[0]])].depth.shape[1])
        textures = [textured_points(solution, row) for row in covisible]
        map_camera = query.refine(np.concatenate([points[::_REFINEMENT_STRIDE] for points, _ in textures]),
                                  np.concatenate([values[::_REFINEMENT_STRIDE] for _, values in textures]), map_camera)
        correlations = [query.correlation(*texture, map_camera) for texture in textures]
        chosen = int(np.argmax(correlations))
        if correlations[chosen] < _MIN_CORRELATION:
            return None
        points, visible_pixels = _visible_points(points[inliers], intrinsics, map_camera, (height, width))
        return Relocalization(map_camera, covariance, points, visible_pixels, int(solution.ids[covisible[chosen]]),
                              submap, correlations[chosen])

    def _match(self, binary: BinaryFeatures, solution: Solution, row: int) -> tuple[NDArray[np.int64], Array]:
        """Return which features (n,) of an image match features of a keyframe, and their map points (n, 3)."""
        keyframe = solution.keyframes[int(solution.ids[row])]
        if len(keyframe.features) < 2:
            return np.zeros(0, np.int64), np.zeros((0, 3))
        features, keyframe_features = match_binary(binary.descriptors, keyframe.features)
        keyframe_pixels = keyframe.pixels[keyframe_features].astype(np.float64).reshape(-1, 2)
        points = landmarks(keyframe, solution.map_camera[row], float(solution.scale[row]), keyframe_pixels)
        known = np.isfinite(points[:, 2])
        return features[known], points[known]


def neighbors(solution: Solution, map_camera: Array, submap: int, count: int) -> list[int]:
    """Return the rows of the `count` keyframes of a submap that are most covisible with a camera at `map_camera` 4x4.

    Covisibility is approximated: by the distance of the camera centers, plus the distance of the points on the optical
    axes at the keyframe's median depth, relative to this depth.
    """
    rows = np.flatnonzero(solution.submaps == submap)
    median_depth = np.array([solution.keyframes[k].median_depth for k in solution.ids[rows].tolist()])
    depth, cameras = np.nan_to_num(median_depth, nan=1.0) * solution.scale[rows], solution.map_camera[rows]
    keyframe_targets = cameras[:, :3, 3] + depth[:, None] * cameras[:, :3, 2]
    camera_target = map_camera[:3, 3] + depth[:, None] * map_camera[:3, 2]
    distance = (np.linalg.norm(keyframe_targets - camera_target, axis=1)
                + np.linalg.norm(cameras[:, :3, 3] - map_camera[:3, 3], axis=1))
    return [int(row) for row in rows[np.argsort(distance / depth, kind="stable")[:count]]]


def render_depth(solution: Solution, rows: Iterable[int], map_camera: Array, intrinsics: Array,
                 size: tuple[int, int]) -> NDArray[np.float16]:
    """Return the depth (h, w) of keyframes rendered into a camera at `map_camera` 4x4; map units, NaN where unknown.

    `intrinsics` (3, 3) are for `size`, (h, w).
    """
    pixels, depths = [np.zeros((0, 2), int)], [np.zeros(0)]
    for row in rows:
        local = _keyframe_points(solution, row) @ map_camera[:3, :3] - map_camera[:3, 3] @ map_camera[:3, :3]
        local = local[local[:, 2] > 1e-3]
        pixel = np.rint(local[:, :2] / local[:, 2:] * intrinsics[[0, 1], [0, 1]] + intrinsics[:2, 2])
        inside = (pixel >= 0).all(1) & (pixel < size[::-1]).all(1)
        pixels.append(pixel[inside].astype(int))
        depths.append(local[inside, 2])
    pixel, depth = np.concatenate(pixels), np.concatenate(depths)
    rendered = np.full(size, np.nan, np.float16)
    order = np.argsort(-depth)  # the nearest point on a pixel is written last
    rendered[pixel[order, 1], pixel[order, 0]] = depth[order]
    return rendered


def _keyframe_points(solution: Solution, row: int) -> Array:
    """Return all points (n, 3) of a keyframe in the map."""
    keyframe, map_camera = solution.keyframes[int(solution.ids[row])], solution.map_camera[row]
    rows, columns = np.nonzero(keyframe.depth > 0)
    rays = pixel_rays(keyframe.intrinsics, columns, rows)
    local = rays * (keyframe.depth[rows, columns].astype(np.float64) * solution.scale[row])[:, None]
    return np.asarray(local @ map_camera[:3, :3].T + map_camera[:3, 3], np.float64)


def _visible_points(points: Array, intrinsics: Array, map_camera: Array,
                    size: tuple[int, int]) -> tuple[Array, NDArray[np.float32]]:
    """Return the `points` (n, 3) that project into an image of `size` (h, w), and their pixels (n, 2)."""
    local = (points - map_camera[:3, 3]) @ map_camera[:3, :3]
    pixels = local[:, :2] / np.maximum(local[:, 2:], 1e-6) * intrinsics[[0, 1], [0, 1]] + intrinsics[:2, 2]
    inside = (local[:, 2] > 1e-3) & (pixels >= 0).all(1) & (pixels <= np.array(size[1::-1]) - 1).all(1)
    return points[inside], pixels[inside].astype(np.float32)


def keyframes_near(solution: Solution, prior: PosePrior) -> NDArray[np.int64]:
    """Return the rows of the keyframes that may see what the camera sees within a pose prior."""
    return np.array([row for row, camera in enumerate(solution.map_camera) if _satisfies(camera, prior, 2.0)], np.int64)


def _satisfies(map_camera: Array, prior: PosePrior, factor: float = 1.0) -> bool:
    distance = np.linalg.norm(map_camera[:3, 3] - prior.map_camera[:3, 3])
    angle = rotation_angle(prior.map_camera[:3, :3].T @ map_camera[:3, :3])
    return bool(distance < factor * prior.radius and angle < factor * prior.angle)
