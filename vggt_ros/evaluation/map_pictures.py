"""Pictures of a dense map, shaded by its normals: as the camera saw it, and from above with a scale bar."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.evaluation.pictures import OURS
from vggt_ros.geometry.poses import Array, inverse
from vggt_ros.storage.files import write_picture
from vggt_ros.windows.point_cloud import PointCloud

BACKGROUND = (30, 32, 38)
_SIZE = 1600, 1000
"""Width and height of the pictures."""
_SPACING = 0.02
"""Typical distance of neighboring points, map units, as `map.voxel`."""
_SUPERSAMPLING = 2
_FOV = 75.0
"""Horizontal field of view of the picture as the camera saw it, degrees: a little more than most cameras have."""
_MIN_NEIGHBORS = 6
"""Points with fewer others around them, within about five spacings, are left out: single points look like spikes."""
_AMBIENT = 0.5
"""Brightness of a surface that no light falls on."""
_MAX_REACH = 12
"""Largest half edge of a point's square, pixels."""
_SAMPLE = 20_000
"""Points by which viewpoints are chosen."""


@dataclass(frozen=True, eq=False)
class _Projection:
    """Where the points of a map are in a picture: x, y, distance along the view (n, 3), and radius in pixels (n,).

    `view_map` (3, 3) is the rotation into the view, `spacing` the distance of neighboring points.
    """

    pixels: NDArray[np.float32]
    radius: NDArray[np.float32]
    view_map: Array


def draw_map(path: Path, cloud: PointCloud, map_camera: Array, spacing: float = _SPACING) -> None:
    """Write a picture of the map in perspective, from the keyframe that sees most of it.

    Args:
        path: of the PNG file.
        cloud: of the map, rather `without_single_points`, which look like spikes.
        map_camera: camera poses (n, 4, 4), in the order of time; at least one.
        spacing: typical distance of neighboring points, map units.

    """
    width, height = (_SUPERSAMPLING * value for value in _SIZE)
    focal = width / 2 / np.tan(np.radians(_FOV) / 2)
    camera = _best_camera(cloud, map_camera, focal, width, height)
    view = (cloud.points - camera[:3, 3]) @ camera[:3, :3]
    z = np.maximum(view[:, 2], 1e-6)
    pixels = np.stack([focal * view[:, 0] / z + width / 2, focal * view[:, 1] / z + height / 2, view[:, 2]], axis=1)
    toward = -np.einsum("ij,ij->i", view, cloud.normals @ camera[:3, :3])
    picture = _render(cloud, _Projection(pixels.astype(np.float32), (0.9 * focal * spacing / z).astype(np.float32),
                                         inverse(camera)[:3, :3]), toward, (width, height))
    _write(path, picture)


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
    width, height = (_SUPERSAMPLING * value for value in _SIZE)
    per_unit = float(0.9 * np.min([width, height] / np.maximum(high - low, 10 * spacing)))

    def project(points: NDArray[np.floating]) -> NDArray[np.float32]:
        flat = (points[:, :2] - (low + high) / 2) * per_unit + np.array([width, height]) / 2
        return np.concatenate([flat, points[:, 2:] - points[:, 2:].min(initial=0) + 1], axis=1).astype(np.float32)

    radius = np.full(len(view), 0.9 * per_unit * spacing, np.float32)
    toward = -cloud.normals @ view_map[2]
    picture = _render(cloud, _Projection(project(view), radius, view_map), toward, (width, height))
    line = np.rint(project(centers)[:, :2] * 8).astype(np.int32).reshape(-1, 1, 2)
    for color, thickness in (((255, 255, 255), 9), (OURS, 5)):
        cv2.polylines(picture, [line], False, color, thickness, cv2.LINE_AA, shift=3)
    _draw_scale_bar(picture, per_unit, unit)
    _write(path, picture)


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


