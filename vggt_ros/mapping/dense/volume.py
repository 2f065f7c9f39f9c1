"""A truncated signed distance function (TSDF) of the map, fused from the depth of all keyframes, in sparse blocks.

Curless and Levoy 1996. Every voxel near a surface holds the weighted mean of its distances to the surfaces that the
keyframes see along their axes. A voxel that a keyframe sees through gets a positive distance, so what only a few
keyframes have, such as flying pixels, is carved away by those that look through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import MapConfig
from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.geometry.poses import Array, inverse
from vggt_ros.mapping.dense.surface import SurfaceView
from vggt_ros.windows.solution import MapKeyframe

SIDE = 8
"""Voxels along an edge of a block."""
TRUNCATION = 4
"""Distance at which the function is truncated, in voxels."""
_MAX_BLOCKS = 40_000
"""Blocks of 512 voxels of 28 bytes, 570 MB; for more the voxels are doubled."""
OFFSETS = np.stack(np.meshgrid(*3 * [np.arange(SIDE)], indexing="ij"), -1).reshape(-1, 3)
"""Index of each voxel of a block (512, 3)."""
_NEAR = 0.3
"""Weights fall with the square of the depth, from this fraction of the median depth on."""
_CHUNK = 2000
"""Blocks that are updated at once."""


@dataclass(eq=False)
class Volume:
    """The function at the voxels of b blocks.

    Attributes:
        voxel: edge of a voxel, map units. The value at index i of an axis is that at the coordinate `i * voxel`.
        corners: int64 (b, 3), index of the first voxel of each block.
        distance: float32 (b, 512), in truncation distances, in [-1, 1]; positive in front of a surface.
        weight: float32 (b, 512), sum of the weights.
        color, color_weight: float32 (b, 512, 3), RGB, and (b, 512), by confident depth near the surface only.
        count: uint16 (b, 512), number of keyframes that saw the voxel.

    """

    voxel: float
    corners: NDArray[np.int64]
    distance: NDArray[np.float32]
    weight: NDArray[np.float32]
    color: NDArray[np.float32]
    color_weight: NDArray[np.float32]
    count: NDArray[np.uint16]


def fuse(views: Callable[[], Iterable[SurfaceView]], keyframes: Mapping[int, MapKeyframe], voxel: float,
         config: MapConfig) -> Volume:
    """Return the function of all views.

    Args:
        views: returns the views; it is called twice.
        keyframes: intrinsics and colors by the id of a view.
        voxel: edge of a voxel, map units; doubled while the map needs too many.
        config: which depth is used, see `MapConfig.min_confidence` and `max_depth`.

    """
    while len(corners := _blocks(views(), keyframes, voxel, config)) > _MAX_BLOCKS:
        voxel *= 2
    shape = (len(corners), SIDE**3)
    volume = Volume(voxel, corners, np.zeros(shape, np.float32), np.zeros(shape, np.float32),
                    np.zeros((*shape, 3), np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.uint16))
    for view in views():
        _integrate(volume, view, keyframes[view.keyframe], config)
    return volume


def _usable(view: SurfaceView, config: MapConfig) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the depth (h, w) of a view that is used, 0 elsewhere, and where it makes a surface (h, w).

    Depth of low confidence makes none, but has its small weight in those that confident depth makes.
    """
    known = (view.depth > 0) & (view.confidence > 0)
    confident = known & (view.confidence >= config.min_confidence)
    if confident.any():
        known &= view.depth < config.max_depth * np.median(view.depth[confident])
    return np.where(known, view.depth, np.float32(0)), known & confident


def _blocks(views: Iterable[SurfaceView], keyframes: Mapping[int, MapKeyframe], voxel: float,
            config: MapConfig) -> NDArray[np.int64]:
    """Return the first voxels (b, 3) of the blocks that a surface of a view passes at less than the truncation."""
    found: list[NDArray[np.int64]] = []
    for view in views:
        depth, confident = _usable(view, config)
        rows, columns = np.nonzero(confident)
        rays = pixel_rays(keyframes[view.keyframe].intrinsics, columns, rows)
        near = [np.maximum(depth[rows, columns] + shift * TRUNCATION * voxel, 0) for shift in (-1, 0, 1)]
        points = np.concatenate([rays * values[:, None] for values in near])
        points = points @ view.map_camera[:3, :3].T + view.map_camera[:3, 3]
        cells = np.clip(np.floor(points / (SIDE * voxel)), -(2**20), 2**20 - 1).astype(np.int64) + 2**20
        found.append(np.unique((cells[:, 0] << 42) | (cells[:, 1] << 21) | cells[:, 2]))
    keys = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
    cells = np.stack([keys >> 42, keys >> 21 & (2**21 - 1), keys & (2**21 - 1)], axis=1) - 2**20
    return np.asarray(SIDE * cells, np.int64)


