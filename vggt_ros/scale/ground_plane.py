"""The ground plane below a keyframe: a level plane in its depth map with almost nothing below it.

The inverse depth of a plane is linear in the ray: `plane @ ray`, where `plane` is its normal, pointing down, over its
distance. Errors of depth are relative, alike near and far; so residuals are logarithms of depth ratios. Their level is
estimated, not assumed: a pixel of a network's floor is off by 1 %, one of a textureless floor by 5 % and more.
"""

from __future__ import annotations

import numpy as np

from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.geometry.poses import Array, robust_sigma
from vggt_ros.windows.solution import MapKeyframe

_MIN_LEVEL_COSINE = np.cos(np.radians(12.0))
"""Least cosine between the plane's normal and the assumed down direction: it allows slopes and drift of the map."""
_CELLS = 40
"""Cells across the image. The plane is fitted to their medians, because single pixels are too noisy."""
_INLIER_ERROR = 0.03
"""Largest relative depth error of an inlier cell in RANSAC."""
_SIGMA_BOUNDS = 0.01, 0.05
"""Bounds of the estimated sigma of the relative depth error of cells."""
_MIN_INLIER_FRACTION = 0.2
"""Least fraction of the cells below the horizon that lie on the plane."""
_MAX_FRACTION_BELOW = 0.03
"""Largest fraction of them that may lie below the plane: a table is not the ground."""
_RANSAC_TRIALS = 200
_MIN_CELLS = 40
_INDEPENDENT_ERRORS = 30
"""Independent errors in the cells of a floor: errors of neighboring cells are correlated."""


def ground_distance(keyframe: MapKeyframe, up: Array) -> tuple[float, float] | None:
    """Return the distance of the ground from the camera, in units of the keyframe's window, and its relative sigma.

    `up` (3,) is a unit vector in the camera's frame. None if no ground is visible.
    """
    rays, inverse_depth = _cell_medians(keyframe)
    looks_down = rays @ up < -0.1 * np.linalg.norm(rays, axis=1)
    rays, inverse_depth = rays[looks_down], inverse_depth[looks_down]
    if len(rays) < _MIN_CELLS:
        return None
    samples = np.random.default_rng(keyframe.id).integers(0, len(rays), (_RANSAC_TRIALS, 3))
    samples = samples[np.abs(np.linalg.det(rays[samples])) > 1e-6]
    planes = np.linalg.solve(rays[samples], inverse_depth[samples][..., None])[..., 0]
    planes = planes[planes @ -up > _MIN_LEVEL_COSINE * np.linalg.norm(planes, axis=1)]
    best, best_fraction = None, _MIN_INLIER_FRACTION
    for plane in planes:
        error = _log_depth_errors(plane, rays, inverse_depth)
        fraction = float((np.abs(error) < _INLIER_ERROR).mean())
        if fraction > best_fraction and (error > 2 * _INLIER_ERROR).mean() < _MAX_FRACTION_BELOW:
            best, best_fraction = plane, fraction
    return None if best is None else _refine_plane(best, rays, inverse_depth, up)


def _cell_medians(keyframe: MapKeyframe) -> tuple[Array, Array]:
    """Return the mean rays (n, 3) of the cells of an image, and their median inverse depth (n,)."""
    side = max(1, keyframe.depth.shape[1] // _CELLS)
    height, width = (side * (length // side) for length in keyframe.depth.shape)

    def cells(pixels: Array) -> Array:
        return pixels[:height, :width].reshape(height // side, side, width // side, side).swapaxes(1, 2).reshape(
            -1, side * side)

    depth = cells(np.where((keyframe.depth > 0) & (keyframe.confidence > 0), keyframe.depth, np.nan).astype(np.float64))
    known = np.isfinite(depth)
    enough = 2 * known.sum(1) >= side * side
    depth, known = depth[enough], known[enough]
    grid = np.indices(keyframe.depth.shape, np.float64)
    rows, columns = (np.average(cells(grid[axis])[enough], axis=1, weights=known) for axis in range(2))
    return pixel_rays(keyframe.intrinsics, columns, rows), np.nanmedian(1 / depth, axis=1)


def _log_depth_errors(plane: Array, rays: Array, inverse_depth: Array) -> Array:
    """Return the log ratio (n,) of each cell's depth to the plane's; infinite where its ray misses the plane."""
    expected = rays @ plane
    return np.where(expected > 0, np.log(np.maximum(expected, 1e-12) / inverse_depth), np.inf)


def _refine_plane(plane: Array, rays: Array, inverse_depth: Array, up: Array) -> tuple[float, float] | None:
    """Return the distance of the plane that fits best near `plane` (3,), and its relative sigma; None if none does."""
    sigma = _INLIER_ERROR
    for _ in range(12):
        error = _log_depth_errors(plane, rays, inverse_depth)
        inliers = np.abs(error) < 2.5 * sigma
        if inliers.sum() < _MIN_CELLS * _MIN_INLIER_FRACTION:
            return None
        sigma = float(np.clip(robust_sigma(error[inliers]), *_SIGMA_BOUNDS))
        # Gauss-Newton with Tukey weights: the derivative of the logarithm is the ray over the inverse depth.
        weights = np.maximum(1 - (error[inliers] / (2.5 * sigma))**2, 0.0)
        jacobian = weights[:, None] * rays[inliers] / (rays[inliers] @ plane)[:, None]
        plane = plane - np.linalg.lstsq(jacobian, weights * error[inliers], rcond=None)[0]
    length = float(np.linalg.norm(plane))
    if (plane @ -up < _MIN_LEVEL_COSINE * length or (error > 4 * sigma).mean() > _MAX_FRACTION_BELOW
        or inliers.mean() < _MIN_INLIER_FRACTION):
        return None
    covariance = sigma**2 * np.linalg.inv(jacobian.T @ jacobian) * max(1.0, inliers.sum() / _INDEPENDENT_ERRORS)
    normal = plane / length
    return 1 / length, float(np.sqrt(normal @ covariance @ normal)) / length
