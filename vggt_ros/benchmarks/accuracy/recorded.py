"""Recorded outputs of the real VGGT-1B as windows: the network's errors as they are, through the real decoding.

A folder holds `images/`, one or more `run_*.npz` and `colmap.txt`; its README.md describes them. Depth is known at
random pixels of each image; confidence and the other heads are not recorded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import Camera
from vggt_ros.geometry.poses import Array, quaternion_from_matrix
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.reconstruction.vggt.comparison.padding import padded_from_image, to_square
from vggt_ros.reconstruction.vggt.comparison.recorded_run import SIDE, RecordedRun
from vggt_ros.reconstruction.vggt.output.decoding import NetworkOutput, decode
from vggt_ros.reconstruction.vggt.settings import VggtConfig
from vggt_ros.storage.files import FileError, read_lines
from vggt_ros.windows.keyframe import Keyframe, Window


class RecordingError(FileError):
    """A recorded run cannot be read; the text names the file."""


def load_runs(folder: Path) -> dict[str, RecordedRun]:
    """Return the runs of a folder by name; raises RecordingError."""
    paths = sorted(folder.glob("run_*.npz"))
    if not paths:
        raise RecordingError(f"{folder}: expected images/, run_*.npz and colmap.txt in it")
    runs = {}
    for path in paths:
        try:
            runs[path.stem] = RecordedRun.load(path)
        except (OSError, KeyError, ValueError, BadZipFile) as error:
            raise RecordingError(f"{path}: not a recorded run ({error})") from error
    return runs


def content(width: int, height: int) -> tuple[int, int, int, int]:
    """Return left, top, width and height of the largest part about the center of the square that shows the image only.

    The network's principal point is its center, too.
    """
    edges = padded_from_image(width, height)[:2] @ [[-0.5, width - 0.5], [-0.5, height - 0.5], [1, 1]] + 0.5
    half_x, half_y = (int(half) for half in np.abs(edges - SIDE / 2).min(1) + 1e-9)
    return SIDE // 2 - half_x, SIDE // 2 - half_y, 2 * half_x, 2 * half_y


def common_content(sizes: Iterable[tuple[int, int]]) -> tuple[int, int, int, int]:
    """Return `content` of images that all have one size, or else all of the padded image."""
    parts = {content(*size) for size in sizes}
    return parts.pop() if len(parts) == 1 else (0, 0, SIDE, SIDE)


def output(run: RecordedRun, names: tuple[str, ...], part: tuple[int, int, int, int]) -> NetworkOutput:
    """Return the raw output of the network for a part (left, top, width, height) of some padded images."""
    rows = [run.names.index(name) for name in names]
    left, top, width, height = part
    depth = np.full((len(rows), height, width), np.nan, np.float32)
    for index, row in enumerate(rows):
        mine = run.frame == row
        x, y = (run.pixel[mine] - [left, top]).T
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        depth[index, y[inside], x[inside]] = run.depth[mine][inside]
    poses, matrices = run.extrinsic[rows], run.intrinsic[rows]
    fov = 2 * np.arctan(np.array([height, width]) / 2 / matrices[:, [1, 0], [1, 0]])
    quaternions = np.array([quaternion_from_matrix(pose[:, :3]) for pose in poses])
    pose_enc = np.concatenate((poses[:, :, 3], quaternions, fov), axis=1).astype(np.float32)
    # The real confidence is not recorded, but at least 5 where depth is.
    return NetworkOutput(pose_enc, depth, np.where(np.isnan(depth), 1, 5).astype(np.float32))


class RecordedReconstructor:
    """Solves windows as the network did when it saw all images at once; windows take turns among the runs."""

    name = "vggt"

    def __init__(self, runs: list[RecordedRun], names: dict[int, str], part: tuple[int, int, int, int],
                 settings: VggtConfig) -> None:
        """Take the runs, keyframe id to the name of its image, and the part of the padded images that they show."""
        self._runs, self._names, self._part, self._settings = runs, names, part, settings

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return the size of the part that is used."""
        return self._part[2:]

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Return what the run whose turn it is said of the window's images."""
        run = self._runs[window.id % len(self._runs)]
        raw = output(run, tuple(self._names[keyframe] for keyframe in window.ids), self._part)
        return decode(raw.filtered(self._settings), window)


