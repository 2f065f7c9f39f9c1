"""The point map: points stored in their keyframes, one per voxel, that move with the pose graph.

A point is kept if no other point is in its voxel of the map. It is stored in its keyframe's camera frame and in units
of that keyframe's window, so that a correction of the graph moves the map without rewriting it. Only when keyframes
have moved by more than a voxel, the points to keep are chosen again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import MapConfig
from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.geometry.poses import Array
from vggt_ros.threads import yield_to_tracking
from vggt_ros.windows.solution import MapKeyframe, PointCloud, Solution


@dataclass(eq=False)
class _KeyframePoints:
    """The points of one keyframe, its pose and scale when they were chosen, and their median depth in map units."""

    cloud: PointCloud
    map_camera: Array
    scale: float
    depth: float


class PointMap:
    """All points of the map, one per voxel."""

    def __init__(self, config: MapConfig) -> None:
        """Keep points with the settings of `config`."""
        self._config = config
        self.clear()

    def clear(self) -> None:
        """Remove all points."""
        self._keyframes: dict[int, _KeyframePoints] = {}
        self._occupied = np.zeros(0, np.int64)  # sorted keys of the voxels that have their point
        self._voxel = self._config.voxel

    def __len__(self) -> int:
        """Return the number of points."""
        return sum(len(points.cloud) for points in self._keyframes.values())

    def update(self, solution: Solution) -> None:
        """Add the keyframes that are new in `solution`, and choose all points again if the known ones have moved."""
        rows = dict(zip(solution.ids.tolist(), range(len(solution)), strict=True))
        for keyframe in self._keyframes.keys() - rows.keys():
            self._remove(keyframe)
        if any(self._has_moved(points, solution, rows[k]) for k, points in self._keyframes.items()):
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
            np.concatenate([_to_map(c.points, solution.map_camera[r], float(solution.scale[r])) for r, c in present]),
            np.concatenate([cloud.colors for _, cloud in present]),
            np.concatenate([cloud.confidence for _, cloud in present]))

    def redundant(self, count: int, before: int) -> list[int]:
        """Return the `count` keyframes with ids below `before` that have the fewest points of the map."""
        older = [keyframe for keyframe in self._keyframes if keyframe < before]
        return sorted(older, key=lambda keyframe: (len(self._keyframes[keyframe].cloud), keyframe))[: max(0, count)]

    def _remove(self, keyframe: int) -> None:
        """Remove a keyframe's points and free their voxels."""
        points = self._keyframes.pop(keyframe)
        keys = _voxel_keys(_to_map(points.cloud.points, points.map_camera, points.scale), self._voxel)
        self._occupied = np.setdiff1d(self._occupied, keys, assume_unique=True)

    def _rebuild(self, solution: Solution) -> None:
        self._keyframes, self._occupied = {}, np.zeros(0, np.int64)
        for row, keyframe in enumerate(solution.ids.tolist()):
            self._insert(keyframe, solution, row)

    def _insert(self, keyframe: int, solution: Solution, row: int) -> None:
        """Keep the keyframe's points in voxels without a point, the more confident first."""
        yield_to_tracking()
        cloud = unproject(solution.keyframes[keyframe], self._config)
        # A copy: a view would keep the poses of all keyframes of this solution in memory as long as this keyframe.
        camera, scale = solution.map_camera[row].copy(), float(solution.scale[row])
        keys = _voxel_keys(_to_map(cloud.points, camera, scale), self._voxel)
        order = np.argsort(-cloud.confidence, kind="stable")
        keys, first = np.unique(keys[order], return_index=True)
        positions = np.searchsorted(self._occupied, keys)
        free = np.ones(len(keys), bool)
        inside = positions < len(self._occupied)
        free[inside] = self._occupied[positions[inside]] != keys[inside]
        self._occupied = np.insert(self._occupied, positions[free], keys[free])
        chosen = np.sort(order[first[free]])
        chosen_cloud = PointCloud(cloud.points[chosen], cloud.colors[chosen], cloud.confidence[chosen])
        depth = float(np.median(chosen_cloud.points[:, 2])) * scale if len(chosen) else 0.0
        self._keyframes[keyframe] = _KeyframePoints(chosen_cloud, camera, scale, depth)

    def _has_moved(self, points: _KeyframePoints, solution: Solution, row: int) -> bool:
        """Return whether a keyframe's points have moved by more than a voxel since they were chosen."""
        if not len(points.cloud):
            return False
        camera = solution.map_camera[row]
        shift = np.linalg.norm(camera[:3, 3] - points.map_camera[:3, 3])
        turn = np.linalg.norm(camera[:3, :3] - points.map_camera[:3, :3]) / np.sqrt(2)
        stretch = abs(solution.scale[row] / points.scale - 1)
        return bool(shift + (turn + stretch) * points.depth > self._voxel)


def unproject(keyframe: MapKeyframe, config: MapConfig) -> PointCloud:
    """Return a keyframe's points in its camera frame and its window's units, without far and low-confidence ones."""
    depth = keyframe.depth.astype(np.float32)
    known = depth > 0
    if known.any():
        known &= depth < config.max_depth * np.median(depth[known])
    known &= keyframe.confidence >= 255 * config.min_confidence
    rows, columns = np.nonzero(known)
    rays = pixel_rays(keyframe.intrinsics, columns, rows)
    return PointCloud((rays * depth[known][:, None]).astype(np.float32), keyframe.color[known],
                      keyframe.confidence[known].astype(np.float32) / np.float32(255))


def _to_map(points: NDArray[np.float32], map_camera: Array, scale: float) -> NDArray[np.float32]:
    """Return points (n, 3) of a camera in the map's frame and units."""
    return np.asarray((scale * points) @ map_camera[:3, :3].T + map_camera[:3, 3], np.float32)


def _voxel_keys(points: NDArray[np.float32], voxel: float) -> NDArray[np.int64]:
    """Return one integer per point (n, 3), equal for points of one voxel; 21 bits per axis."""
    cells = np.clip(np.floor(points / voxel), -(2**20), 2**20 - 1).astype(np.int64) + 2**20
    return np.asarray((cells[:, 0] << 42) | (cells[:, 1] << 21) | cells[:, 2], np.int64)


def keyframe_cloud(solution: Solution, keyframe: int, config: MapConfig) -> PointCloud:
    """Return a solved keyframe's points, in its camera frame and in map units."""
    row = solution.index(keyframe)
    assert row is not None, f"keyframe {keyframe} is not solved"
    cloud = unproject(solution.keyframes[keyframe], config)
    return replace(cloud, points=cloud.points * np.float32(solution.scale[row]))
