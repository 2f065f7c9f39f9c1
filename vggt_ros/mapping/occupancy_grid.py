"""An occupancy grid of the map by ray casting: free where rays passed, occupied where they ended, else unknown.

Rays are cast in space, through a band of heights that is cut into layers, and every layer of a cell is voted on by
itself: a ray that looks over a table does not clear it. A cell is occupied if one of its layers is. It is free if
none is and it was seen down to its floor, by rays through its lowest layer or that end below it. All else is unknown.

Votes are sums, so a keyframe that moves takes its votes back and casts them anew, and the others are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import GridConfig
from vggt_ros.geometry.poses import Array, rotation_angle
from vggt_ros.mapping.ray_casting import Cast, Cells, cast, layers
from vggt_ros.windows.solution import MapKeyframe, Solution

UNKNOWN, FREE, OCCUPIED = -1, 0, 100
"""Values of nav_msgs/OccupancyGrid."""
_HIT, _MISS = 2, 1
"""What a keyframe that sees something in a layer of a cell, and one that looks through it, weigh in the vote."""
_STALE = 0.5
"""A keyframe is cast anew when its rays' ends may have moved by more than so many cells."""
_TILE = 64
"""The counted area grows by so many cells at a time."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Cells (h, w) int8 of edge `resolution`; `origin` (2,) is the map's x, y of the corner of cell [0, 0].

    Rows go along y, columns along x, as in nav_msgs/OccupancyGrid.
    """

    cells: NDArray[np.int8]
    origin: Array
    resolution: float


@dataclass(frozen=True, eq=False)
class _Vote:
    """What a keyframe has said, and from where."""

    kept: MapKeyframe
    map_camera: Array
    scale: float
    cast: Cast


class Occupancy:
    """The votes of all keyframes, kept up to date at the cost of what changed.

    At most `grid.max_cells` cells along a side are counted: a map that is larger is cut off around its middle.

    Attributes:
        casts: how often the rays of a keyframe were cast.

    """

    def __init__(self, config: GridConfig) -> None:
        """Begin with nothing seen."""
        self._config = config
        self._votes: dict[int, _Vote] = {}
        self._count(np.zeros(2, np.int64), np.zeros(2, np.int64))
        self.casts = 0

    def update(self, solution: Solution, map_world: Array, limit: int | None = None) -> int:
        """Take in a solution whose world is `map_world` 4x4 in the z-up `map`; return how many keyframes are left.

        At most `limit` keyframes are cast, those that are not in the grid yet before those that moved, which stay where
        they were until it is their turn.
        """
        poses = {keyframe: (map_world @ solution.map_camera[row], float(solution.scale[row]))
                 for row, keyframe in enumerate(solution.ids.tolist())}
        for keyframe in list(self._votes):
            if keyframe not in poses or self._votes[keyframe].kept is not solution.keyframes[keyframe]:
                self._add(self._votes.pop(keyframe).cast, -1)
        stale = [keyframe for keyframe, at in poses.items()
                 if keyframe not in self._votes or self._moved(self._votes[keyframe], *at) > _STALE]
        stale.sort(key=lambda keyframe: keyframe in self._votes)
        for keyframe in stale[:limit]:
            if keyframe in self._votes:
                self._add(self._votes.pop(keyframe).cast, -1)
            kept, (map_camera, scale) = solution.keyframes[keyframe], poses[keyframe]
            self._votes[keyframe] = _Vote(kept, map_camera, scale, cast(kept, map_camera, scale, self._config))
            self._add(self._votes[keyframe].cast, 1)
            self.casts += 1
        return len(stale[limit:]) if limit is not None else 0

    def grid(self) -> Grid:
        """Return the grid of what has been taken in; `Grid.origin` says where it begins."""
        if not self._votes:
            return Grid(np.zeros((0, 0), np.int8), np.zeros(2), self._config.resolution)
        low, high = self._extent()
        if (low < self._low).any() or (high > self._low + self._floor.shape).any():
            self._count(low // _TILE * _TILE, -(-high // _TILE) * _TILE)
        rows, columns = (slice(a, b) for a, b in zip(low - self._low, high - self._low, strict=True))
        result: NDArray[np.int8] = np.full((high - low).tolist(), UNKNOWN, np.int8)
        result[self._floor[rows, columns] > 0] = FREE
        result[(self._balance[:, rows, columns] > 0).any(0)] = OCCUPIED
        return Grid(result, low[::-1].astype(np.float64) * self._config.resolution, self._config.resolution)

    def _moved(self, vote: _Vote, map_camera: Array, scale: float) -> float:
        """Return how far the ends of a keyframe's rays may lie from where they were cast, in cells."""
        turn = rotation_angle(vote.map_camera[:3, :3].T @ map_camera[:3, :3]) + abs(np.log(scale / vote.scale))
        shift = np.linalg.norm(map_camera[:3, 3] - vote.map_camera[:3, 3])
        return float(shift + turn * self._config.max_range) / self._config.resolution

    def _extent(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return row and column of the first and behind the last cell of the grid, cut to `grid.max_cells`."""
        low = np.min([vote.cast.low for vote in self._votes.values()], axis=0)
        high = np.max([vote.cast.high for vote in self._votes.values()], axis=0)
        cut = np.maximum(high - low - self._config.max_cells, 0)
        return low + cut // 2, high - (cut - cut // 2)

    def _count(self, low: NDArray[np.int64], high: NDArray[np.int64]) -> None:
        """Count all votes in the cells from row and column `low` up to `high`: by layer, and those for the floor."""
        rows, columns = (high - low).tolist()
        self._low = low
        self._balance = np.zeros((layers(self._config), rows, columns), np.int32)
        self._floor = np.zeros((rows, columns), np.int32)
        for vote in self._votes.values():
            self._add(vote.cast, 1)

    def _add(self, votes: Cast, sign: int) -> None:
        """Add votes where they lie in what is counted, or with sign -1 take them back."""
        flat, area = votes.shape, self._balance.shape
        shift = votes.corner - self._low
        self._balance.ravel()[_moved_to(area, votes.hit, flat, shift)] += sign * _HIT
        self._balance.ravel()[_moved_to(area, votes.passed, flat, shift)] -= sign * _MISS
        self._floor.ravel()[_moved_to((1, *area[1:]), votes.floor, (1, *flat[1:]), shift)] += sign


def occupancy_grid(solution: Solution, map_world: Array, config: GridConfig) -> Grid:
    """Return the grid of a solution in the z-up frame `map`; `map_world` 4x4 is the solution's world there."""
    occupancy = Occupancy(config)
    occupancy.update(solution, map_world)
    return occupancy.grid()


def _moved_to(area: tuple[int, ...], cells: Cells, box: tuple[int, ...], shift: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return flat indices into `area` of the cells of a box that begins at row and column `shift` of it."""
    layer, row, column = np.unravel_index(cells, box)
    row, column = row + shift[0], column + shift[1]
    inside = (row >= 0) & (row < area[1]) & (column >= 0) & (column < area[2])
    flat: NDArray[np.int64] = ((layer * area[1] + row) * area[2] + column)[inside]
    return flat
