"""An occupancy grid of the map by ray casting: free where rays passed, occupied where they ended, else unknown.

Rays are cast in 3D, through a range of heights that is divided into layers, and votes are counted for every layer of a
cell separately: a ray that passes above a table does not clear it. A cell is occupied if one of its layers is. It is
free if none is, and if it was seen down to the floor, by rays through its lowest layer or that end below it. All other
cells are unknown.

Votes are sums, so when a keyframe moves, its votes are subtracted and its rays cast again, without recounting the
others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import GridConfig
from vggt_ros.geometry.poses import Array, rotation_angle
from vggt_ros.mapping.grid.ray_casting import Cells, RayCast, cast_rays, layer_count
from vggt_ros.windows.solution import MapKeyframe, Solution

UNKNOWN, FREE, OCCUPIED = -1, 0, 100
"""Values of nav_msgs/OccupancyGrid."""
_HIT_WEIGHT, _MISS_WEIGHT = 2, 1
"""Weights of a keyframe whose rays end in a layer of a cell, and of one whose rays pass through it."""
_MAX_DISPLACEMENT = 0.5
"""The rays of a keyframe are cast again when their ends may have moved by more than this many cells."""
_TILE = 64
"""The counted area grows by this many cells at a time."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Cells (h, w) int8 with sides of `resolution`; `origin` (2,) is the map's x, y of the corner of cell [0, 0].

    Rows are along y, columns along x, as in nav_msgs/OccupancyGrid.
    """

    cells: NDArray[np.int8]
    origin: Array
    resolution: float


@dataclass(frozen=True, eq=False)
class _Vote:
    """The ray cast of a keyframe, and the pose from which it was made."""

    keyframe: MapKeyframe
    map_camera: Array
    scale: float
    cast: RayCast


class Occupancy:
    """The votes of all keyframes, updated incrementally.

    At most `grid.max_cells` cells along a side are counted: a larger map is cropped around its middle.

    Attributes:
        casts: how often the rays of a keyframe were cast.

    """

    def __init__(self, config: GridConfig) -> None:
        """Begin without votes."""
        self._config = config
        self._votes: dict[int, _Vote] = {}
        self._recount(np.zeros(2, np.int64), np.zeros(2, np.int64))
        self.casts = 0

    def update(self, solution: Solution, map_world: Array, limit: int | None = None,
               keyframes: Mapping[int, MapKeyframe] | None = None) -> int:
        """Update the votes to a solution whose world is `map_world` 4x4 in the z-up `map`; return how many are left.

        Left are keyframes whose rays have to be cast in a later call: at most `limit` are cast now, new ones before
        those that moved. Until then the votes of those that moved stay as they were.

        `keyframes` has the keyframes with other depth than those of the solution, such as fused depth.
        """
        keyframes = solution.keyframes if keyframes is None else keyframes
        poses = {keyframe: (map_world @ solution.map_camera[row], float(solution.scale[row]))
                 for row, keyframe in enumerate(solution.ids.tolist())}
        for k in list(self._votes):
            if k not in poses:
                self._add(self._votes.pop(k).cast, -1)
        stale = [k for k, pose in poses.items()
                 if k not in self._votes or self._votes[k].keyframe is not keyframes[k]
                 or self._displacement(self._votes[k], *pose) > _MAX_DISPLACEMENT]
        stale.sort(key=lambda k: k in self._votes)
        for k in stale[:limit]:
            if k in self._votes:
                self._add(self._votes.pop(k).cast, -1)
            keyframe, (map_camera, scale) = keyframes[k], poses[k]
            self._votes[k] = _Vote(keyframe, map_camera, scale, cast_rays(keyframe, map_camera, scale, self._config))
            self._add(self._votes[k].cast, 1)
            self.casts += 1
        return len(stale[limit:]) if limit is not None else 0

    def grid(self) -> Grid:
        """Return the grid of all votes; `Grid.origin` is where it begins."""
        if not self._votes:
            return Grid(np.zeros((0, 0), np.int8), np.zeros(2), self._config.resolution)
        low, high = self._extent()
        if (low < self._low).any() or (high > self._low + self._floor_votes.shape).any():
            self._recount(low // _TILE * _TILE, -(-high // _TILE) * _TILE)
        rows, columns = (slice(a, b) for a, b in zip(low - self._low, high - self._low, strict=True))
        result: NDArray[np.int8] = np.full((high - low).tolist(), UNKNOWN, np.int8)
        result[self._floor_votes[rows, columns] > 0] = FREE
        result[(self._layer_votes[:, rows, columns] > 0).any(0)] = OCCUPIED
        return Grid(result, low[::-1].astype(np.float64) * self._config.resolution, self._config.resolution)

    def _displacement(self, vote: _Vote, map_camera: Array, scale: float) -> float:
        """Return an upper bound of how far the ends of a keyframe's rays moved since they were cast, in cells."""
        turn = rotation_angle(vote.map_camera[:3, :3].T @ map_camera[:3, :3]) + abs(np.log(scale / vote.scale))
        shift = np.linalg.norm(map_camera[:3, 3] - vote.map_camera[:3, 3])
        return float(shift + turn * self._config.max_range) / self._config.resolution

    def _extent(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return row and column of the first and behind the last cell of the grid, cropped to `grid.max_cells`."""
        low = np.min([vote.cast.low for vote in self._votes.values()], axis=0)
        high = np.max([vote.cast.high for vote in self._votes.values()], axis=0)
        excess = np.maximum(high - low - self._config.max_cells, 0)
        return low + excess // 2, high - (excess - excess // 2)

    def _recount(self, low: NDArray[np.int64], high: NDArray[np.int64]) -> None:
        """Count all votes in the cells from row and column `low` up to `high`: by layer, and those for the floor."""
        rows, columns = (high - low).tolist()
        self._low = low
        self._layer_votes = np.zeros((layer_count(self._config), rows, columns), np.int32)
        self._floor_votes = np.zeros((rows, columns), np.int32)
        for vote in self._votes.values():
            self._add(vote.cast, 1)

    def _add(self, cast: RayCast, sign: int) -> None:
        """Add the votes of a ray cast in the counted area, or with sign -1 subtract them."""
        box, area = cast.shape, self._layer_votes.shape
        shift = cast.corner - self._low
        self._layer_votes.ravel()[_area_indices(area, cast.hit, box, shift)] += sign * _HIT_WEIGHT
        self._layer_votes.ravel()[_area_indices(area, cast.passed, box, shift)] -= sign * _MISS_WEIGHT
        self._floor_votes.ravel()[_area_indices((1, *area[1:]), cast.floor, (1, *box[1:]), shift)] += sign


def occupancy_grid(solution: Solution, map_world: Array, config: GridConfig,
                   keyframes: Mapping[int, MapKeyframe] | None = None) -> Grid:
    """Return the grid of a solution in the z-up frame `map`; `map_world` 4x4 is the pose of the solution's world.

    `keyframes` as in `Occupancy.update`.
    """
    occupancy = Occupancy(config)
    occupancy.update(solution, map_world, keyframes=keyframes)
    return occupancy.grid()


def _area_indices(
    area: tuple[int, ...], cells: Cells, box: tuple[int, ...], shift: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return flat indices into `area` of the cells of a box that begins at row and column `shift` of it."""
    layer, row, column = np.unravel_index(cells, box)
    row, column = row + shift[0], column + shift[1]
    inside = (row >= 0) & (row < area[1]) & (column >= 0) & (column < area[2])
    flat: NDArray[np.int64] = ((layer * area[1] + row) * area[2] + column)[inside]
    return flat
