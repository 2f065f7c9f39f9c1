"""Points from known cameras, and which observations agree with both."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.reconstruction.adjustment.bundle import Scene, adjust

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def triangulate(scene: Scene, observations: Array, visible: Mask) -> tuple[Array, Array]:
    """Return points (n, 3) by linear triangulation (DLT) over all views, and their largest ray angles (n,), radians."""
    projections = np.concatenate([scene.rotation, scene.translation[..., None]], -1)
    image = np.nan_to_num(observations) / scene.focal
    rows = image[..., None] * projections[:, 2][None, :, None] - projections[:, :2][None]
    rows = (rows * visible[..., None, None]).reshape(len(visible), -1, 4)
    _, vectors = np.linalg.eigh(rows.swapaxes(-1, -2) @ rows)
    homogeneous = vectors[..., 0]
    last = homogeneous[:, 3:]
    points = homogeneous[:, :3] / np.where(np.abs(last) < 1e-9, 1e-9, last)
    directions = points[:, None] - scene.centers()
    directions /= np.maximum(np.linalg.norm(directions, axis=-1, keepdims=True), 1e-12)
    cosine = np.einsum("nsi,nti->nst", directions, directions)
    cosine[~(visible[:, :, None] & visible[:, None, :])] = 1.0
    return points, np.arccos(np.clip(cosine.min((1, 2)), -1, 1))


def triangulate_and_adjust(scene: Scene, observations: Array, visible: Mask, registered: Mask, fixed: int,
                           iterations: int, focal_sigma: float = 0.0) -> tuple[Scene, Mask]:
    """Triangulate every track that registered cameras observe, run bundle adjustment, return the scene and its inliers.

    `focal_sigma` is the relative standard deviation of the focal length; 0 keeps it.
    """
    inliers = visible & registered
    points, angle = triangulate(scene, observations, inliers)
    scene = Scene(scene.rotation, scene.translation, points, scene.focal)
    inliers = inlier_mask(scene, observations, inliers, angle, max_residual=4.0)
    if not inliers.any():
        return scene, inliers
    scene = _adjust_registered(scene, observations, inliers, registered, fixed, iterations, focal_sigma)
    return scene, inlier_mask(scene, observations, inliers, angle, max_residual=2.5)


def inlier_mask(scene: Scene, observations: Array, visible: Mask, angle: Array, max_residual: float) -> Mask:
    """Return the observations within `max_residual` pixels, of points with two of them and 0.3 degrees between rays."""
    square = (scene.residuals(np.nan_to_num(observations)) ** 2).sum(-1)
    good = visible & (np.nan_to_num(square, nan=np.inf) < max_residual**2) & (angle > np.radians(0.3))[:, None]
    return good & (good.sum(1) >= 2)[:, None]


def _adjust_registered(scene: Scene, observations: Array, inliers: Mask, registered: Mask, fixed: int,
                       iterations: int, focal_sigma: float) -> Scene:
    rows, columns = np.flatnonzero(inliers.any(1)), np.flatnonzero(registered)
    part = Scene(scene.rotation[columns], scene.translation[columns], scene.points[rows], scene.focal[columns])
    grid = np.ix_(rows, columns)
    adjusted = adjust(part, observations[grid], inliers[grid], iterations=iterations,
                      fixed=int(np.flatnonzero(columns == fixed)[0]), focal_sigma=focal_sigma)
    rotation, translation, points = scene.rotation.copy(), scene.translation.copy(), scene.points.copy()
    rotation[columns], translation[columns] = adjusted.rotation, adjusted.translation
    points[rows] = adjusted.points
    return Scene(rotation, translation, points, scene.focal * (adjusted.focal[0, 0] / part.focal[0, 0]))