def _render(cloud: PointCloud, projection: _Projection, toward: NDArray[np.floating],
            size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the picture (h, w, 3) of the points that face the viewer, shaded by their normals.

    Args:
        cloud: the points.
        projection: of the points.
        toward: (n,), positive where the surface was seen from the viewer's side; the back of a wall hides nothing.
        size: width and height.

    """
    picture = np.full((size[1], size[0], 3), BACKGROUND, np.uint8)
    nearest = _nearest_points(projection, toward >= 0, size)
    shown = nearest >= 0
    drawn = np.zeros(len(cloud), bool)
    drawn[nearest[shown]] = True
    # Neighboring points have noisy normals, but belong to one surface. What is smooth needs no supersampling.
    spread = float(np.clip(1.5 * np.median(projection.radius[drawn]), 3, 15)) if drawn.any() else 3.0
    coarse = nearest[::_SUPERSAMPLING, ::_SUPERSAMPLING]
    normals = np.zeros((*coarse.shape, 3), np.float32)
    normals[coarse >= 0] = (cloud.normals @ projection.view_map.T.astype(np.float32))[coarse[coarse >= 0]]
    normals = cv2.GaussianBlur(normals, (0, 0), spread / _SUPERSAMPLING)
    length = np.sqrt(np.einsum("ijk,ijk->ij", normals, normals))
    # The light comes from above the viewer's left shoulder; surfaces without a normal are shown as they are.
    light = np.array([-0.35, -0.5, -0.79], np.float32)
    falling = np.clip((normals @ light) / np.maximum(length, 1e-6), 0, 1)
    shade = cv2.resize(np.where(length > 1e-3, _AMBIENT + (1 - _AMBIENT) * falling, 0.9), size)
    points, shade = nearest[shown], np.asarray(shade[shown], np.float32)
    for channel in range(3):
        picture[..., channel][shown] = np.clip(cloud.colors[points, channel] * shade, 0, 255)
    return picture


def _nearest_points(projection: _Projection, drawn: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.int32]:
    """Return for each pixel (h, w) the point that is drawn there, the nearest one, or -1; points are squares."""
    width, height = size
    pixels, depth = projection.pixels, projection.pixels[:, 2]
    x, y = pixels[:, 0], pixels[:, 1]
    kept = np.flatnonzero(drawn & (depth > 1e-6) & (x > -20) & (x < width + 20) & (y > -20) & (y < height + 20))
    kept = kept[np.argsort(-depth[kept], kind="stable")]
    reach = np.clip(np.ceil(projection.radius[kept]), 1, _MAX_REACH).astype(np.int32)
    columns, rows = (np.rint(values[kept]).astype(np.int32) for values in (x, y))
    # Points have ranks by distance, the nearest one the highest. The squares are drawn by a maximum filter.
    best = np.zeros((height, width), np.float32 if len(kept) < 2**24 else np.float64)
    for radius in np.unique(reach).tolist():
        ranks = np.flatnonzero((reach == radius) & (columns >= -radius) & (columns < width + radius)
                               & (rows >= -radius) & (rows < height + radius))
        if not len(ranks):
            continue
        left, right = int(columns[ranks].min()) - radius, int(columns[ranks].max()) + radius + 1
        top, bottom = int(rows[ranks].min()) - radius, int(rows[ranks].max()) + radius + 1
        layer = np.zeros((bottom - top, right - left), best.dtype)
        # Sorted with the nearest last: of several points for one pixel the last assignment stays.
        layer[rows[ranks] - top, columns[ranks] - left] = ranks + 1
        layer = np.asarray(cv2.dilate(layer, np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)), best.dtype)
        inside = slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
        part = layer[inside[0].start - top:inside[0].stop - top, inside[1].start - left:inside[1].stop - left]
        np.maximum(best[inside], part, out=best[inside])
    return np.append(kept, -1).astype(np.int32)[best.astype(np.int32) - 1]


def _draw_scale_bar(picture: NDArray[np.uint8], per_unit: float, unit: str) -> None:
    """Draw a bar of 1, 2 or 5 times a power of ten units, about a sixth of the picture long, with its length."""
    height, width = picture.shape[:2]
    wanted = width / 6 / per_unit
    power = 10.0 ** np.floor(np.log10(wanted))
    length = power * max(factor for factor in (1, 2, 5) if factor * power <= wanted)
    left, bottom = round(0.03 * width), round(0.95 * height)
    right = left + round(length * per_unit)
    cv2.rectangle(picture, (left, bottom), (right, bottom + 10), (255, 255, 255), -1)
    cv2.putText(picture, f"{length:g} {unit}", (left, bottom - 18), cv2.FONT_HERSHEY_SIMPLEX, 1.6, (255, 255, 255), 3,
                cv2.LINE_AA)


def _write(path: Path, picture: NDArray[np.uint8]) -> None:
    write_picture(path, cv2.resize(picture, _SIZE, interpolation=cv2.INTER_AREA))
