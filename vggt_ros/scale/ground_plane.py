"""The ground below a keyframe: the plane in its depth that is level, and below which there is next to nothing.

The inverse depth of a plane is linear in the ray: `plane @ ray`, where `plane` is its normal, pointing down, over its
distance. What depth is wrong by is a fraction of it, alike near and far; so residuals are logarithms of depth ratios,
and how large those are is found out, not assumed: a pixel of a network's floor is off by 1 %, one of a textureless
floor by 5 % and more.
"""

from __future__ import annotations

import numpy as np

from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.geometry.poses import Array, robust_sigma
from vggt_ros.windows.solution import MapKeyframe

_LEVEL = np.cos(np.radians(12.0))
"""Least cosine between the plane's normal and what is taken for down: a slope, and the drift of the map's own level."""
_CELLS = 40
"""Cells across the image. Their medians are what is fitted: the noise of single pixels says nothing of the plane."""
_NEAR = 0.03
"""How far a cell's depth may be off a plane in search of one, as a fraction."""
_ERROR = 0.01, 0.05
"""Least and largest sigma of the depth of cells that a plane may have."""
_SHARE = 0.2
"""Least share of the cells that look down which lie on it."""
_BELOW = 0.03
"""Largest share of them that may lie below it: a table is not the ground."""
_TRIES = 200
_LEAST = 40
_INDEPENDENT = 30
"""How many independent errors the cells of a floor are taken to hold: errors of neighbors are alike."""


def ground(kept: MapKeyframe, up: Array) -> tuple[float, float] | None:
    """Return the distance of the ground from the camera, in units of its window, and its relative sigma.

    `up` (3,) is a unit vector in the camera's frame. None if no ground is seen.
    """
    rays, inverse_depth = _cells(kept)
    looks_down = rays @ up < -0.1 * np.linalg.norm(rays, axis=1)
    rays, inverse_depth = rays[looks_down], inverse_depth[looks_down]
    if len(rays) < _LEAST:
        return None
    corners = np.random.default_rng(kept.id).integers(0, len(rays), (_TRIES, 3))
    corners = corners[np.abs(np.linalg.det(rays[corners])) > 1e-6]
    planes = np.linalg.solve(rays[corners], inverse_depth[corners][..., None])[..., 0]
    planes = planes[planes @ -up > _LEVEL * np.linalg.norm(planes, axis=1)]
    best, most = None, _SHARE
    for plane in planes:
        error = _errors(plane, rays, inverse_depth)
        share = float((np.abs(error) < _NEAR).mean())
        if share > most and (error > 2 * _NEAR).mean() < _BELOW:
            best, most = plane, share
    return None if best is None else _fitted(best, rays, inverse_depth, up)


def _cells(kept: MapKeyframe) -> tuple[Array, Array]:
    """Return the middle rays (n, 3) of an image's cells, and their median inverse depth (n,)."""
    side = max(1, kept.depth.shape[1] // _CELLS)
    height, width = (side * (length // side) for length in kept.depth.shape)

    def cells(pixels: Array) -> Array:
        return pixels[:height, :width].reshape(height // side, side, width // side, side).swapaxes(1, 2).reshape(
            -1, side * side)

    depth = cells(np.where((kept.depth > 0) & (kept.confidence > 0), kept.depth, np.nan).astype(np.float64))
    known = np.isfinite(depth)
    enough = 2 * known.sum(1) >= side * side
    depth, known = depth[enough], known[enough]
    grid = np.indices(kept.depth.shape, np.float64)
    rows, columns = (np.average(cells(grid[axis])[enough], axis=1, weights=known) for axis in range(2))
    return pixel_rays(kept.intrinsics, columns, rows), np.nanmedian(1 / depth, axis=1)


def _errors(plane: Array, rays: Array, inverse_depth: Array) -> Array:
    """Return by what fraction (n,) cells lie beyond the plane, as a logarithm; infinite where it is not seen."""
    expected = rays @ plane
    return np.where(expected > 0, np.log(np.maximum(expected, 1e-12) / inverse_depth), np.inf)


def _fitted(plane: Array, rays: Array, inverse_depth: Array, up: Array) -> tuple[float, float] | None:
    """Return the distance of the plane that fits best near `plane` (3,), and its relative sigma."""
    sigma = _NEAR
    for _ in range(12):
        error = _errors(plane, rays, inverse_depth)
        near = np.abs(error) < 2.5 * sigma
        if near.sum() < _LEAST * _SHARE:
            return None
        sigma = float(np.clip(robust_sigma(error[near]), *_ERROR))
        # Gauss-Newton with Tukey's weights: the derivative of the logarithm is the ray over the inverse depth.
        weights = np.maximum(1 - (error[near] / (2.5 * sigma))**2, 0.0)
        slope = weights[:, None] * rays[near] / (rays[near] @ plane)[:, None]
        plane = plane - np.linalg.lstsq(slope, weights * error[near], rcond=None)[0]
    length = float(np.linalg.norm(plane))
    if plane @ -up < _LEVEL * length or (error > 4 * sigma).mean() > _BELOW or near.mean() < _SHARE:
        return None
    covariance = sigma**2 * np.linalg.inv(slope.T @ slope) * max(1.0, near.sum() / _INDEPENDENT)
    normal = plane / length
    return 1 / length, float(np.sqrt(normal @ covariance @ normal)) / length
