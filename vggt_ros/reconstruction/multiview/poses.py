"""Camera poses of a window from its tracks: two views, the others one by one, bundle adjustment.

The usual incremental structure from motion (Schoenberger and Frahm, Structure-from-Motion Revisited, CVPR 2016) on
tracks that are known beforehand, begun from several pairs of keyframes whose solutions have to agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pycolmap
from numpy.typing import NDArray

from vggt_ros.geometry.poses import mean_rotation
from vggt_ros.reconstruction.multiview.bundle import Scene, adjust

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

MIN_COMMON = 40
"""Fewest tracks that two keyframes share to begin from."""
MIN_VISIBLE = 15
"""Fewest known points that a keyframe sees to be placed."""


@dataclass(frozen=True, eq=False)
class Solved:
    """A solution of a window.

    Attributes:
        scene: cameras and points; cameras that could not be placed stay at the identity and are not `placed`.
        placed: (S,).
        seen: (n, S), the observations that agree with it.
        observed: (n, S, 2), the observations it rests on, pixels from the principal point.
        pair: the keyframes it began from.

    """

    scene: Scene
    placed: Mask
    seen: Mask
    observed: Array
    pair: tuple[int, int]


def rays(observed: Array, focal: Array) -> Array:
    """Return unit rays (..., 3) of observations (..., 2) in pixels from the principal point."""
    direction = np.concatenate([observed / focal, np.ones((*observed.shape[:-1], 1))], -1)
    return direction / np.linalg.norm(direction, axis=-1, keepdims=True)


def rank_pairs(observed: Array, seen: Mask, focal: Array) -> list[tuple[float, float, int, int]]:
    """Return (score, parallax in pixels, i, j) of the pairs of keyframes, the best to begin from first.

    Parallax is what the best rotation leaves of the motion of the common tracks (median): nothing else fixes depth.
    """
    found = []
    for i in range(seen.shape[1]):
        for j in range(i + 1, seen.shape[1]):
            both = seen[:, i] & seen[:, j]
            common = int(both.sum())
            if common < MIN_COMMON:
                continue
            first, second = rays(observed[both, i], focal[i]), rays(observed[both, j], focal[j])
            weight = np.ones(common)
            for _ in range(4):
                rotation = mean_rotation(second[:, :, None] * first[:, None, :], weight)
                angle = np.linalg.norm(second - first @ rotation.T, axis=1)
                weight = 1.0 / np.maximum(angle, 1e-4)
            parallax = float(np.median(angle) * focal[i].mean())
            found.append((float(np.sqrt(common) * parallax / (1 + parallax / 40)), parallax, i, j))
    return sorted(found, reverse=True)


def solve(observed: Array, seen: Mask, focal: Array, pair: tuple[int, int], seed: int) -> Solved | None:
    """Return the solution begun from `pair`, or None if the two views or too few of the others can be placed.

    Args:
        observed: (n, S, 2), pixels from the principal point.
        seen: (n, S).
        focal: (S, 2), pixels.
        pair: the keyframes to begin with.
        seed: of RANSAC.

    """
    cameras = seen.shape[1]
    scene = _two_views(observed, seen, focal, pair, seed)
    if scene is None:
        return None
    placed = np.zeros(cameras, bool)
    placed[[*pair]] = True
    scene, used = refit(scene, observed, seen, placed, pair[0], iterations=4)
    if used.any(1).sum() < MIN_VISIBLE:
        return None
    failed: set[int] = set()
    while not placed.all():
        known = np.flatnonzero(used.any(1))
        visible = np.count_nonzero(seen[known], axis=0)
        visible[placed] = 0
        visible[list(failed)] = 0
        following = int(np.argmax(visible))
        if visible[following] < MIN_VISIBLE:
            break
        located = _place(scene, observed, seen[:, following] & used.any(1), following, seed)
        if located is None:
            failed.add(following)
            continue
        scene.rotation[following], scene.translation[following] = located
        placed[following] = True
        failed.clear()
        scene, used = refit(scene, observed, seen, placed, pair[0], iterations=4)
    scene, used = refit(scene, observed, seen, placed, pair[0], iterations=15)
    return Solved(scene, placed, used, observed, pair)


def robust_cost(scene: Scene, observed: Array, seen: Mask, placed: Mask) -> float:
    """Return the mean truncated squared residual, square pixels; a keyframe that is not placed explains nothing."""
    square = np.nan_to_num((scene.residuals(observed) ** 2).sum(-1), nan=np.inf)
    square = np.where(placed, square, np.inf)
    return float(np.minimum(square, 9.0)[seen].mean()) if seen.any() else np.inf


def triangulate(scene: Scene, observed: Array, seen: Mask) -> tuple[Array, Array]:
    """Return points (n, 3) by the linear method over all views, and the widest angle between their rays, radians."""
    projections = np.concatenate([scene.rotation, scene.translation[..., None]], -1)
    image = np.nan_to_num(observed) / scene.focal
    rows = image[..., None] * projections[:, 2][None, :, None] - projections[:, :2][None]
    rows = (rows * seen[..., None, None]).reshape(len(seen), -1, 4)
    _, vectors = np.linalg.eigh(rows.swapaxes(-1, -2) @ rows)
    homogeneous = vectors[..., 0]
    weight = homogeneous[:, 3:]
    points = homogeneous[:, :3] / np.where(np.abs(weight) < 1e-9, 1e-9, weight)
    towards = points[:, None] - scene.centers()
    towards /= np.maximum(np.linalg.norm(towards, axis=-1, keepdims=True), 1e-12)
    cosine = np.einsum("nsi,nti->nst", towards, towards)
    cosine[~(seen[:, :, None] & seen[:, None, :])] = 1.0
    return points, np.arccos(np.clip(cosine.min((1, 2)), -1, 1))


def _two_views(observed: Array, seen: Mask, focal: Array, pair: tuple[int, int], seed: int) -> Scene | None:
    first, second = pair
    both = seen[:, first] & seen[:, second]
    cameras = [pycolmap.Camera(model="PINHOLE", width=2, height=2, params=[*focal[s], 0.0, 0.0]) for s in pair]
    options = pycolmap.TwoViewGeometryOptions()
    options.compute_relative_pose = True
    options.ransac.random_seed = seed
    options.ransac.max_error = 1.5
    geometry = pycolmap.estimate_calibrated_two_view_geometry(
        cameras[0], observed[both, first], cameras[1], observed[both, second],
        np.repeat(np.arange(both.sum())[:, None], 2, 1).astype(np.uint32), options)
    if geometry.cam2_from_cam1 is None or len(geometry.inlier_matches) < 20:
        return None
    matrix = geometry.cam2_from_cam1.matrix()
    if not np.isfinite(matrix).all() or np.linalg.norm(matrix[:, 3]) < 1e-6:
        return None
    rotation, translation = np.tile(np.eye(3), (len(focal), 1, 1)), np.zeros((len(focal), 3))
    rotation[second], translation[second] = matrix[:, :3], matrix[:, 3]
    return Scene(rotation, translation, np.zeros((len(seen), 3)), focal)


def _place(scene: Scene, observed: Array, visible: Mask, camera: int, seed: int) -> tuple[Array, Array] | None:
    """Return rotation and translation of a camera by its view of known points, or None with too few inliers."""
    model = pycolmap.Camera(model="PINHOLE", width=2, height=2, params=[*scene.focal[camera], 0.0, 0.0])
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.ransac.random_seed = seed
    options.ransac.max_error = 3.0
    found = pycolmap.estimate_and_refine_absolute_pose(observed[visible, camera], scene.points[visible], model,
                                                       options)
    if found is None or found["num_inliers"] < max(12, 0.3 * visible.sum()):
        return None
    matrix = found["cam_from_world"].matrix()
    return matrix[:, :3], matrix[:, 3]


def refit(scene: Scene, observed: Array, seen: Mask, placed: Mask, fixed: int, iterations: int,
          focal_sigma: float = 0.0) -> tuple[Scene, Mask]:
    """Triangulate every track that the placed cameras see, adjust, and return the scene and what agrees with it.

    `focal_sigma` is how far, as a fraction, the focal length may be off; 0 keeps it.
    """
    used = seen & placed
    points, angle = triangulate(scene, observed, used)
    scene = Scene(scene.rotation, scene.translation, points, scene.focal)
    used = agreeing(scene, observed, used, angle, max_residual=4.0)
    if not used.any():
        return scene, used
    scene = _adjust_placed(scene, observed, used, placed, fixed, iterations, focal_sigma)
    return scene, agreeing(scene, observed, used, angle, max_residual=2.5)


def agreeing(scene: Scene, observed: Array, seen: Mask, angle: Array, max_residual: float) -> Mask:
    """Return which observations lie within `max_residual` pixels, of points seen twice under 0.3 degrees or more."""
    square = (scene.residuals(np.nan_to_num(observed)) ** 2).sum(-1)
    good = seen & (np.nan_to_num(square, nan=np.inf) < max_residual**2) & (angle > np.radians(0.3))[:, None]
    return good & (good.sum(1) >= 2)[:, None]


def _adjust_placed(scene: Scene, observed: Array, used: Mask, placed: Mask, fixed: int, iterations: int,
                   focal_sigma: float) -> Scene:
    rows, columns = np.flatnonzero(used.any(1)), np.flatnonzero(placed)
    part = Scene(scene.rotation[columns], scene.translation[columns], scene.points[rows], scene.focal[columns])
    grid = np.ix_(rows, columns)
    adjusted = adjust(part, observed[grid], used[grid], iterations=iterations,
                      fixed=int(np.flatnonzero(columns == fixed)[0]), focal_sigma=focal_sigma)
    rotation, translation, points = scene.rotation.copy(), scene.translation.copy(), scene.points.copy()
    rotation[columns], translation[columns] = adjusted.rotation, adjusted.translation
    points[rows] = adjusted.points
    return Scene(rotation, translation, points, scene.focal * (adjusted.focal[0, 0] / part.focal[0, 0]))
