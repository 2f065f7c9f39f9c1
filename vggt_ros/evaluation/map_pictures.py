"""Pictures of a dense map, shaded by its normals: as the camera saw it, and from above with a scale bar."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.evaluation.pictures import OURS
from vggt_ros.evaluation.splatting import Splats, blend
from vggt_ros.geometry.poses import Array
from vggt_ros.storage.files import write_picture
from vggt_ros.windows.point_cloud import PointCloud

BACKGROUND = (30, 32, 38)
_SIZE = 1280, 800
"""Width and height of the pictures."""
_SPACING = 0.02
"""Typical distance of neighboring points, map units, as `map.voxel`."""
_FOV = 75.0
"""Horizontal field of view of the picture as the camera saw it, degrees: a little more than most cameras have."""
_MIN_NEIGHBORS = 6
"""Points with fewer others around them, within about five spacings, are left out: single points look like spikes."""
_AMBIENT = 0.5
"""Brightness of a surface that no light falls on."""
_LIGHT = np.array([-0.35, -0.5, -0.79], np.float32)
"""Direction of the light in the view: from above the viewer's left shoulder."""
_RADIUS, _THICKNESS = 1.3, 3.0
"""Radius of a point, and thickness of a surface, in spacings."""
_SAMPLE = 20_000
"""Points by which viewpoints are chosen."""


def draw_map(path: Path, cloud: PointCloud, map_camera: Array, spacing: float = _SPACING) -> None:
    """Write a picture of the map in perspective, from the keyframe that sees most of it.

    Args:
        path: of the PNG file.
        cloud: of the map, rather `without_single_points`, which look like spikes.
        map_camera: camera poses (n, 4, 4), in the order of time; at least one.
        spacing: typical distance of neighboring points, map units.

    """
    width, height = _SIZE
    focal = width / 2 / np.tan(np.radians(_FOV) / 2)
    camera = _best_camera(cloud, map_camera, focal, width, height)
    view = (cloud.points - camera[:3, 3]) @ camera[:3, :3]
    scale = focal / np.maximum(view[:, 2], 1e-6)
    pixels = view[:, :2] * scale[:, None] + np.array([width, height]) / 2
    toward = -np.einsum("ij,ij->i", view, cloud.normals @ camera[:3, :3])
    splats = _splats(cloud, camera[:3, :3].T, pixels, view[:, 2], _RADIUS * spacing * scale)
    write_picture(path, _render(splats[toward >= 0], spacing))


def draw_map_from_above(path: Path, cloud: PointCloud, map_camera: Array, spacing: float = _SPACING,
                        unit: str = "m") -> None:
    """Write an orthographic picture of the map from above, without ceilings, with the trajectory and a scale bar.

    Up is up in most images. Arguments as in `draw_map`; `unit` is the name of the map's unit.
    """
    view_map = _view_from_above(map_camera)
    centers = map_camera[:, :3, 3] @ view_map.T
    view = cloud.points @ view_map.T
    if len(view):  # nothing that is higher above the cameras than they are above the floor
        floor, eye = np.percentile(view[:, 2], 95), np.median(centers[:, 2])
        kept = view[:, 2] > np.percentile(centers[:, 2], 10) - 0.35 * max(floor - eye, 0.0)
        cloud, view = cloud[kept], view[kept]
    shown = np.concatenate([np.percentile(view[:, :2], [2, 98], axis=0) if len(view) else np.zeros((0, 2)),
                            centers[:, :2]])
    low, high = shown.min(0), shown.max(0)
    width, height = _SIZE
    per_unit = float(0.9 * np.min([width, height] / np.maximum(high - low, 10 * spacing)))

    def project(points: NDArray[np.floating]) -> NDArray[np.float32]:
        flat = (points[:, :2] - (low + high) / 2) * per_unit + np.array([width, height]) / 2
        return np.asarray(flat, np.float32)

    distance = view[:, 2] - view[:, 2].min(initial=0) + spacing
    splats = _splats(cloud, view_map, project(view), distance, np.full(len(view), _RADIUS * per_unit * spacing))
    picture = _render(splats[cloud.normals @ view_map[2] <= 0], spacing)
    line = np.rint(project(centers) * 8).astype(np.int32).reshape(-1, 1, 2)
    for color, thickness in (((255, 255, 255), 5), (OURS, 3)):
        cv2.polylines(picture, [line], False, color, thickness, cv2.LINE_AA, shift=3)
    _draw_scale_bar(picture, per_unit, unit)
    write_picture(path, picture)


