"""Registration of the surfaces of two parts of a map that a loop has joined.

Keyframes find each other only where both parts saw a place from about the same direction, which may be at one spot, and
where a map is bent, such as at its end. Surfaces are seen from all directions: once the parts are roughly in place, the
depth of the one is moved onto that of the other by a similarity that minimizes the distances of points to the planes
of their nearest neighbors (Chen, Medioni, Object modeling by registration of multiple range images, IVC 1992), from
coarse to fine. Where the surfaces leave a motion open, such as along a wall, the covariance says so. That they fit is
no evidence that the parts show the same place: so do those of places that look alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.geometry.poses import Array
from vggt_ros.geometry.sim3 import exp, inverse, scales, to_matrix, to_sim3
from vggt_ros.mapping.dense.surface import depth_normals
from vggt_ros.pose_graph.relative_poses import LoopMeasurement
from vggt_ros.windows.solution import MapKeyframe, Solution

_STRIDE = 5
"""Every n-th row and column of the depth maps is used."""
_MOST_FIXED, _MOST_MOVED = 200_000, 15_000
"""Most points of the part that stays, and of the part that is moved."""
_DISTANCES = 0.24, 0.12, 0.06, 0.03
"""Largest distances of a point to its nearest neighbor, from coarse to fine, as fractions of the median depth."""
_ITERATIONS, _CONVERGED = 20, 1e-4
_SAME_SIDE = 0.7
"""Least cosine of the angle between the normals of neighbors."""
_BESIDE = 0.03
"""Largest part of that distance along the surface: farther away, the neighbor is at the border of what was seen."""
_MIN_PAIRS, _MIN_GROUPS = 500, 2
"""Fewest pairs of neighbors, and fewest groups of keyframes that they are of."""
_MIN_FITTED = 0.6
"""Least share of the points with a neighbor within the largest of the distances that have one within the smallest."""
_MAX_LOG_SCALE = 0.3
"""Largest logarithm of the change of scale: a part that is shrunk enough fits into anything."""
_SIGMA, _SAMPLES = 0.03, 10
"""Error of a point, as a fraction of the median depth, and effective number of independent ones in a group."""


@dataclass(frozen=True, eq=False)
class _Surface:
    """Points (n, 3) and normals (n, 3) of a part, in some frame, and the row in its solution (n,) of each."""

    points: Array
    normals: Array
    rows: NDArray[np.int64]

    def moved(self, similarity: Array) -> _Surface:
        rotation = similarity[:3, :3] / scales(similarity[None])[0]
        return _Surface(self.points @ similarity[:3, :3].T + similarity[:3, 3], self.normals @ rotation.T, self.rows)


def register_surfaces(fixed: Solution, moved: Solution, size: int,
                      pairs: Sequence[tuple[int, int]] = ()) -> tuple[int, int, LoopMeasurement] | None:
    """Return a keyframe of each of two parts of a map, and their relative pose by the surfaces of the parts.

    Args:
        fixed, moved: the parts, roughly in place.
        size: neighboring keyframes of a group, whose depth has the same errors.
        pairs: keyframes of the two between which a relative pose is known already. The nearest of them is taken if it
            is in the same groups: a difference to what is known is then no bend of the parts between the two.

    None if they have too little in common, or fit no better than before.

    """
    from scipy.spatial import KDTree  # slow to import

    walls, points = _surface(fixed, _MOST_FIXED), _surface(moved, _MOST_MOVED)
    if not len(walls.rows) or not len(points.rows):
        return None
    tree = KDTree(walls.points)
    depth = float(np.nanmedian([fixed.keyframes[int(k)].median_depth * scale
                                for k, scale in zip(fixed.ids, fixed.scale, strict=True)]))
    near, other = _neighbors(tree, walls, points, _DISTANCES[0], depth)
    if len(near) < _MIN_PAIRS:
        return None
    first, own = int(np.median(walls.rows[other])), int(np.median(points.rows[near]))  # the middle of what is shared
    known = [(fixed.row(one), moved.row(two)) for one, two in pairs]
    first, own = min(((one, two) for one, two in known if max(abs(one - first), abs(two - own)) < size),
                     key=lambda pair: abs(pair[1] - own), default=(first, own))
    before = to_matrix(moved.similarity(own))
    points, found = points.moved(inverse(before[None])[0]), before
    unknown = np.array([1, 1, 1, *[depth / scales(before[None])[0]] * 3, 1])
    prior = np.diag(unknown**-2)  # for motions that the surfaces leave open
    fitted_before = len(_neighbors(tree, walls, points.moved(before), _DISTANCES[-1], depth)[0])
    for distance in _DISTANCES:
        for _ in range(_ITERATIONS):
            near, other, terms, residuals, weights = _linearized(tree, walls, points, found, distance, depth)
            if len(near) < _MIN_PAIRS:
                return None
            groups = len(np.unique(points.rows[near] // size))
            weights *= _SAMPLES * groups / weights.sum() / (_SIGMA * depth) ** 2
            information = (weights * terms.T) @ terms + prior
            step = -np.linalg.solve(information, terms.T @ (weights * residuals))
            found = found @ exp(np.asarray(step, np.float64)[None])[0]
            if np.abs(step).max() < _CONVERGED:
                break
    change = np.log(scales(np.array([before, found])))
    facing = len(_neighbors(tree, walls, points.moved(found), _DISTANCES[0], depth)[0])
    if (len(near) < max(fitted_before, _MIN_FITTED * facing) or groups < _MIN_GROUPS
            or abs(change[1] - change[0]) > _MAX_LOG_SCALE):
        return None
    covariance = np.asarray(np.linalg.inv(information), np.float64)
    first_own = inverse(to_matrix(fixed.similarity(first))[None])[0] @ found
    return int(fixed.ids[first]), int(moved.ids[own]), LoopMeasurement(to_sim3(first_own[None])[0], covariance)


def _linearized(tree: Any, walls: _Surface, points: _Surface, map_own: Array, limit: float,
                depth: float) -> tuple[NDArray[np.int64], NDArray[np.int64], Array, Array, Array]:
    """Return the pairs at a similarity: their rows in `points` and in `walls`, and what a step is computed from.

    That is the derivatives (n, 7) of the distances by a perturbation on the right, the distances (n,), and weights.
    """
    placed = points.moved(map_own)
    near, other = _neighbors(tree, walls, placed, limit, depth)
    at, planes = points.points[near], walls.normals[other]
    residuals = ((placed.points[near] - walls.points[other]) * planes).sum(1)
    inward = planes @ map_own[:3, :3]
    terms = np.hstack([np.cross(at, inward), inward, (at * inward).sum(1)[:, None]])
    return near, other, terms, residuals, 1 / (1 + (3 * residuals / (limit * depth)) ** 2) ** 2  # Geman-McClure


def _neighbors(tree: Any, walls: _Surface, points: _Surface, limit: float,
               depth: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows (n,) of points with a neighbor within a limit that is seen from the same side, and its rows."""
    distances, neighbors = tree.query(points.points, distance_upper_bound=limit * depth)
    near = np.flatnonzero(np.isfinite(distances))
    near = near[(points.normals[near] * walls.normals[neighbors[near]]).sum(1) > _SAME_SIDE]
    planes, offset = walls.normals[neighbors[near]], points.points[near] - walls.points[neighbors[near]]
    beside = np.sqrt(np.maximum(distances[near] ** 2 - (offset * planes).sum(1) ** 2, 0))
    near = near[beside < _BESIDE * depth]
    return near, neighbors[near]


