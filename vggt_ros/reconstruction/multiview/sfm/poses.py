"""Camera poses of a window from its tracks by incremental structure from motion.

As in Schoenberger and Frahm, Structure-from-Motion Revisited, CVPR 2016: two-view geometry of an initial pair, the
other cameras registered one by one, bundle adjustment after each. The tracks are known beforehand. `selection` compares
the solutions of several initial pairs.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.pnp import pnp_ransac, refine_pose
from vggt_ros.geometry.poses import Array, inverse, mean_rotation
from vggt_ros.reconstruction.adjustment.bundle import AdjustmentOptions, Scene
from vggt_ros.reconstruction.adjustment.sparse_reconstruction import SparseReconstruction
from vggt_ros.reconstruction.adjustment.triangulation import bearings, triangulate_and_adjust

Mask = NDArray[np.bool_]

MIN_COMMON_TRACKS = 40
"""Fewest tracks that the two keyframes of an initial pair share."""
MANY_POINTS = 60
"""Triangulated points from which a pose is exact enough that others are registered before the next adjustment."""
MIN_VISIBLE_POINTS = 15
"""Fewest triangulated points that a keyframe observes to be registered."""
_INTERIM = AdjustmentOptions(4)
"""Few steps after each camera: more follow."""


def rank_initial_pairs(observations: Array, visible: Mask, focal: Array) -> list[tuple[float, float, int, int]]:
    """Return (score, parallax in pixels, i, j) of the pairs of keyframes, the best initial pair first.

    Parallax is the median motion of the common tracks after the best rotation is removed; only it determines depth.
    """
    pairs = []
    for i in range(visible.shape[1]):
        for j in range(i + 1, visible.shape[1]):
            in_both = visible[:, i] & visible[:, j]
            common = int(in_both.sum())
            if common < MIN_COMMON_TRACKS:
                continue
            first, second = bearings(observations[in_both, i], focal[i]), bearings(observations[in_both, j], focal[j])
            weight = np.ones(common)
            for _ in range(4):
                rotation = mean_rotation(second[:, :, None] * first[:, None, :], weight)
                angle = np.linalg.norm(second - first @ rotation.T, axis=1)
                weight = 1.0 / np.maximum(angle, 1e-4)
            parallax = float(np.median(angle) * focal[i].mean())
            pairs.append((float(np.sqrt(common) * parallax / (1 + parallax / 40)), parallax, i, j))
    return sorted(pairs, reverse=True)


def solve_from_pair(observations: Array, visible: Mask, focal: Array, pair: tuple[int, int],
                    seed: int) -> SparseReconstruction | None:
    """Return the solution initialized from `pair`, or None if its two-view geometry fails or has too few points.

    Args:
        observations: (n, S, 2), pixels from the principal point.
        visible: (n, S), where `observations` are valid.
        focal: (S, 2), pixels.
        pair: the initial pair of keyframes.
        seed: seed of RANSAC.

    """
    scene = _two_view_geometry(observations, visible, focal, pair, seed)
    if scene is None:
        return None
    registered = np.zeros(visible.shape[1], bool)
    registered[[*pair]] = True
    scene, inliers = triangulate_and_adjust(scene, observations, visible, registered, pair[0], _INTERIM)
    if inliers.any(1).sum() < MIN_VISIBLE_POINTS:
        return None
    return register_others(SparseReconstruction(scene, registered, inliers, observations, pair), visible, pair[0])


def register_others(solved: SparseReconstruction, visible: Mask, fixed: int | Mask) -> SparseReconstruction:
    """Return a solution with all further cameras that observe enough of its points, after bundle adjustment.

    The camera that observes most points is next, with all others that observe many. `visible` (n, S) are the valid
    observations; `fixed` is the camera whose pose is held fixed, or the mask of those.
    """
    scene, inliers, registered = solved.scene, solved.inliers, solved.registered.copy()
    observations, failed = solved.observations, set[int]()
    while not registered.all():
        triangulated = inliers.any(1)
        visible_points = np.count_nonzero(visible[triangulated], axis=0)
        visible_points[registered] = 0
        visible_points[list(failed)] = 0
        order = np.argsort(-visible_points, kind="stable")
        next_cameras = order[visible_points[order] >= MANY_POINTS] if visible_points.max() >= MANY_POINTS else order[:1]
        if visible_points.max() < MIN_VISIBLE_POINTS:
            break
        found = {int(camera): camera_pose for camera in next_cameras
                 if (camera_pose := _register_camera(scene, observations, visible[:, camera] & triangulated,
                                                     int(camera))) is not None}
        if not found:
            failed |= set(next_cameras.tolist())
            continue
        for camera, camera_pose in found.items():
            scene.rotation[camera], scene.translation[camera] = camera_pose
            registered[camera] = True
        failed.clear()
        if not registered.all():
            scene, inliers = triangulate_and_adjust(scene, observations, visible, registered, fixed, _INTERIM)
    if (registered & ~solved.registered).any():
        scene, inliers = triangulate_and_adjust(scene, observations, visible, registered, fixed, AdjustmentOptions(15))
    return replace(solved, scene=scene, registered=registered, inliers=inliers)


def robust_cost(scene: Scene, observations: Array, visible: Mask, registered: Mask) -> float:
    """Return the mean truncated squared residual, square pixels; maximal for keyframes that are not registered."""
    square = np.nan_to_num((scene.residuals(observations) ** 2).sum(-1), nan=np.inf)
    square = np.where(registered, square, np.inf)
    return float(np.minimum(square, 9.0)[visible].mean()) if visible.any() else np.inf


def _two_view_geometry(observations: Array, visible: Mask, focal: Array, pair: tuple[int, int],
                       seed: int) -> Scene | None:
    first, second = pair
    common = visible[:, first] & visible[:, second]
    seen = [np.ascontiguousarray(observations[common, s]) for s in pair]
    ransac = cv2.UsacParams()
    ransac.threshold, ransac.confidence, ransac.randomGeneratorState = 1.5, 1 - 1e-7, seed
    ransac.maxIterations, ransac.loIterations = 20_000, 20  # 3 ms: a better minimum in one of ten pairs
    essential, inliers = cv2.findEssentialMat(*seen, *(_intrinsics(focal[s]) for s in pair), None, None, ransac)
    if essential is None or essential.shape != (3, 3):
        return None
    rays = [seen[0] / focal[first], seen[1] / focal[second]]
    count, relative, direction, _ = cv2.recoverPose(essential, *rays, np.eye(3), mask=inliers)
    if count < 20 or not np.isfinite(relative).all() or not np.isfinite(direction).all():
        return None
    rotation, translation = np.tile(np.eye(3), (len(focal), 1, 1)), np.zeros((len(focal), 3))
    rotation[second], translation[second] = relative, direction[:, 0]
    return Scene(rotation, translation, np.zeros((len(visible), 3)), focal)


def _register_camera(scene: Scene, observations: Array, visible: Mask, camera: int) -> tuple[Array, Array] | None:
    """Return rotation and translation of a camera by PnP with RANSAC on known points, or None with too few inliers."""
    pixels, points, intrinsics = observations[visible, camera], scene.points[visible], _intrinsics(scene.focal[camera])
    found = pnp_ransac(points, pixels, intrinsics, 3.0, least=max(12, int(np.ceil(0.3 * len(points)))))
    if found is None:
        return None
    camera_world = inverse(refine_pose(found[0], points, pixels, intrinsics, 3.0)[0])
    return camera_world[:3, :3], camera_world[:3, 3]


def _intrinsics(focal: Array) -> Array:
    """Return the matrix for pixels from the principal point."""
    return np.diag([*focal, 1.0])