def without_single_points(cloud: PointCloud, spacing: float = _SPACING) -> PointCloud:
    """Return the points that have others around them: in their cell of three spacings and the six beside it."""
    if not len(cloud):
        return cloud
    cells = np.floor(cloud.points / (3 * spacing)).astype(np.int64) + 2**20
    shifts = np.array([42, 21, 0])
    keys, index, counts = np.unique((cells << shifts).sum(1), return_inverse=True, return_counts=True)
    around = counts.copy()
    for step in np.concatenate([1 << shifts, -(1 << shifts)]):
        place = np.minimum(np.searchsorted(keys, keys + step), len(keys) - 1)
        around += np.where(keys[place] == keys + step, counts[place], 0)
    return cloud[around[index] > _MIN_NEIGHBORS]


def _best_camera(cloud: PointCloud, map_camera: Array, focal: float, width: int, height: int) -> Array:
    """Return the pose 4x4 from which most of the points are seen, and not from too near."""
    points = cloud.points[::max(1, len(cloud) // _SAMPLE)].astype(np.float64)
    best, most = map_camera[0], -1.0
    for camera in map_camera[::max(1, len(map_camera) // 100)]:
        view = (points - camera[:3, 3]) @ camera[:3, :3]
        z = np.maximum(view[:, 2], 1e-6)
        seen = ((view[:, 2] > 0) & (np.abs(view[:, 0]) < z * width / 2 / focal)
                & (np.abs(view[:, 1]) < z * height / 2 / focal))
        # Surfaces that are seen from their front only: others hide what lies before them.
        seen &= np.einsum("ij,ij->i", points - camera[:3, 3],
                          cloud.normals[::max(1, len(cloud) // _SAMPLE)].astype(np.float64)) <= 0
        if seen.sum() > most:
            best, most = camera, float(seen.sum())
    return np.asarray(best, np.float64)


def _view_from_above(map_camera: Array) -> Array:
    """Return the rotation `view_map` (3, 3) of a view straight down, with the path along the picture's width."""
    down = map_camera[:, :3, 1].mean(0)
    down = down / max(np.linalg.norm(down), 1e-9)
    centers = map_camera[:, :3, 3] - map_camera[:, :3, 3].mean(0)
    level = centers - (centers @ down)[:, None] * down
    right = np.linalg.svd(level, full_matrices=True)[2][0] if len(level) > 1 and np.abs(level).max() > 0 \
        else map_camera[0, :3, 0]
    right = right - (right @ down) * down
    right = right / np.linalg.norm(right)
    if right @ map_camera[:, :3, 0].mean(0) < 0:
        right = -right
    return np.stack([right, np.cross(down, right), down])


def _splats(cloud: PointCloud, view_map: Array, *where: NDArray[np.floating]) -> Splats:
    """Return the points, whose pixels, distance and radius are given, with their colors shaded by their normals."""
    normals = cloud.normals @ view_map.T
    falling = np.clip(normals @ _LIGHT, 0, 1)
    # Surfaces without a normal are shown as they are.
    shade = np.where(normals.any(1), _AMBIENT + (1 - _AMBIENT) * falling, 0.9)
    return Splats(*(array.astype(np.float32) for array in (*where, cloud.colors * shade[:, None])))


def _render(splats: Splats, spacing: float) -> NDArray[np.uint8]:
    """Return the picture (h, w, 3) of points that face the viewer; `spacing` is in the unit of their distance.

    The back of a wall hides nothing: such points are left out before.
    """
    colors, drawn = blend(splats, _THICKNESS * spacing, _SIZE)
    picture = np.clip(colors, 0, 255).astype(np.uint8)
    picture[~drawn] = BACKGROUND
    return picture


def _draw_scale_bar(picture: NDArray[np.uint8], per_unit: float, unit: str) -> None:
    """Draw a bar of 1, 2 or 5 times a power of ten units, about a sixth of the picture long, with its length."""
    height, width = picture.shape[:2]
    wanted = width / 6 / per_unit
    power = 10.0 ** np.floor(np.log10(wanted))
    length = power * max(factor for factor in (1, 2, 5) if factor * power <= wanted)
    left, bottom = round(0.03 * width), round(0.95 * height)
    right = left + round(length * per_unit)
    cv2.rectangle(picture, (left, bottom), (right, bottom + 5), (255, 255, 255), -1)
    plural = "s" if length > 1 and unit != "m" else ""
    cv2.putText(picture, f"{length:g} {unit}{plural}", (left, bottom - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.8,
                (255, 255, 255), 2, cv2.LINE_AA)
