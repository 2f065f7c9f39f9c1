"""The point map: points kept in their keyframes, bounded by voxels, moving with the graph.

A point is kept if no other point lies in its voxel of the map. It is stored in its keyframe's camera frame and in units
of that keyframe's window, so that a correction of the graph moves the map without rewriting it; only when keyframes
have moved by more than a voxel is it chosen anew which points to keep.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import MapConfig
from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.geometry.poses import Array
from vggt_ros.threads import yield_to_tracking
from vggt_ros.windows.solution import MapKeyframe, PointCloud, Solution


@dataclass(eq=False)
class _Points:
    """The points of one keyframe, their median depth in the map, and where it was when they were chosen."""

    cloud: PointCloud
    map_camera: Array
    scale: float
    depth: float


class PointMap:
    """All points of the map, one a voxel."""

    def __init__(self, config: MapConfig) -> None:
        """Keep points as `config` says."""
        self._config = config
        self.clear()

    def clear(self) -> None:
        """Forget all points."""
        self._keyframes: dict[int, _Points] = {}
        self._occupied = np.zeros(0, np.int64)  # sorted keys of the voxels that have their point
        self._voxel = self._config.voxel

    def __len__(self) -> int:
        """Return the number of points."""
        return sum(len(points.cloud) for points in self._keyframes.values())

    def update(self, solution: Solution) -> None:
        """Take in the keyframes that are new in `solution`, and choose anew if the known ones have moved."""
        rows = dict(zip(solution.ids.tolist(), range(len(solution)), strict=True))
        for keyframe in self._keyframes.keys() - rows.keys():
            self._remove(keyframe)
        if any(self._moved(points, solution, rows[k]) for k, points in self._keyframes.items()):
            self._rebuild(solution)
        for keyframe in solution.ids.tolist():
            if keyframe not in self._keyframes:
                self._insert(keyframe, solution, rows[keyframe])
        while len(self._occupied) > self._config.max_points:
            self._voxel *= 2
            self._rebuild(solution)

    def cloud(self, solution: Solution) -> PointCloud:
        """Return all points in the map's frame."""
        if not any(solution.index(keyframe) is not None for keyframe in self._keyframes):
            return PointCloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), np.zeros(0, np.float32))
        rows = dict(zip(solution.ids.tolist(), range(len(solution)), strict=True))
        present = [(rows[k], points.cloud) for k, points in self._keyframes.items() if k in rows]
        return PointCloud(
            np.concatenate([_place(c.points, solution.map_camera[r], float(solution.scale[r])) for r, c in present]),
            np.concatenate([cloud.colors for _, cloud in present]),
            np.concatenate([cloud.confidence for _, cloud in present]))

    def redundant(self, count: int, before: int) -> list[int]:
        """Return the `count` keyframes with ids below `before` that hold the fewest points of the map."""
        older = [keyframe for keyframe in self._keyframes if keyframe < before]
        return sorted(older, key=lambda keyframe: (len(self._keyframes[keyframe].cloud), keyframe))[: max(0, count)]

    def _remove(self, keyframe: int) -> None:
        """Drop a keyframe's points and free their voxels."""
        points = self._keyframes.pop(keyframe)
        keys = _voxel_keys(_place(points.cloud.points, points.map_camera, points.scale), self._voxel)
        self._occupied = np.setdiff1d(self._occupied, keys, assume_unique=True)

    def _rebuild(self, solution: Solution) -> None:
        self._keyframes, self._occupied = {}, np.zeros(0, np.int64)
        for row, keyframe in enumerate(solution.ids.tolist()):
            self._insert(keyframe, solution, row)

    def _insert(self, keyframe: int, solution: Solution, row: int) -> None:
        """Keep the keyframe's points that fall into voxels without a point, the more confident first."""
        yield_to_tracking()
        cloud = unproject(solution.keyframes[keyframe], self._config)
        # A copy: a view would keep the poses of all keyframes of this solution for as long as this one is kept.
        camera, scale = solution.map_camera[row].copy(), float(solution.scale[row])
        keys = _voxel_keys(_place(cloud.points, camera, scale), self._voxel)
        order = np.argsort(-cloud.confidence, kind="stable")
        keys, first = np.unique(keys[order], return_index=True)
        places = np.searchsorted(self._occupied, keys)
        free = np.ones(len(keys), bool)
        inside = places < len(self._occupied)
        free[inside] = self._occupied[places[inside]] != keys[inside]
        self._occupied = np.insert(self._occupied, places[free], keys[free])
        chosen = np.sort(order[first[free]])
        chosen_cloud = PointCloud(cloud.points[chosen], cloud.colors[chosen], cloud.confidence[chosen])
        depth = float(np.median(chosen_cloud.points[:, 2])) * scale if len(chosen) else 0.0
        self._keyframes[keyframe] = _Points(chosen_cloud, camera, scale, depth)

    def _moved(self, points: _Points, solution: Solution, row: int) -> bool:
        """Return True if the keyframe's points are no longer where they were chosen, by more than a voxel."""
        if not len(points.cloud):
            return False
        camera = solution.map_camera[row]
        shift = np.linalg.norm(camera[:3, 3] - points.map_camera[:3, 3])
        turn = np.linalg.norm(camera[:3, :3] - points.map_camera[:3, :3]) / np.sqrt(2)
        stretch = abs(solution.scale[row] / points.scale - 1)
        return bool(shift + (turn + stretch) * points.depth > self._voxel)


def unproject(kept: MapKeyframe, config: MapConfig) -> PointCloud:
    """Return a keyframe's points in its camera frame and its window's units, without the doubtful and far ones."""
    depth = kept.depth.astype(np.float32)
    known = depth > 0
    if known.any():
        known &= depth < config.max_depth * np.median(depth[known])
    known &= kept.confidence >= 255 * config.min_confidence
    rows, columns = np.nonzero(known)
    rays = pixel_rays(kept.intrinsics, columns, rows)
    return PointCloud((rays * depth[known][:, None]).astype(np.float32), kept.color[known],
                      kept.confidence[known].astype(np.float32) / np.float32(255))


def _place(points: NDArray[np.float32], map_camera: Array, scale: float) -> NDArray[np.float32]:
    """Return camera points (n, 3) in the map."""
    return np.asarray((scale * points) @ map_camera[:3, :3].T + map_camera[:3, 3], np.float32)


def _voxel_keys(points: NDArray[np.float32], voxel: float) -> NDArray[np.int64]:
    """Return one integer a point (n, 3), equal for points of one voxel; 21 bits an axis."""
    cells = np.clip(np.floor(points / voxel), -(2**20), 2**20 - 1).astype(np.int64) + 2**20
    return np.asarray((cells[:, 0] << 42) | (cells[:, 1] << 21) | cells[:, 2], np.int64)
