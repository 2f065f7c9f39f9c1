"""Casting the rays of one keyframe through grid cells: where they end, what they pass, where they see the floor.

Cells are on a lattice that is fixed in `map`: cell (layer, row, column) begins at (column, row) times the resolution,
`layer` layers above `grid.min_height`. So the result for a keyframe does not depend on how large the grid is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import GridConfig
from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.geometry.poses import Array
from vggt_ros.windows.solution import MapKeyframe

Cells = NDArray[np.unsignedinteger]
_LAYER_HEIGHT, _MAX_LAYERS = 0.1, 16
"""Height of a layer, in meters, and the largest number of layers."""
_PIXEL_STRIDE = 3
"""What rays pass is found for every n-th pixel, in rows and columns. Where they end is, for all: the top of a box at a
grazing angle has few pixels."""
_FEW = 8
"""Cells are marked in a box, rather than sorted, if it has at most this many times as many cells as points."""


@dataclass(frozen=True, eq=False)
class RayCast:
    """The cells that the rays of a keyframe hit and pass, as flat indices into a box of the lattice, each once.

    Attributes:
        corner: int64 (2,), row and column of the box's first cell.
        shape: layers, rows and columns of the box.
        hit, passed: cells in which rays end, and other cells that rays pass.
        floor: of (rows, columns), those that are seen down to the floor: passed or hit in their lowest layer, or below.
        low, high: int64 (2,), row and column of the first and behind the last cell that the grid has to include.

    """

    corner: NDArray[np.int64]
    shape: tuple[int, int, int]
    hit: Cells
    passed: Cells
    floor: Cells
    low: NDArray[np.int64]
    high: NDArray[np.int64]


def layer_count(config: GridConfig) -> int:
    """Return into how many layers the range of heights is divided."""
    return int(np.clip(np.ceil((config.max_height - config.min_height) / _LAYER_HEIGHT), 1, _MAX_LAYERS))


def cast_rays(keyframe: MapKeyframe, map_camera: Array, scale: float, config: GridConfig) -> RayCast:
    """Cast the rays of a keyframe from its pose 4x4 in the z-up `map`; `scale` converts its depth to meters."""
    ends, is_cast = _ray_ends(keyframe, map_camera, scale, config)
    count = layer_count(config)
    edge = np.array([config.resolution, config.resolution, (config.max_height - config.min_height) / count])
    bottom = np.array([0.0, 0.0, config.min_height])
    center, end = (map_camera[:3, 3] - bottom) / edge, (ends - bottom) / edge
    corner = np.floor(np.vstack([center, end])[:, :2].min(0)).astype(np.int64)
    shown = np.vstack([center, end[(end[:, 2] > 0) & (end[:, 2] < count)]])[:, :2]
    columns, rows = (np.floor(np.vstack([center, end])[:, :2].max(0)).astype(np.int64) + 1 - corner).tolist()
    shape = (count, rows, columns)
    center[:2] -= corner
    end[:, :2] -= corner
    hit = _cell_indices(end, shape)
    passed = np.setdiff1d(_passed_cells(center, end[is_cast], shape), hit, assume_unique=True)
    below = end[end[:, 2] <= 0] * (1, 1, 0)
    lowest = np.concatenate([cells[cells < rows * columns] for cells in (hit, passed)])
    floor = np.union1d(_cell_indices(below, (1, rows, columns)), lowest)
    small = np.min_scalar_type(count * rows * columns)
    return RayCast(corner[::-1], shape, hit.astype(small), passed.astype(small), floor.astype(small),
                   np.floor(shown.min(0)).astype(np.int64)[::-1] - 1, np.ceil(shown.max(0)).astype(np.int64)[::-1] + 1)


def _ray_ends(keyframe: MapKeyframe, map_camera: Array, scale: float,
              config: GridConfig) -> tuple[Array, NDArray[np.bool_]]:
    """Return where the rays end in `map` (n, 3), at most `grid.max_range` away, and for which what they pass counts."""
    known = (keyframe.depth > 0) & (keyframe.confidence >= 255 * config.min_confidence)
    rows, columns = np.nonzero(known)
    rays = pixel_rays(keyframe.intrinsics, columns, rows)
    points: Array = rays * (keyframe.depth[known].astype(np.float64) * scale)[:, None] @ map_camera[:3, :3].T
    is_near = np.hypot(points[:, 0], points[:, 1]) < config.max_range
    is_cast = (rows % _PIXEL_STRIDE == 0) & (columns % _PIXEL_STRIDE == 0)
    return points[is_near] + map_camera[:3, 3], is_cast[is_near]


def _passed_cells(center: Array, ends: Array, shape: tuple[int, int, int]) -> NDArray[np.int64]:
    """Return the flat indices of the cells that rays from `center` (3,) to `ends` (n, 3) pass; all in cells.

    The last cell before the end is left out: otherwise rays would clear a surface that they meet at a grazing angle.
    """
    if not len(ends):
        return np.zeros(0, np.int64)
    shift = ends - center
    length = np.maximum(np.linalg.norm(shift[:, :2], axis=1), 1e-9)
    steps = int(np.ceil(1.5 * length.max())) + 1
    fractions = np.linspace(0, 1, steps)[None] * length.max() / length[:, None]
    rows, samples = np.nonzero(fractions < 1 - 1.5 / length[:, None])
    return _cell_indices(center + fractions[rows, samples, None] * shift[rows], shape)


def _cell_indices(points: Array, shape: tuple[int, int, int]) -> NDArray[np.int64]:
    """Return the flat indices, each once, of the cells of `shape` in which `points` (n, 3), x y z in cells, are."""
    column, row, layer = points.T
    inside = (column >= 0) & (row >= 0) & (layer >= 0)
    inside &= (column < shape[2]) & (row < shape[1]) & (layer < shape[0])
    column, row, layer = (axis[inside].astype(np.int64) for axis in (column, row, layer))
    cells = (layer * shape[1] + row) * shape[2] + column
    if np.prod(shape) > _FEW * len(cells):
        return np.unique(cells)
    marked = np.zeros(np.prod(shape), np.bool_)
    marked[cells] = True
    return np.flatnonzero(marked)