def _integrate(volume: Volume, view: SurfaceView, keyframe: MapKeyframe, config: MapConfig) -> None:
    """Add a view to the voxels that it sees: in front of a surface, and behind it up to the truncation."""
    depth, confident = _usable(view, config)
    if not depth.any():
        return
    camera_map, truncation = inverse(view.map_camera), TRUNCATION * volume.voxel
    centers = _to_camera((volume.corners + SIDE / 2) * volume.voxel, camera_map)
    reach = SIDE * volume.voxel  # more than from the center of a block to its corners
    pixels = _project(centers, keyframe.intrinsics)
    margin = reach * keyframe.intrinsics[0, 0] / np.maximum(centers[:, 2] - reach, 1e-6)
    height, width = depth.shape
    seen = (centers[:, 2] > -reach) & (centers[:, 2] < depth.max() + truncation + reach) & (
        (centers[:, 2] < 2 * reach) | ((pixels[:, 0] > -margin) & (pixels[:, 0] < width + margin)
                                       & (pixels[:, 1] > -margin) & (pixels[:, 1] < height + margin)))
    chosen = np.flatnonzero(seen)
    for begin in range(0, len(chosen), _CHUNK):
        _integrate_blocks(volume, chosen[begin:begin + _CHUNK], depth, confident, view, keyframe, camera_map)


def _integrate_blocks(volume: Volume, blocks: NDArray[np.int64], depth: NDArray[np.float32],
                      confident: NDArray[np.bool_], view: SurfaceView, keyframe: MapKeyframe,
                      camera_map: Array) -> None:
    height, width = depth.shape
    voxels = (volume.corners[blocks][:, None] + OFFSETS).reshape(-1, 3) * volume.voxel
    points = _to_camera(voxels, camera_map)
    columns, rows = np.rint(_project(points, keyframe.intrinsics)).astype(np.int64).T
    inside = (points[:, 2] > 0) & (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    index = np.flatnonzero(inside)
    rows, columns, z = rows[index], columns[index], points[index, 2]
    there = depth[rows, columns]
    distance = (there - z) / np.float32(TRUNCATION * volume.voxel)
    used = (there > 0) & (distance > -1)
    index, rows, columns, distance, z = index[used], rows[used], columns[used], distance[used], z[used]
    block, voxel = blocks[index // SIDE**3], index % SIDE**3
    # Of the place of the voxel, not of what is behind it: who sees through it counts as much as who sees it.
    weight = view.confidence[rows, columns] / np.maximum(z, _NEAR * np.median(there)) ** 2
    old = volume.weight[block, voxel]
    total = old + weight
    volume.distance[block, voxel] = (old * volume.distance[block, voxel] + weight * np.minimum(distance, 1)) / total
    volume.weight[block, voxel] = total
    volume.count[block, voxel] += 1
    near = (np.abs(distance) < 1) & confident[rows, columns]
    block, voxel, weight = block[near], voxel[near], weight[near]
    total = volume.color_weight[block, voxel] + weight
    step = (weight / total)[:, None]
    volume.color[block, voxel] += step * (np.asarray(keyframe.color)[rows[near], columns[near]]
                                          - volume.color[block, voxel])
    volume.color_weight[block, voxel] = total


def _to_camera(points: NDArray[np.floating], camera_map: Array) -> NDArray[np.float32]:
    return np.asarray(points @ camera_map[:3, :3].T + camera_map[:3, 3], np.float32)


def _project(points: NDArray[np.float32], intrinsics: Array) -> NDArray[np.float32]:
    """Return the pixels (n, 2) of points in a camera (n, 3); of those behind it, some pixel outside of the image."""
    z = np.where(points[:, 2] > 1e-6, points[:, 2], np.float32(1e-6))
    return np.clip(points[:, :2] / z[:, None] * np.diag(intrinsics)[:2].astype(np.float32)
                   + intrinsics[:2, 2].astype(np.float32), -1e6, 1e6)
