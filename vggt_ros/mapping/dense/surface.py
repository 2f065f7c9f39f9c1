"""The surface of the map: points with normals, stored in their keyframes, that move with the pose graph.

The points are those of the keyframes' fused depth (`fused_keyframes`). A point is kept if no better point is in its
voxel of the map. It is stored in its keyframe's camera frame and in units of that keyframe's window, so that a
correction of the graph moves the map without rewriting it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import MapConfig
from vggt_ros.geometry.poses import Array
from vggt_ros.mapping.dense.fused_keyframes import FusedKeyframes
from vggt_ros.threads import yield_to_tracking
from vggt_ros.windows.point_cloud import PointCloud
from vggt_ros.windows.solution import MapKeyframe, Solution

_MAX_FUSED_AGAIN = 2
"""Keyframes whose depth is fused again in one update, besides the new ones, about 10 ms each."""
_BATCH = 16
"""Keyframes whose points are added at once."""
_NORMAL_PATCH, _FEWEST_SLOPES = 5, 3
"""Edge of the patches, pixels, by which normals are computed, and the fewest slopes that are known there."""
_STEEP = 0.1
"""Larger relative changes of depth over two pixels are edges."""


@dataclass(frozen=True, eq=False)
class SurfaceView:
    """The surface as one keyframe sees it, for meshes, grids and pictures.

    Attributes:
        keyframe: id of the keyframe; its intrinsics, size (h, w) and colors are those of `solution.keyframes`.
        map_camera: pose 4x4.
        depth: fused depth, float32 (h, w), map units along the optical axis, NaN where unknown.
        confidence: rank in [0, 1], float32 (h, w), 0 where depth is unknown.

    """

    keyframe: int
    map_camera: Array
    depth: NDArray[np.float32]
    confidence: NDArray[np.float32]


@dataclass(frozen=True)
class SurfaceChanges:
    """What changed between two versions of a surface.

    Attributes:
        version: the newer version.
        updated: keyframes whose points were added or replaced, or moved by more than half a voxel.
        removed: keyframes that have no points any more.

    """

    version: int
    updated: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()


@dataclass(eq=False)
class _KeyframePoints:
    """The points of one keyframe, its pose and scale when they were chosen, and their median depth in map units.

    `changed` is the version of the surface in which they changed or moved last.
    """

    cloud: PointCloud
    map_camera: Array
    scale: float
    depth: float
    changed: int


class Surface:
    """All points of the map. Every method is to be called on the thread that owns the map.

    Attributes:
        version: rises whenever points are added, removed or moved.

    """

    def __init__(self, config: MapConfig) -> None:
        """Keep points with the settings of `config`."""
        self._config = config
        self.version = 0
        self.clear()

    def clear(self) -> None:
        """Remove all points."""
        self.version += 1
        self._depths = FusedKeyframes()
        self._keyframes: dict[int, _KeyframePoints] = {}
        self._removed: dict[int, int] = {}  # keyframe without points any more to the version since which
        self._occupied = np.zeros(0, np.int64)  # sorted keys of the voxels that have their point
        self.voxel = self._config.voxel

    def __len__(self) -> int:
        """Return the number of points."""
        return sum(len(points.cloud) for points in self._keyframes.values())

    def update(self, solution: Solution, complete: bool = False) -> None:
        """Add the keyframes that are new in `solution`, and choose the points of those again that changed.

        Depth is fused again where poses relative to its neighbors changed, or there are new neighbors: of a few
        keyframes in each update, or of all with `complete`.
        """
        self.version += 1
        present = set(solution.ids.tolist())
        gone = self._keyframes.keys() - present
        self._free(gone)
        for keyframe in gone:
            self._removed[keyframe] = self.version
        changed = self._depths.update(solution, None if complete else _MAX_FUSED_AGAIN)
        rows = dict(zip(solution.ids.tolist(), range(len(solution)), strict=True))
        changed |= {k for k, points in self._keyframes.items() if self._has_moved(points, solution, rows[k])}
        stale = changed & self._keyframes.keys()
        if 2 * len(stale) > len(self._keyframes):
            self._rebuild(solution)
        else:
            self._free(stale)
            self._insert(present - self._keyframes.keys(), solution)
        while len(self._occupied) > self._config.max_points:
            self.voxel *= 2
            self._rebuild(solution)

    def cloud(self, solution: Solution) -> PointCloud:
        """Return all points in the map's frame, by the poses of `solution`."""
        return PointCloud.concatenate([self.keyframe_cloud(k, solution) for k in self.keyframes
                                       if solution.index(k) is not None])

    @property
    def keyframes(self) -> list[int]:
        """The keyframes that have points, in ascending order."""
        return sorted(self._keyframes)

    def keyframe_cloud(self, keyframe: int, solution: Solution) -> PointCloud:
        """Return the points that are stored in one of `keyframes`, in the map's frame, by the poses of `solution`."""
        row = solution.row(keyframe)
        return self._keyframes[keyframe].cloud.transformed(solution.map_camera[row], float(solution.scale[row]))

    def changes(self, since: int = 0) -> SurfaceChanges:
        """Return what changed after the version `since`."""
        return SurfaceChanges(self.version,
                              tuple(k for k in self.keyframes if self._keyframes[k].changed > since),
                              tuple(sorted(k for k, version in self._removed.items() if version > since)))

    def views(self, solution: Solution) -> Iterator[SurfaceView]:
        """Yield the fused depth of all keyframes, by the poses of `solution`."""
        for row, keyframe in enumerate(solution.ids.tolist()):
            fused = self._depths[keyframe]
            yield SurfaceView(keyframe, solution.map_camera[row],
                              fused.depth.astype(np.float32) * np.float32(solution.scale[row]),
                              fused.confidence.astype(np.float32) / np.float32(255))

    def fused(self, solution: Solution) -> Mapping[int, MapKeyframe]:
        """Return the keyframes of `solution` with fused depth, for the grid; the same objects while it is the same."""
        return {keyframe: self._depths[keyframe] for keyframe in solution.ids.tolist()}

    def redundant(self, count: int, before: int) -> list[int]:
        """Return the `count` keyframes with ids below `before` that have the fewest points of the map."""
        older = [keyframe for keyframe in self._keyframes if keyframe < before]
        return sorted(older, key=lambda keyframe: (len(self._keyframes[keyframe].cloud), keyframe))[: max(0, count)]

    def _free(self, keyframes: Iterable[int]) -> None:
        """Remove the points of keyframes and free their voxels."""
        keys = []
        for keyframe in keyframes:
            points = self._keyframes.pop(keyframe)
            keys.append(_voxel_keys(points.cloud.transformed(points.map_camera, points.scale).points, self.voxel))
        if keys:
            places = np.searchsorted(self._occupied, np.concatenate(keys))
            self._occupied = np.delete(self._occupied, places)

    def _rebuild(self, solution: Solution) -> None:
        self._keyframes, self._occupied = {}, np.zeros(0, np.int64)
        self._insert(solution.ids.tolist(), solution)

    def _insert(self, keyframes: Iterable[int], solution: Solution) -> None:
        """Keep the keyframes' points in voxels without a point, the more confident first."""
        ordered = sorted(keyframes)
        for begin in range(0, len(ordered), _BATCH):
            self._insert_batch(ordered[begin:begin + _BATCH], solution)

    def _insert_batch(self, keyframes: list[int], solution: Solution) -> None:
        placed: list[tuple[PointCloud, Array, float]] = []
        keys = []
        for keyframe in keyframes:
            yield_to_tracking()
            row = solution.row(keyframe)
            cloud = unproject(self._depths[keyframe], self._config)
            # A copy: a view would keep the poses of all keyframes of this solution in memory as long as this keyframe.
            camera, scale = solution.map_camera[row].copy(), float(solution.scale[row])
            keys.append(_voxel_keys(cloud.transformed(camera, scale).points, self.voxel))
            placed.append((cloud, camera, scale))
        all_keys = np.concatenate(keys)
        ranks = np.rint(255 * (1 - np.concatenate([cloud.confidence for cloud, _, _ in placed]))).astype(np.uint8)
        order = np.argsort(ranks, kind="stable")  # of bytes: much faster than of floats
        unique, first = np.unique(all_keys[order], return_index=True)
        positions = np.searchsorted(self._occupied, unique)
        free = np.ones(len(unique), bool)
        inside = positions < len(self._occupied)
        free[inside] = self._occupied[positions[inside]] != unique[inside]
        self._occupied = np.insert(self._occupied, positions[free], unique[free])
        chosen = np.sort(order[first[free]])
        ends = np.cumsum([len(one) for one in keys])
        for keyframe, (cloud, camera, scale), end in zip(keyframes, placed, ends.tolist(), strict=True):
            begin = end - len(cloud)
            kept = cloud[chosen[np.searchsorted(chosen, begin):np.searchsorted(chosen, end)] - begin]
            depth = float(np.median(kept.points[:, 2])) * scale if len(kept) else 0.0
            self._keyframes[keyframe] = _KeyframePoints(kept, camera, scale, depth, self.version)

    def _has_moved(self, points: _KeyframePoints, solution: Solution, row: int) -> bool:
        """Return whether a keyframe's points have moved by more than half a voxel since they were chosen."""
        if not len(points.cloud):
            return False
        camera = solution.map_camera[row]
        shift = np.linalg.norm(camera[:3, 3] - points.map_camera[:3, 3])
        turn = np.linalg.norm(camera[:3, :3] - points.map_camera[:3, :3]) / np.sqrt(2)
        stretch = abs(solution.scale[row] / points.scale - 1)
        return bool(shift + (turn + stretch) * points.depth > 0.5 * self.voxel)


