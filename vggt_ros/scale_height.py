"""Metric scale from the camera's height over the ground: meters over the distance of the ground's plane in the map.

The ground is the plane below the camera that is level, as gravity or the camera's mounting says, that many of the
points which look down lie on, and below which there is next to nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.camera import pixel_rays
from vggt_ros.geometry import Array
from vggt_ros.ratios import Ratios
from vggt_ros.solution import KeptKeyframe, Solution

_TILT = np.cos(np.radians(12.0))
"""Least cosine between the plane's normal and what is taken for up: a slope, and the drift of the map's own level."""
_NEAR_PLANE = 0.03
"""How far a point may be off the plane, as a fraction of the plane's distance."""
_SHARE = 0.2
"""Least share of the points that look down which lie on it."""
_BELOW = 0.03
"""Largest share of them that may lie below it: a table is not the ground."""
_TRIES = 80
_LEAST = 200
_SIGMA = 0.025
"""Sigma of the height of one keyframe: the camera sways, the ground is not flat."""
_COMMON = 0.008
"""Sigma of what all keyframes have in common: the height as it was measured."""


class HeightSource:
    """Fits the ground below every solved keyframe.

    Attributes:
        height: of the camera's center over the ground, meters; 0 if it is not known.
        up: unit vector (3,) in the map's world, the first camera's optical frame; by default that camera is level.

    """

    name = "camera height"

    def __init__(self, height: float = 0.0) -> None:
        """Take the camera's height, meters; 0: not known."""
        self.height = height
        self.up: Array = np.array([0.0, -1.0, 0.0])
        self.clear()

    def clear(self) -> None:
        """Forget all planes."""
        self._planes: dict[int, tuple[float, float]] = {}

    def ratios(self, solution: Solution, rows: NDArray[np.int64], inside: bool = False) -> Ratios:
        """Return a ratio for each keyframe that sees the ground."""
        if self.height <= 0:
            return Ratios.join([])
        log, sigma, stamps, windows = [], [], [], []
        for row in rows.tolist():
            keyframe = int(solution.ids[row])
            if keyframe not in self._planes:
                up = solution.map_camera[row, :3, :3].T @ self.up
                self._planes[keyframe] = ground(solution.kept[keyframe], up) or (float("nan"), float("nan"))
            distance, spread = self._planes[keyframe]
            if np.isfinite(distance):
                log.append(float(np.log(self.height / (distance * solution.scale[row]))))
                sigma.append(float(np.hypot(_SIGMA, spread)))
                stamps.append(int(solution.stamps[row]))
                windows.append(int(solution.windows[row]))
        return Ratios(np.array(log), np.array(sigma), np.array(stamps, np.int64), np.array(windows, np.int64), _COMMON)


def ground(kept: KeptKeyframe, up: Array) -> tuple[float, float] | None:
    """Return the distance of the ground's plane from the camera, in units of its window, and its relative sigma.

    `up` (3,) is a unit vector in the camera's frame. None if no ground is seen.
    """
    rows, columns = np.nonzero((kept.depth > 0) & (kept.confidence > 0))
    rays = pixel_rays(kept.intrinsics, columns, rows)
    looks_down = rays @ up < -0.1 * np.linalg.norm(rays, axis=1)
    points = rays[looks_down] * kept.depth[rows, columns][looks_down].astype(np.float64)[:, None]
    if len(points) < _LEAST:
        return None
    rng = np.random.default_rng(kept.id)
    points = points[rng.permutation(len(points))[:3000]]
    corners = points[rng.integers(0, len(points), (_TRIES, 3))]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    normals = normals[lengths > 1e-12] / lengths[lengths > 1e-12, None]
    corners = corners[lengths > 1e-12]
    normals *= np.sign(normals @ up)[:, None]
    distances = -(normals * corners[:, 0]).sum(1)
    level = (normals @ up > _TILT) & (distances > 0)
    best, most = None, _SHARE * len(points)
    for normal, distance in zip(normals[level], distances[level], strict=True):
        heights = points @ normal + distance
        on_it = np.abs(heights) < _NEAR_PLANE * distance
        if on_it.sum() > most and (heights < -2 * _NEAR_PLANE * distance).mean() < _BELOW:
            best, most = on_it, on_it.sum()
    if best is None:
        return None
    return _fitted(points[best], up)


def _fitted(points: Array, up: Array) -> tuple[float, float] | None:
    """Return the distance of the plane nearest to points (n, 3), and its relative sigma."""
    middle = points.mean(0)
    normal = np.linalg.svd(points - middle, full_matrices=False)[2][2]
    normal = normal * np.sign(normal @ up)
    distance = -float(normal @ middle)
    if distance <= 0 or normal @ up < _TILT:
        return None
    spread = float(np.std((points - middle) @ normal))
    return distance, spread / distance / np.sqrt(min(len(points), 30))
