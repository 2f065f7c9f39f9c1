"""COLMAP's sparse model, as text and as binary: https://colmap.github.io/format.html.

COLMAP's pixel centers are at half-integers, those of this package at integers; COLMAP's poses are `camera_world`. An
image without observations is an empty line in the text, which some readers skip, and then take every second image for
observations; so every image has its features. They have no points: the map's points have no tracks.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, inverse, quaternion_from_matrix
from vggt_ros.windows.point_cloud import PointCloud

_PINHOLE = 1
"""Number of the camera model PINHOLE, whose parameters are fx fy cx cy."""
_NO_POINT = -1
_POINT = np.dtype([("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8")])
_FEATURE = np.dtype([("xy", "<f8", 2), ("point", "<i8")])


@dataclass(frozen=True, eq=False)
class ModelImage:
    """An image of the model.

    Attributes:
        name: of its file; with no dot but that of its ending, since some readers cut a name at its first dot.
        size: (width, height).
        intrinsics: pinhole matrix (3, 3); integers are pixel centers.
        map_camera: pose 4x4, optical axes.
        pixels: float (n, 2), of its features; integers are pixel centers.

    """

    name: str
    size: tuple[int, int]
    intrinsics: Array
    map_camera: Array
    pixels: NDArray[np.floating]


def write_model(folder: Path, images: list[ModelImage], cloud: PointCloud) -> None:
    """Write `cameras`, `images` and `points3D`, each as .txt and .bin, into `folder`."""
    cameras: dict[tuple[float, ...], int] = {}
    rows = []
    for number, image in enumerate(images, 1):
        k = image.intrinsics
        key = (*image.size, k[0, 0], k[1, 1], k[0, 2] + 0.5, k[1, 2] + 0.5)
        x, y, z, w = quaternion_from_matrix((camera_map := inverse(image.map_camera))[:3, :3])
        rows.append((number, (w, x, y, z, *camera_map[:3, 3]), cameras.setdefault(key, len(cameras) + 1), image.name,
                     np.asarray(image.pixels, np.float64).reshape(-1, 2) + 0.5))
    _write_text(folder, cameras, rows, cloud)
    _write_binary(folder, cameras, rows, cloud)


_Row = tuple[int, tuple[float, ...], int, str, Array]


def _write_text(folder: Path, cameras: dict[tuple[float, ...], int], rows: list[_Row], cloud: PointCloud) -> None:
    (folder / "cameras.txt").write_text("".join(
        f"{number} PINHOLE {width:.0f} {height:.0f} {_words(rest)}\n"
        for (width, height, *rest), number in cameras.items()))
    (folder / "images.txt").write_text("".join(
        f"{number} {_words(pose)} {camera} {name}\n"
        + " ".join(f"{x:.2f} {y:.2f} {_NO_POINT}" for x, y in pixels.tolist()) + "\n"
        for number, pose, camera, name, pixels in rows))
    (folder / "points3D.txt").write_text("".join(
        f"{number} {x:.6g} {y:.6g} {z:.6g} {r} {g} {b} 0\n"
        for number, ((x, y, z), (r, g, b)) in enumerate(zip(cloud.points.tolist(), cloud.colors.tolist(), strict=True),
                                                       1)))


def _write_binary(folder: Path, cameras: dict[tuple[float, ...], int], rows: list[_Row], cloud: PointCloud) -> None:
    with (folder / "cameras.bin").open("wb") as file:
        file.write(struct.pack("<Q", len(cameras)))
        for (width, height, *rest), number in cameras.items():
            file.write(struct.pack("<iiQQ4d", number, _PINHOLE, round(width), round(height), *rest))
    with (folder / "images.bin").open("wb") as file:
        file.write(struct.pack("<Q", len(rows)))
        for number, pose, camera, name, pixels in rows:
            features = np.zeros(len(pixels), _FEATURE)
            features["xy"], features["point"] = pixels, _NO_POINT
            file.write(struct.pack("<i7di", number, *pose, camera) + name.encode() + b"\0"
                       + struct.pack("<Q", len(features)) + features.tobytes())
    points = np.zeros(len(cloud), _POINT)
    points["id"], points["xyz"], points["rgb"] = np.arange(1, len(cloud) + 1), cloud.points, cloud.colors
    (folder / "points3D.bin").write_bytes(struct.pack("<Q", len(points)) + points.tobytes())


def _words(values: tuple[float, ...] | list[float]) -> str:
    return " ".join(f"{value:.12g}" for value in values)
