"""Points from known cameras, and which observations agree with both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.reconstruction.adjustment.bundle import AdjustmentOptions, Scene, adjust, undistorted

Mask = NDArray[np.bool_]

MIN_RAY_ANGLE = np.radians(0.3)
"""Smallest of the largest angles between the rays of a point whose depth is known."""
DISTANT_RAY_ANGLE = np.radians(0.05)
"""Below it a point is taken as infinitely far; such points say how the camera turns."""
DISTANCE_FACTOR = 100.0
MAX_RESIDUAL = 2.5
"""Largest residual of an inlier, pixels."""


def bearings(observations: Array, focal: Array) -> Array:
    """Return unit bearing vectors (..., 3) of observations (..., 2) in pixels from the principal point."""
    direction = np.concatenate([observations / focal, np.ones((*observations.shape[:-1], 1))], -1)
    return direction / np.linalg.norm(direction, axis=-1, keepdims=True)


def triangulate(scene: Scene, observations: Array, visible: Mask) -> tuple[Array, Array]:
    """Return points (n, 3) by linear triangulation (DLT) over all views, and their largest ray angles (n,), radians."""
    projections = np.concatenate([scene.rotation, scene.translation[..., None]], -1)
    image = undistorted(np.nan_to_num(observations), scene.focal, scene.radial) / scene.focal
    rows = image[..., None] * projections[:, 2][None, :, None] - projections[:, :2][None]
    rows = (rows * visible[..., None, None]).reshape(len(visible), -1, 4)
    _, vectors = np.linalg.eigh(rows.swapaxes(-1, -2) @ rows)
    homogeneous = vectors[..., 0]
    last = homogeneous[:, 3:]
    points = homogeneous[:, :3] / np.where(np.abs(last) < 1e-9, 1e-9, last)
    directions = points[:, None] - scene.centers()
    directions /= np.maximum(np.linalg.norm(directions, axis=-1, keepdims=True), 1e-12)
    cosine = directions @ directions.swapaxes(1, 2)
    cosine[~(visible[:, :, None] & visible[:, None, :])] = 1.0
    return points, np.arccos(np.clip(cosine.min((1, 2)), -1, 1))


def triangulate_and_adjust(scene: Scene, observations: Array, visible: Mask, registered: Mask, fixed: int | Mask,
                           options: AdjustmentOptions) -> tuple[Scene, Mask]:
    """Triangulate every track that registered cameras observe, run bundle adjustment; return scene and inliers.

    `fixed` is the camera whose pose is held fixed, or the mask (S,) of those.
    """
    inliers = visible & registered
    points, angle = triangulate(scene, observations, inliers)
    near = angle > MIN_RAY_ANGLE
    if (distant := angle < DISTANT_RAY_ANGLE).any():
        points[distant] = distant_points(scene, observations[distant], inliers[distant], points[near])
    scene = replace(scene, points=points)
    inliers = inlier_mask(scene, observations, inliers, max_residual=4.0)
    if not inliers[near].any():
        return scene, inliers & near[:, None]
    scene = _adjust_registered(scene, observations, inliers, registered, fixed, options)
    return scene, inlier_mask(scene, observations, inliers, MAX_RESIDUAL) & near[:, None]


def distant_points(scene: Scene, observations: Array, visible: Mask, near: Array) -> Array:
    """Return points (n, 3) in the mean direction of the rays of tracks, a hundred times as far as the `near` ones."""
    rays = bearings(undistorted(np.nan_to_num(observations), scene.focal, scene.radial), scene.focal)
    directions = np.einsum("sji,nsj->nsi", scene.rotation, rays) * visible[..., None]
    count = np.maximum(visible.sum(1), 1)[:, None]
    mean_direction = directions.sum(1) / count
    centers = (visible @ scene.centers()) / count
    middle = scene.centers().mean(0)
    distance = float(np.median(np.linalg.norm(near - middle, axis=1))) if len(near) else 1.0
    return centers + DISTANCE_FACTOR * distance * mean_direction


def agreeing_directions(scene: Scene, observations: Array, visible: Mask, near: Array) -> Mask:
    """Return the observations (n, S) of points without parallax, thus without depth, that agree with the cameras.

    They are taken as much farther away than the points `near` (m, 3).
    """
    points, angle = triangulate(scene, observations, visible)
    distant = angle < DISTANT_RAY_ANGLE
    points[distant] = distant_points(scene, observations, visible, near)[distant]
    return (inlier_mask(replace(scene, points=points), observations, visible, MAX_RESIDUAL)
            & (angle <= MIN_RAY_ANGLE)[:, None])


def inlier_mask(scene: Scene, observations: Array, visible: Mask, max_residual: float) -> Mask:
    """Return the observations within `max_residual` pixels, of points with two of them."""
    square = (scene.residuals(np.nan_to_num(observations)) ** 2).sum(-1)
    good = visible & (np.nan_to_num(square, nan=np.inf) < max_residual**2)
    return good & (good.sum(1) >= 2)[:, None]


def _adjust_registered(scene: Scene, observations: Array, inliers: Mask, registered: Mask, fixed: int | Mask,
                       options: AdjustmentOptions) -> Scene:
    is_fixed = np.zeros(len(registered), bool)
    is_fixed[fixed] = True
    # Points that fixed cameras alone observe have no part in it: their triangulation stays.
    rows, columns = np.flatnonzero(inliers[:, ~is_fixed].any(1)), np.flatnonzero(registered)
    if not len(rows):
        return scene
    part = scene.part(columns, rows)
    grid = np.ix_(rows, columns)
    adjusted = adjust(part, observations[grid], inliers[grid], options, is_fixed[columns])
    rotation, translation, points = scene.rotation.copy(), scene.translation.copy(), scene.points.copy()
    rotation[columns], translation[columns] = adjusted.rotation, adjusted.translation
    points[rows] = adjusted.points
    return Scene(rotation, translation, points, scene.focal * (adjusted.focal[0, 0] / part.focal[0, 0]),
                 adjusted.radial)
