"""Errors of a dense map against the points that a depth camera saw: accuracy, completeness, chamfer distance, F-score.

As VGGT-SLAM and MASt3R-SLAM report them on 7-Scenes: the map is aligned by its trajectory, not by its points, so that
errors of the poses count. Accuracy is the distance from the points of the map to the nearest true one, completeness
that from the true points to the nearest one of the map.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.evaluation.errors import EvaluationError, align, associate
from vggt_ros.geometry.camera import Camera, resize_intrinsics
from vggt_ros.geometry.poses import Array
from vggt_ros.sequences.sequence import Truth

VOXEL = 0.02
"""Edge of the voxels in which both clouds have one point, the mean of those inside, meters."""
MAX_DISTANCE = 0.5
"""Larger distances count as this one, meters."""
NEAR = 0.05
"""Distance of the fractions and of the F-score, meters."""
_STRIDE = 4
"""Every n-th pixel of the depth images is taken, in rows and columns."""
_BATCH = 1_000_000
"""Points that are collected before they are reduced to voxels."""


@dataclass(frozen=True)
class Distances:
    """Distances of points to the nearest one of another cloud, meters: RMSE, median, and fraction nearer than `NEAR`.

    No distance is larger than `MAX_DISTANCE`.
    """

    rmse: float
    median: float
    near: float


@dataclass(frozen=True)
class MapAccuracy:
    """Errors of a map.

    Attributes:
        points, true_points: number of voxels of the map and of the truth.
        accuracy: from the map to the truth.
        stored: the same from every point of the map, whatever the size of its own voxels.
        completeness: from the truth to the map.
        chamfer: mean of the RMSE of accuracy and completeness, meters.
        f_score: harmonic mean of the fractions of accuracy and completeness.
        scale: meters per unit of the map.

    """

    points: int
    true_points: int
    accuracy: Distances
    stored: Distances
    completeness: Distances
    chamfer: float
    f_score: float
    scale: float


def true_cloud(depths: Iterable[tuple[int, NDArray[np.float32]]], camera: Camera, truth: Truth) -> Array:
    """Return the points (n, 3) of depth images in the world of the true trajectory, one in each voxel.

    Args:
        depths: stamps, and depth registered to the unrectified images of `camera`, at any resolution.
        camera: of the images.
        truth: stamps and poses `world_camera`; depth without a pose of about the same time is left out.

    Raises:
        EvaluationError: there is no depth with a true pose.

    """
    merged, waiting = np.zeros((0, 3)), [np.zeros((0, 3))]
    for stamp, depth in depths:
        rows, true_rows = associate(np.array([stamp], np.int64), truth[0])
        if len(rows):
            pose = truth[1][true_rows[0]]
            waiting.append(camera_points(depth, camera) @ pose[:3, :3].T + pose[:3, 3])
        if sum(map(len, waiting)) > _BATCH:
            merged, waiting = voxel_means(np.concatenate([merged, *waiting])), [np.zeros((0, 3))]
    merged = voxel_means(np.concatenate([merged, *waiting]))
    if not len(merged):
        raise EvaluationError("the recording has no depth images (depth.txt) with a true pose of the same time to "
                              "compare the map with")
    return merged


def camera_points(depth: NDArray[np.float32], camera: Camera, stride: int = _STRIDE) -> Array:
    """Return the points (n, 3), in the camera's frame, of every n-th pixel of a depth image."""
    sampled = depth[::stride, ::stride].astype(np.float64)
    rows, columns = np.nonzero(np.isfinite(sampled) & (sampled > 0))
    if not len(rows):
        return np.zeros((0, 3))
    matrix = resize_intrinsics(camera.intrinsics, depth.shape[1] / camera.width, depth.shape[0] / camera.height)
    pixels = stride * np.stack([columns, rows], axis=1).astype(np.float64)[:, None]
    undistort = cv2.fisheye.undistortPoints if camera.model == "equidistant" and camera.distortion \
        else cv2.undistortPoints
    plane = undistort(pixels, matrix, np.array(camera.distortion or (0.0, 0.0, 0.0, 0.0))).reshape(-1, 2)
    return np.asarray(np.c_[plane, np.ones(len(plane))] * sampled[rows, columns, None], np.float64)


def voxel_means(points: Array, voxel: float = VOXEL) -> Array:
    """Return the mean (m, 3) of the points (n, 3) in every voxel that has any."""
    cells = np.clip(np.floor(points / voxel), -(2**20), 2**20 - 1).astype(np.int64) + 2**20
    keys = (cells[:, 0] << 42) | (cells[:, 1] << 21) | cells[:, 2]
    _, index, count = np.unique(keys, return_inverse=True, return_counts=True)
    sums = [np.bincount(index, column, minlength=len(count)) for column in points.T]
    return np.asarray(np.stack(sums, axis=1) / count[:, None], np.float64)


def map_accuracy(points: NDArray[np.floating], trajectory: Truth, truth: Truth, world_points: Array) -> MapAccuracy:
    """Compare the points (n, 3) of a map with the truth, after the Sim(3) that aligns the trajectory to the true one.

    Args:
        points: in the frame and units of the trajectory.
        trajectory: stamps and poses `map_camera`.
        truth: stamps and poses `world_camera`.
        world_points: float64 (m, 3), the result of `true_cloud`.

    Raises:
        EvaluationError: the map has no points, or too few poses have a true pose.

    """
    if not len(points):
        raise EvaluationError("the map has no points")
    from scipy.spatial import KDTree  # slow to import

    world_map = align(*trajectory, *truth)
    stored = world_map.apply(points.astype(np.float64))
    ours = voxel_means(stored)
    true_tree = KDTree(world_points)
    accuracy, completeness = _distances(true_tree, ours), _distances(KDTree(ours), world_points)
    fractions = accuracy.near + completeness.near
    return MapAccuracy(len(ours), len(world_points), accuracy, _distances(true_tree, stored), completeness,
                       (accuracy.rmse + completeness.rmse) / 2,
                       2 * accuracy.near * completeness.near / fractions if fractions else 0.0, float(world_map.scale))


def _distances(tree: object, points: Array) -> Distances:
    """Return the distances of `points` (n, 3) to the nearest points of a KDTree."""
    found = tree.query(points, distance_upper_bound=MAX_DISTANCE)[0]  # type: ignore[attr-defined]
    distance = np.minimum(found, MAX_DISTANCE)  # infinite where there is none
    return Distances(float(np.sqrt(np.mean(distance**2))), float(np.median(distance)), float(np.mean(distance < NEAR)))
