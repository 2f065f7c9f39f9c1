"""An occupancy grid of the map by ray casting: free where rays passed, occupied where they ended, else unknown.

Rays are cast in space, through a band of heights that is cut into layers, and every layer of a cell is voted on by
itself: a ray that looks over a table does not clear it. A cell is occupied if one of its layers is. It is free if
none is and it was seen down to its floor, by rays through its lowest layer or that end below it. All else is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import GridConfig
from vggt_ros.geometry import Array
from vggt_ros.solution import KeptKeyframe, Solution

UNKNOWN, FREE, OCCUPIED = -1, 0, 100
"""Values of nav_msgs/OccupancyGrid."""
_HIT, _MISS = 2, 1
"""What a keyframe that sees something in a layer of a cell, and one that looks through it, weigh in the vote."""
_LAYER, _MAX_LAYERS = 0.1, 16
"""Height of a layer, in meters, and the most that there are."""
_RAYS = 3
"""Every so many pixels, in rows and columns, there is a ray."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Cells (h, w) int8 of edge `resolution`; `origin` (2,) is the map's x, y of the corner of cell [0, 0].

    Rows go along y, columns along x, as in nav_msgs/OccupancyGrid.
    """

    cells: NDArray[np.int8]
    origin: Array
    resolution: float


def occupancy_grid(solution: Solution, map_world: Array, config: GridConfig) -> Grid:
    """Return the grid of a solution in the z-up frame `map`; `map_world` 4x4 is the solution's world there.

    At most `grid.max_cells` cells along a side: a map that is larger is cut off around its middle, and `Grid.origin`
    says where it begins.
    """
    views = [_rays(solution.kept[keyframe], map_world @ solution.map_camera[row], float(solution.scale[row]), config)
             for row, keyframe in enumerate(solution.ids.tolist())]
    ends = [end[(end[:, 2] > config.min_height) & (end[:, 2] < config.max_height)] for _, end in views]
    centers = np.array([center for center, _ in views]).reshape(-1, 3)
    if not len(centers):
        return Grid(np.zeros((0, 0), np.int8), np.zeros(2), config.resolution)
    origin, size = _extent(np.concatenate([centers, *ends])[:, :2], config)
    layers = int(np.clip(np.ceil((config.max_height - config.min_height) / _LAYER), 1, _MAX_LAYERS))
    low = np.array([*origin, config.min_height])
    edge = np.array([config.resolution, config.resolution, (config.max_height - config.min_height) / layers])
    shape = (layers, int(size[1]), int(size[0]))
    votes, seen = np.zeros(shape, np.int16), np.zeros(shape, bool)
    floor = np.zeros(shape[1:], bool)
    for center, end in views:
        ground = (end[end[:, 2] <= config.min_height, :2] - origin) / config.resolution
        floor.ravel()[_cells(np.column_stack([ground, np.zeros(len(ground))]), (1, *shape[1:]))] = True
        hit = _cells((end - low) / edge, shape)
        passed = np.setdiff1d(_passed((center - low) / edge, (end - low) / edge, shape), hit)
        for cells, weight in ((hit, _HIT), (passed, -_MISS)):
            votes.ravel()[cells] += weight
            seen.ravel()[cells] = True
    result: NDArray[np.int8] = np.full(shape[1:], UNKNOWN, np.int8)
    result[floor | seen[0]] = FREE
    result[(votes > 0).any(0)] = OCCUPIED
    return Grid(result, origin, config.resolution)


def _rays(kept: KeptKeyframe, map_camera: Array, scale: float, config: GridConfig) -> tuple[Array, Array]:
    """Return the camera's place (3,) in `map` and where its rays end (n, 3), at most `grid.max_range` away."""
    depth = kept.depth[::_RAYS, ::_RAYS].astype(np.float64) * scale
    known = (depth > 0) & (kept.confidence[::_RAYS, ::_RAYS] >= 255 * config.min_confidence)
    rows, columns = np.nonzero(known)
    rays = np.linalg.solve(kept.intrinsics, np.stack([_RAYS * columns, _RAYS * rows, np.ones(len(rows))])).T
    points = rays * depth[rows, columns, None] @ map_camera[:3, :3].T + map_camera[:3, 3]
    near = np.linalg.norm(points[:, :2] - map_camera[:2, 3], axis=1) < config.max_range
    return map_camera[:3, 3], points[near]


def _passed(center: Array, ends: Array, shape: tuple[int, int, int]) -> NDArray[np.int64]:
    """Return the flat indices of the cells that rays from `center` (3,) to `ends` (n, 3) pass; all in cells.

    The last cell before the end is left out: a surface that is seen at a slant must not clear itself.
    """
    if not len(ends):
        return np.zeros(0, np.int64)
    shift = ends - center
    length = np.maximum(np.linalg.norm(shift[:, :2], axis=1), 1e-9)
    steps = int(np.ceil(1.5 * length.max())) + 1
    along = np.linspace(0, 1, steps)[None] * length.max() / length[:, None]
    rows, places = np.nonzero(along < 1 - 1.5 / length[:, None])
    return _cells(center + along[rows, places, None] * shift[rows], shape)


def _cells(points: Array, shape: tuple[int, int, int]) -> NDArray[np.int64]:
    """Return the flat indices, each once, of the cells of `shape` in which `points` (n, 3), x y z in cells, lie."""
    inside = ((points >= 0) & (points < shape[::-1])).all(1)
    column, row, layer = points[inside].astype(np.int64).T
    return np.unique((layer * shape[1] + row) * shape[2] + column)


def _extent(points: Array, config: GridConfig) -> tuple[Array, NDArray[np.int64]]:
    """Return the corner (2,), on whole cells, and the size in cells (2,) of a grid around `points` (n, 2)."""
    low = np.floor(points.min(0) / config.resolution) - 1
    size = (np.ceil(points.max(0) / config.resolution) + 1 - low).astype(np.int64)
    cut = np.maximum(size - config.max_cells, 0)
    return (low + cut // 2) * config.resolution, size - cut
