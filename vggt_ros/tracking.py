"""The pose of every frame against the newest solved keyframes: optical flow and PnP on their depth.

Tracks that were seen in a keyframe get a landmark as soon as that keyframe is solved. When too few of them are still
followed (the reconstructor lags behind, the view changed fast), binary features of the newest solved keyframes are
matched to the frame, and what they find is followed from there.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import TrackingConfig
from vggt_ros.features import REFERENCE_WIDTH, FeatureTracks
from vggt_ros.geometry import Array, inverse, orthonormalize, robust_sigma, so3_exp
from vggt_ros.solution import Solution

_MEMORY = 40
"""Keyframes that are remembered by their tracks and features."""
_DEPTH_JUMP = 1.15
"""Ratio of the largest to the smallest depth around a landmark beyond which it is not used."""
_INLIER = 3.0
"""Largest reprojection error of an inlier, px at 640 px width."""


@dataclass(frozen=True, eq=False)
class Location:
    """A pose found: `world_camera` 4x4, covariance (6, 6) of its right perturbation, inliers, reference keyframe."""

    world_camera: Array
    covariance: Array
    inliers: int
    reference: int


@dataclass(frozen=True, eq=False)
class _Sighting:
    """What a keyframe saw: track ids (n,) at pixels (n, 2), and binary features (m, 32) at pixels (m, 2)."""

    ids: NDArray[np.int64]
    pixels: NDArray[np.float32]
    feature_pixels: NDArray[np.float32]
    features: NDArray[np.uint8]


class Tracker:
    """Finds the camera among landmarks: tracks whose depth is known from a solved keyframe."""

    def __init__(self, config: TrackingConfig) -> None:
        """Track with the settings of `config`."""
        self._config = config
        self._orb = cv2.ORB_create(config.features)
        self._matcher = cv2.BFMatcher(cv2.NORM_HAMMING)
        self.clear()

    def clear(self) -> None:
        """Forget all keyframes, landmarks and the last pose."""
        self._sightings: dict[int, _Sighting] = {}
        self._landmarks: dict[int, Array] = {}
        self._version = -1
        self._last: Array | None = None
        self._reference = -1

    def remember(self, keyframe: int, tracks: FeatureTracks, gray: NDArray[np.uint8]) -> None:
        """Note what a new keyframe sees, for when it is solved."""
        points, features = self._orb.detectAndCompute(gray, None)
        pixels = np.array([point.pt for point in points], np.float32).reshape(-1, 2)
        self._sightings[keyframe] = _Sighting(tracks.ids, tracks.pixels, pixels,
                                              np.zeros((0, 32), np.uint8) if features is None else features)
        while len(self._sightings) > _MEMORY:
            del self._sightings[min(self._sightings)]

    def locate(self, tracks: FeatureTracks, gray: NDArray[np.uint8], intrinsics: Array,
               solution: Solution) -> tuple[Location | None, Array | None]:
        """Return where the frame `gray` (H, W) with these `tracks` was taken.

        The second value, given only when the solution has changed since the last frame, is the pose 4x4 by the
        landmarks of before, for an odometry that must not jump.
        """
        before = None
        if solution.version != self._version:
            old = self._solve(tracks, intrinsics, gray.shape[1])
            before = old.world_camera if old else None
            self._link(tracks, solution, gray.shape[1])
        location = self._solve(tracks, intrinsics, gray.shape[1])
        if location is None:
            location = self._match(tracks, gray, intrinsics, solution)
        self._last = location.world_camera if location else None
        return location, before

    def _link(self, tracks: FeatureTracks, solution: Solution, width: int) -> None:
        """Give every track its landmark by the newest solved keyframe that saw it."""
        self._version, self._landmarks, self._last = solution.version, {}, None
        for keyframe in self._solved(solution):
            sighting = self._sightings[keyframe]
            seen = np.isin(sighting.ids, tracks.ids, assume_unique=True)
            points = _landmarks(sighting.pixels[seen], width, keyframe, solution)
            for track, point in zip(sighting.ids[seen].tolist(), points, strict=True):
                if track not in self._landmarks and np.isfinite(point[2]):
                    self._landmarks[track] = point
                    self._reference = max(keyframe, self._reference)

    def _match(self, tracks: FeatureTracks, gray: NDArray[np.uint8], intrinsics: Array,
               solution: Solution) -> Location | None:
        """Locate by the binary features of the newest solved keyframes; what agrees is followed from then on."""
        solved = self._solved(solution)[:3]
        found, features = self._orb.detectAndCompute(gray, None) if solved else ((), None)
        if features is None or len(features) < self._config.min_inliers:
            return None
        pixels = np.array([point.pt for point in found], np.float32)
        for keyframe in solved:
            sighting = self._sightings[keyframe]
            if len(sighting.features) < self._config.min_inliers:
                continue
            pairs = [best for best, second in self._matcher.knnMatch(features, sighting.features, k=2)
                     if best.distance < 0.8 * second.distance]
            here = np.array([pair.queryIdx for pair in pairs], int)
            there = np.array([pair.trainIdx for pair in pairs], int)
            points = _landmarks(sighting.feature_pixels[there], gray.shape[1], keyframe, solution)
            known = np.isfinite(points[:, 2])
            consensus = _consensus(points[known], pixels[here[known]], intrinsics, self._limit(gray.shape[1]))
            if consensus is not None and len(consensus[1]) >= self._config.min_inliers:
                chosen = consensus[1]
                ids = tracks.append(pixels[here[known][chosen]])
                self._landmarks = dict(zip(ids.tolist(), points[known][chosen], strict=True))
                self._last, self._reference = consensus[0], keyframe
                return self._solve(tracks, intrinsics, gray.shape[1])
        return None

    def _solve(self, tracks: FeatureTracks, intrinsics: Array, width: int) -> Location | None:
        """Return the pose by the present landmarks, or None if too few agree."""
        known = np.array([track in self._landmarks for track in tracks.ids.tolist()], bool)
        if known.sum() < self._config.min_inliers:
            return None
        points = np.array([self._landmarks[track] for track in tracks.ids[known].tolist()])
        pixels, limit = tracks.pixels[known].astype(np.float64), self._limit(width)
        needed = max(self._config.min_inliers, 0.4 * len(points))
        if self._last is not None:
            pose, covariance, inliers = refine_pose(self._last, points, pixels, intrinsics, limit)
            if inliers.sum() >= needed:
                return Location(pose, covariance, int(inliers.sum()), self._reference)
        consensus = _consensus(points, pixels, intrinsics, limit)
        if consensus is None:
            return None
        pose, covariance, inliers = refine_pose(consensus[0], points, pixels, intrinsics, limit)
        if inliers.sum() < needed:
            return None
        return Location(pose, covariance, int(inliers.sum()), self._reference)

    def _solved(self, solution: Solution) -> list[int]:
        """Return the remembered keyframes that are solved, newest first."""
        return [k for k in sorted(self._sightings, reverse=True) if solution.index(k) is not None]

    @staticmethod
    def _limit(width: int) -> float:
        return _INLIER * width / REFERENCE_WIDTH


def _landmarks(pixels: NDArray[np.float32], width: int, keyframe: int, solution: Solution) -> Array:
    """Return the world points (n, 3) at `pixels` (n, 2) of a solved keyframe's image.

    NaN where depth is unknown or jumps: corners are often on edges, where it is anyone's guess which side they are on.
    """
    row = solution.index(keyframe)
    assert row is not None
    kept, camera = solution.kept[keyframe], solution.map_camera[row]
    small = (pixels.astype(np.float64) + 0.5) * (kept.depth.shape[1] / width) - 0.5
    height, width_kept = kept.depth.shape
    around = np.rint(small).astype(int)[:, None] + np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)])
    columns, rows = np.clip(around[..., 0], 0, width_kept - 1), np.clip(around[..., 1], 0, height - 1)
    patches = np.sort(kept.depth[rows, columns].astype(np.float64), axis=1)  # (n, 9), NaN last
    depth = np.where(patches[:, 8] < _DEPTH_JUMP * patches[:, 0], patches[:, 4], np.nan) * solution.scale[row]
    rays = np.linalg.solve(kept.intrinsics, np.column_stack([small, np.ones(len(small))]).T).T
    return rays * depth[:, None] @ camera[:3, :3].T + camera[:3, 3]


def _consensus(points: Array, pixels: Array, intrinsics: Array, limit: float) -> tuple[Array, NDArray[np.int64]] | None:
    """Return the pose `world_camera` and the inliers of P3P in RANSAC, or None if none was found."""
    if len(points) < 6:
        return None
    try:
        found, rotation, translation, inliers = cv2.solvePnPRansac(
            points, np.ascontiguousarray(pixels, np.float64), intrinsics, None, iterationsCount=200,
            reprojectionError=limit, confidence=0.999, flags=cv2.SOLVEPNP_AP3P)
    except cv2.error:  # raised by degenerate points, such as points on a line; there is no pose then
        return None
    if not found or inliers is None:
        return None
    camera_world = np.eye(4)
    camera_world[:3, :3], camera_world[:3, 3] = cv2.Rodrigues(rotation)[0], translation[:, 0]
    return inverse(camera_world), inliers[:, 0].astype(np.int64)


def refine_pose(world_camera: Array, points: Array, pixels: Array, intrinsics: Array,
                limit: float) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Minimize the reprojection error of `points` (n, 3) seen at `pixels` (n, 2) by robust Gauss-Newton.

    Returns:
        The pose `world_camera` 4x4; the covariance (6, 6) of its perturbation on the right, [rotation, translation];
        and which points reproject within `limit` pixels (n,).

    """
    pose = world_camera.copy()
    for _ in range(8):
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        depth = np.maximum(local[:, 2], 1e-6)
        normalized = local[:, :2] / depth[:, None]
        focal = np.array([intrinsics[0, 0], intrinsics[1, 1]])
        residual = normalized * focal + intrinsics[:2, 2] - pixels
        square = (residual**2).sum(1)
        weight = np.where(local[:, 2] > 1e-6, 1 / (1 + square / (limit / 2) ** 2) ** 2, 0.0)
        projection = np.zeros((len(points), 2, 3))
        projection[:, 0, 0], projection[:, 1, 1] = focal[0] / depth, focal[1] / depth
        projection[:, :, 2] = -normalized * focal / depth[:, None]
        # A right perturbation moves a point of the camera's frame by -w x p - v.
        jacobian = np.concatenate([np.einsum("nij,njk->nik", projection, _skews(local)), -projection], axis=2)
        information = np.einsum("n,nki,nkj->ij", weight, jacobian, jacobian) + 1e-9 * np.eye(6)
        step = -np.linalg.solve(information, np.einsum("n,nki,nk->i", weight, jacobian, residual))
        pose[:3, 3] += pose[:3, :3] @ step[3:]
        pose[:3, :3] = pose[:3, :3] @ so3_exp(step[:3])
        if np.abs(step).max() < 1e-7:
            break
    pose[:3, :3] = orthonormalize(pose[:3, :3])
    inliers = (square < limit**2) & (local[:, 2] > 1e-6)
    sigma = max(robust_sigma(residual[inliers].ravel()), 0.1) if inliers.any() else limit
    return pose, sigma**2 * np.linalg.inv(information), inliers


def _skews(vectors: Array) -> Array:
    """Return the cross-product matrices (n, 3, 3) of `vectors` (n, 3)."""
    matrices = np.zeros((len(vectors), 3, 3))
    x, y, z = vectors.T
    matrices[:, 0, 1], matrices[:, 0, 2], matrices[:, 1, 2] = -z, y, -x
    matrices[:, 1, 0], matrices[:, 2, 0], matrices[:, 2, 1] = z, -y, x
    return matrices