@dataclass(frozen=True, eq=False)
class SeenImage:
    """An image where the network saw it.

    Attributes:
        pixels: RGB uint8 (SIDE, SIDE, 3), with black beside the image.
        size: width and height of the image itself.

    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]

    def crop(self, part: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        """Return a part (left, top, width, height)."""
        left, top, width, height = part
        return self.pixels[top:top + height, left:left + width].copy()


def read_images(folder: Path, names: list[str]) -> dict[str, SeenImage]:
    """Return images by name; raises RecordingError if one cannot be read."""
    images = {}
    for name in names:
        image = cv2.imread(str(folder / "images" / name), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            raise RecordingError(f"{folder / 'images' / name}: not a readable image")
        square = to_square(np.asarray(image[..., ::-1], np.uint8))
        small = cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA)  # as `Rectifier` does
        images[name] = SeenImage(np.asarray(small, np.uint8), (image.shape[1], image.shape[0]))
    return images


def keyframes(images: Iterable[SeenImage], part: tuple[int, int, int, int]) -> list[Keyframe]:
    """Return a part of the padded images as keyframes of cameras that are not calibrated."""
    found = []
    for number, image in enumerate(images):
        intrinsics = Camera.assumed(part[2], part[3], 65.0).intrinsics
        middle = (np.array(image.size) - 1) / 2
        intrinsics[:2, 2] = (padded_from_image(*image.size) @ [*middle, 1.0])[:2] - part[:2]
        found.append(Keyframe(number, number * 10**9, image.crop(part), intrinsics, calibrated=False))
    return found


def read_reference(path: Path) -> dict[str, Array]:
    """Return image name to its pose `camera_world` 4x4 of `colmap.txt`; raises RecordingError."""
    poses = {}
    for number, line in enumerate(read_lines(path), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            matrix = np.eye(4)
            matrix[:3] = np.array(words[-12:], np.float64).reshape(3, 4)
        except ValueError as error:
            raise RecordingError(f"{path}, line {number}: expected 12 numbers of a pose at its end") from error
        poses[words[0]] = matrix
    return poses


def read_intrinsics(path: Path) -> dict[str, Array]:
    """Return image name to the intrinsics 3x3 of its `content` by `colmap.txt`; raises RecordingError.

    A pixel's center is at half a pixel in the file, and at a whole one here.
    """
    matrices = {}
    for number, line in enumerate(read_lines(path), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            fx, fy, cx, cy = (float(word) for word in words[1:5])
            size = int(words[5]), int(words[6])
            matrix = padded_from_image(*size) @ [[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]]
        except (ValueError, IndexError, ZeroDivisionError) as error:
            raise RecordingError(f"{path}, line {number}: expected fx fy cx cy width height after the name") from error
        matrix[:2, 2] -= content(*size)[:2]
        matrices[words[0]] = matrix
    return matrices


def walk(reference: dict[str, Array]) -> list[str]:
    """Return the images in the order of a walk around what they look at."""
    names = sorted(reference)
    centers = np.array([-reference[name][:3, :3].T @ reference[name][:3, 3] for name in names])
    around = centers - centers.mean(0)
    plane = np.linalg.svd(around)[2]
    angles = np.arctan2(around @ plane[1], around @ plane[0])
    order = np.argsort(angles)
    gap = int(np.argmax(np.diff(angles[order], append=angles[order[0]] + 2 * np.pi)))  # begin after the widest gap
    return [names[row] for row in np.roll(order, -gap - 1)]
