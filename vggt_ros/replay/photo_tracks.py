"""Tracks of points through photos, by their geometry: projected by depth and poses, and aligned there by patches.

As in the refinement of windows, patches are warped with the surface that the depth shows, so that wide steps are no
obstacle. A point is visible in a photo where its patch is found near its projection; this needs no track head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import resize_intrinsics
from vggt_ros.geometry.poses import Array, inverse
from vggt_ros.reconstruction.adjustment.bundle import Scene
from vggt_ros.reconstruction.adjustment.patches import PatchOptions, align_patches
from vggt_ros.reconstruction.adjustment.planes import local_planes
from vggt_ros.replay.photos import Photo
from vggt_ros.storage.files import FileError, read_lines, write_picture

_PATCHES = PatchOptions(radius=5, min_correlation=0.8, max_shift=6.0, max_anisotropy=5.0)
_CORNERS = 300
"""Corners of each photo that are matched."""
_DRAWN = 60
"""Most points in the picture of tracks."""


@dataclass(frozen=True, eq=False)
class Tracks:
    """Points of photos, and where other photos show them.

    Attributes:
        source: (n,), the photo in which a point was chosen.
        pixels: (n, S, 2), where each photo shows it, pixels of `Photo.image`; NaN if not visible.
        visible: (n, S).

    """

    source: NDArray[np.intp]
    pixels: Array
    visible: NDArray[np.bool_]


def read_queries(path: Path) -> Array:
    """Return points (n, 2), one `x y` a line, pixels of the first photo; raises FileError."""
    points = []
    for number, line in enumerate(read_lines(path), 1):
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        try:
            x, y = (float(word) for word in words)
        except ValueError as error:
            raise FileError(f"{path}, line {number}: expected two numbers, x and y") from error
        points.append((x, y))
    if not points:
        raise FileError(f"{path}: there are no points in it")
    return np.array(points)


def corners(photos: Sequence[Photo]) -> tuple[NDArray[np.intp], Array]:
    """Return photo (n,) and pixel (n, 2) of the corners of all photos."""
    sources, pixels = [], []
    for number, photo in enumerate(photos):
        gray = cv2.cvtColor(photo.image, cv2.COLOR_RGB2GRAY)
        spacing = 0.5 * np.sqrt(gray.size / _CORNERS)
        found = cv2.goodFeaturesToTrack(gray, _CORNERS, 0.001, spacing, blockSize=5)
        if found is not None:
            sources.append(np.full(len(found), number))
            pixels.append(found.reshape(-1, 2).astype(np.float64))
    if not sources:
        return np.zeros(0, np.intp), np.zeros((0, 2))
    return np.concatenate(sources), np.concatenate(pixels)


def track(photos: Sequence[Photo], source: NDArray[np.intp], pixels: Array) -> Tracks:
    """Return where the photos show points (n, 2) of the photos `source` (n,)."""
    grays = [np.asarray(cv2.cvtColor(photo.image, cv2.COLOR_RGB2GRAY), np.uint8) for photo in photos]
    height, width = grays[0].shape
    rho, slant = np.full(len(pixels), np.nan), np.zeros((len(pixels), 2))
    matrices = []
    for number, photo in enumerate(photos):
        depth = photo.depth()
        shrink = np.array([depth.shape[1] / width, depth.shape[0] / height])
        matrices.append(resize_intrinsics(photo.keyframe.intrinsics, *(1 / shrink)))
        mine = source == number
        rho[mine], found, _ = local_planes(depth, (pixels[mine] + 0.5) * shrink - 0.5)
        slant[mine] = np.nan_to_num(found) * shrink
    visible = np.zeros((len(pixels), len(photos)), bool)
    result = np.full((len(pixels), len(photos), 2), np.nan)
    known = np.flatnonzero(np.isfinite(rho))
    if len(known):
        result[known], visible[known] = _align(photos, grays, np.array(matrices), source[known], pixels[known],
                                               rho[known], slant[known])
    visible[np.arange(len(pixels)), source] = True
    result[np.arange(len(pixels)), source] = pixels
    return Tracks(source, result, visible)


def _align(photos: Sequence[Photo], grays: list[NDArray[np.uint8]], k: Array, view: NDArray[np.intp], pixels: Array,
           rho: Array, slant: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Return where the photos show points (n, S, 2), and which do (n, S), by inverse depth (n,) and slant (n, 2)."""
    focal, centers = np.stack([k[:, 0, 0], k[:, 1, 1]], 1), k[:, :2, 2]
    camera_map = np.array([inverse(photo.map_camera) for photo in photos])
    observed = pixels - centers[view]
    local = np.concatenate([observed / focal[view], np.ones((len(view), 1))], 1) / rho[:, None]
    points = np.einsum("nji,nj->ni", camera_map[view, :3, :3], local - camera_map[view, :3, 3])
    scene = Scene(camera_map[:, :3, :3].copy(), camera_map[:, :3, 3].copy(), points, focal)
    aligned, found = align_patches(grays, scene, centers, view, observed, slant=slant, options=_PATCHES)
    return np.where(found[..., None], aligned + centers, np.nan), found


def write_tracks(path: Path, tracks: Tracks, photos: Sequence[Photo]) -> None:
    """Write `point,image,x,y` for every point in every photo that shows it."""
    lines = ["point,image,x,y"]
    for point, (row, seen) in enumerate(zip(tracks.pixels, tracks.visible, strict=True)):
        lines += [f"{point},{photos[number].path.name},{row[number, 0]:.2f},{row[number, 1]:.2f}"
                  for number in np.flatnonzero(seen).tolist()]
    path.write_text("\n".join(lines) + "\n")


def draw_tracks(path: Path, tracks: Tracks, photos: Sequence[Photo]) -> None:
    """Write a picture of the first photos beside each other, with the points that most of them show."""
    shown = list(photos[:6])
    picture = np.concatenate([photo.image for photo in shown], 1)
    width = shown[0].image.shape[1]
    seen = tracks.visible[:, :len(shown)]
    order = np.argsort(-seen.sum(1), kind="stable")[:_DRAWN]
    colors = cv2.applyColorMap(np.linspace(0, 255, max(len(order), 1)).astype(np.uint8)[:, None], cv2.COLORMAP_HSV)
    for row, color in zip(order, colors[:, 0].tolist(), strict=False):
        at = [(int(tracks.pixels[row, n, 0]) + n * width, int(tracks.pixels[row, n, 1]))
              for n in np.flatnonzero(seen[row])]
        for first, second in pairwise(at):
            cv2.line(picture, first, second, color, 1, cv2.LINE_AA)
        for point in at:
            cv2.circle(picture, point, 4, color, 2, cv2.LINE_AA)
    write_picture(path, picture)
