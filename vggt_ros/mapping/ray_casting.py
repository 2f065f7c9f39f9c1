"""The rays of one keyframe, cast through cells: where they end, what they pass, where they see the floor.

Cells lie on a lattice that is fixed in `map`: cell (layer, row, column) begins at (column, row) times the resolution,
`layer` layers above `grid.min_height`. So what a keyframe has to say does not depend on how large the grid is.
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
_LAYER, _MAX_LAYERS = 0.1, 16
"""Height of a layer, in meters, and the most that there are."""
_RAYS = 3
"""Every so many pixels, in rows and columns, there is a ray."""


@dataclass(frozen=True, eq=False)
class Cast:
    """What a keyframe says of the cells in a box of the lattice, as flat indices into the box, each once.

    Attributes:
        corner: int64 (2,), row and column of the box's first cell.
        shape: layers, rows and columns of the box.
        hit, passed: cells in which rays end, and others that they pass.
        floor: of (rows, columns), those that are seen down to the floor: passed or hit in their lowest layer, or below.
        low, high: int64 (2,), row and column of the first and behind the last cell of what the grid should show.

    """

    corner: NDArray[np.int64]
    shape: tuple[int, int, int]
    hit: Cells
    passed: Cells
    floor: Cells
    low: NDArray[np.int64]
    high: NDArray[np.int64]


def layers(config: GridConfig) -> int:
    """Return into how many layers the band of heights is cut."""
    return int(np.clip(np.ceil((config.max_height - config.min_height) / _LAYER), 1, _MAX_LAYERS))


def cast(kept: MapKeyframe, map_camera: Array, scale: float, config: GridConfig) -> Cast:
    """Cast the rays of a keyframe from its pose 4x4 in the z-up `map`; `scale` makes its depth meters."""
    ends = _ends(kept, map_camera, scale, config)
    count = layers(config)
    edge = np.array([config.resolution, config.resolution, (config.max_height - config.min_height) / count])
    bottom = np.array([0.0, 0.0, config.min_height])
    center, end = (map_camera[:3, 3] - bottom) / edge, (ends - bottom) / edge
    corner = np.floor(np.vstack([center, end])[:, :2].min(0)).astype(np.int64)
    shown = np.vstack([center, end[(end[:, 2] > 0) & (end[:, 2] < count)]])[:, :2]
    columns, rows = (np.floor(np.vstack([center, end])[:, :2].max(0)).astype(np.int64) + 1 - corner).tolist()
    shape = (count, rows, columns)
    center[:2] -= corner
    end[:, :2] -= corner
    hit = _cells(end, shape)
    passed = np.setdiff1d(_passed(center, end, shape), hit)
    below = end[end[:, 2] <= 0] * (1, 1, 0)
    lowest = np.concatenate([cells[cells < rows * columns] for cells in (hit, passed)])
    floor = np.union1d(_cells(below, (1, rows, columns)), lowest)
    small = np.min_scalar_type(count * rows * columns)
    return Cast(corner[::-1], shape, hit.astype(small), passed.astype(small), floor.astype(small),
                np.floor(shown.min(0)).astype(np.int64)[::-1] - 1, np.ceil(shown.max(0)).astype(np.int64)[::-1] + 1)


def _ends(kept: MapKeyframe, map_camera: Array, scale: float, config: GridConfig) -> Array:
    """Return where the rays end in `map` (n, 3), at most `grid.max_range` away."""
    depth = kept.depth[::_RAYS, ::_RAYS].astype(np.float64) * scale
    known = (depth > 0) & (kept.confidence[::_RAYS, ::_RAYS] >= 255 * config.min_confidence)
    rows, columns = np.nonzero(known)
    rays = pixel_rays(kept.intrinsics, _RAYS * columns, _RAYS * rows)
    points: Array = rays * depth[rows, columns, None] @ map_camera[:3, :3].T + map_camera[:3, 3]
    return points[np.linalg.norm(points[:, :2] - map_camera[:2, 3], axis=1) < config.max_range]


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