def unproject(keyframe: MapKeyframe, config: MapConfig) -> PointCloud:
    """Return a keyframe's points in its camera frame and its window's units, without far and low-confidence ones."""
    depth = keyframe.depth.astype(np.float32)
    known = depth > 0
    if known.any():
        known &= depth < config.max_depth * np.median(depth[known])
    known &= keyframe.confidence >= 255 * config.min_confidence
    points = _camera_points(depth, keyframe.intrinsics)
    return PointCloud(np.stack([axis[known] for axis in points], axis=1), np.asarray(keyframe.color)[known],
                      keyframe.confidence[known].astype(np.float32) / np.float32(255),
                      depth_normals(depth, keyframe.intrinsics, known))


def keyframe_cloud(solution: Solution, keyframe: int, config: MapConfig) -> PointCloud:
    """Return a solved keyframe's points, in its camera frame and in map units."""
    row = solution.row(keyframe)
    cloud = unproject(solution.keyframes[keyframe], config)
    return cloud.transformed(np.eye(4), float(solution.scale[row]))


def depth_normals(depth: NDArray[np.float32], intrinsics: Array, wanted: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the normals (n, 3) of a depth map (h, w) at the n pixels `wanted`, toward the camera; zero where unknown.

    The inverse depth of a plane is linear in the image. Its gradient is the mean of those around a pixel, without those
    across edges and unknown depth, so that the noise of the depth of single pixels does not matter.
    """
    known = depth > 0
    inverse_depth = np.where(known, 1 / np.where(known, depth, np.float32(1)), np.float32(0))
    slopes = []
    for axis, focal in ((1, intrinsics[0, 0]), (0, intrinsics[1, 1])):
        after = inverse_depth[:, 2:] if axis else inverse_depth[2:]
        before = inverse_depth[:, :-2] if axis else inverse_depth[:-2]
        rise = after - before
        valid = (np.abs(rise) < np.float32(_STEEP) * (after + before)).astype(np.float32)
        valid *= (after > 0) & (before > 0)
        rise *= valid
        count, total = (cv2.boxFilter(
            cv2.copyMakeBorder(values, 1 - axis, 1 - axis, axis, axis, cv2.BORDER_CONSTANT), -1,
            (_NORMAL_PATCH, _NORMAL_PATCH), borderType=cv2.BORDER_CONSTANT)[wanted] for values in (valid, rise))
        slopes.append(np.where(count > _FEWEST_SLOPES / _NORMAL_PATCH**2,
                               total / np.maximum(2 * count, np.float32(1e-6)), np.float32(np.nan)) * np.float32(focal))
    rows, columns = np.nonzero(wanted)
    x = (columns.astype(np.float32) - np.float32(intrinsics[0, 2])) / np.float32(intrinsics[0, 0])
    y = (rows.astype(np.float32) - np.float32(intrinsics[1, 2])) / np.float32(intrinsics[1, 1])
    along_x, along_y = slopes
    ahead = inverse_depth[wanted] - along_x * x - along_y * y
    length = np.sqrt(along_x**2 + along_y**2 + ahead**2)
    normals = np.stack([along_x, along_y, ahead], axis=1) / -np.maximum(length, np.float32(1e-12))[:, None]
    normals[~np.isfinite(length)] = 0
    return np.asarray(normals, np.float32)


def _camera_points(depth: NDArray[np.float32], intrinsics: Array) -> tuple[NDArray[np.float32], ...]:
    """Return x, y and z (h, w each), in the camera's frame, of the pixels of a depth map (h, w)."""
    height, width = depth.shape
    x = (np.arange(width, dtype=np.float32) - np.float32(intrinsics[0, 2])) / np.float32(intrinsics[0, 0])
    y = (np.arange(height, dtype=np.float32) - np.float32(intrinsics[1, 2])) / np.float32(intrinsics[1, 1])
    return x * depth, y[:, None] * depth, depth


def _voxel_keys(points: NDArray[np.float32], voxel: float) -> NDArray[np.int64]:
    """Return one integer per point (n, 3), equal for points of one voxel; 21 bits per axis."""
    cells = np.clip(np.floor(points / voxel), -(2**20), 2**20 - 1).astype(np.int64) + 2**20
    return np.asarray((cells[:, 0] << 42) | (cells[:, 1] << 21) | cells[:, 2], np.int64)