def _surface(part: Solution, most: int) -> _Surface:
    """Return at most so many points of a part, in the map."""
    found = [_keyframe_surface(part.keyframes[int(k)]).moved(to_matrix(part.similarity(row)))
             for row, k in enumerate(part.ids)]
    rows = np.repeat(np.arange(len(found)), [len(one.rows) for one in found])
    chosen = np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)
    return _Surface(np.concatenate([one.points for one in found])[chosen],
                    np.concatenate([one.normals for one in found])[chosen], rows[chosen])


def _keyframe_surface(keyframe: MapKeyframe) -> _Surface:
    """Return points of the more confident half of a keyframe, in its own frame and units."""
    depth, wanted = keyframe.depth.astype(np.float32), np.zeros(keyframe.depth.shape, np.bool_)
    wanted[::_STRIDE, ::_STRIDE] = True
    wanted &= depth > 0
    wanted &= keyframe.confidence >= (np.median(keyframe.confidence[wanted]) if wanted.any() else 0)
    normals = depth_normals(depth, keyframe.intrinsics, wanted).astype(np.float64)
    rows, columns = np.nonzero(wanted)
    points = pixel_rays(keyframe.intrinsics, columns, rows) * depth[wanted, None]
    known = normals.any(1)
    return _Surface(points[known], normals[known], np.zeros(known.sum(), np.int64))
