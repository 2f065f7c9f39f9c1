"""Recorded outputs of the real VGGT-1B as windows: the network's errors as they are, through the real decoding.

A folder holds `images/`, one or more `run_*.npz` and `colmap.txt`; its README.md describes them. Depth is known at
random pixels of each image; confidence and the other heads are not recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import VggtConfig
from vggt_ros.geometry.camera import Camera
from vggt_ros.geometry.poses import Array, quaternion_from_matrix
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.reconstruction.vggt.decoding import NetworkOutput, decode
from vggt_ros.storage.files import FileError, read_lines
from vggt_ros.windows.keyframe import Keyframe, Window

GRID = 518
"""Width and height of the padded images that the network saw."""


class RecordingError(FileError):
    """A recorded run cannot be read; the text names the file."""


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """What the network said of the images of a scene, all in one inference.

    Attributes:
        names: of the images (S), the first is the reference view.
        camera_world: poses (S, 4, 4), in the network's unit.
        intrinsics: (S, 3, 3), for the padded image.
        sizes: (S, 2), width and height of the images.
        frame, pixels, depth: samples (n,), (n, 2), (n,): image, integer pixel of the padded image, and z.

    """

    names: tuple[str, ...]
    camera_world: Array
    intrinsics: Array
    sizes: NDArray[np.int64]
    frame: NDArray[np.int64]
    pixels: NDArray[np.int64]
    depth: NDArray[np.float32]

    @staticmethod
    def load(path: Path) -> RecordedRun:
        """Read a run; raises RecordingError."""
        try:
            with np.load(path, allow_pickle=False) as data:
                camera_world = np.tile(np.eye(4), (len(data["names"]), 1, 1))
                camera_world[:, :3] = data["extrinsic"]
                return RecordedRun(tuple(str(name) for name in data["names"]), camera_world,
                                   data["intrinsic"].astype(np.float64), data["image_size"].astype(np.int64),
                                   data["frame"].astype(np.int64), data["xy"].astype(np.int64), data["depth"])
        except (OSError, KeyError, ValueError) as error:
            raise RecordingError(f"{path}: not a recorded run ({error})") from error

    def content(self, row: int) -> tuple[int, int, int, int]:
        """Return left, top, width and height of an image within the padded one."""
        width, height = (round(GRID * side / self.sizes[row].max()) for side in self.sizes[row].tolist())
        return (GRID - width) // 2, (GRID - height) // 2, width, height

    def output(self, names: tuple[str, ...]) -> NetworkOutput:
        """Return the raw output of the network for some images of one size, without the padding."""
        rows = [self.names.index(name) for name in names]
        left, top, width, height = self.content(rows[0])
        depth = np.full((len(rows), height, width), np.nan, np.float32)
        for index, row in enumerate(rows):
            mine = self.frame == row
            x, y = (self.pixels[mine] - [left, top]).T
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            depth[index, y[inside], x[inside]] = self.depth[mine][inside]
        poses, matrices = self.camera_world[rows], self.intrinsics[rows]
        fov = 2 * np.arctan(np.array([height, width]) / 2 / matrices[:, [1, 0], [1, 0]])
        quaternions = np.array([quaternion_from_matrix(pose[:3, :3]) for pose in poses])
        pose_enc = np.concatenate((poses[:, :3, 3], quaternions, fov), axis=1).astype(np.float32)
        # The real confidence is not recorded, but at least 5 where depth is.
        return NetworkOutput(pose_enc, depth, np.where(np.isnan(depth), 1, 5).astype(np.float32))


class RecordedReconstructor:
    """Solves windows as the network did when it saw all images at once; windows take turns among the runs."""

    name = "vggt"

    def __init__(self, runs: list[RecordedRun], names: dict[int, str], settings: VggtConfig) -> None:
        """Take the runs, and keyframe id to the name of its image."""
        self._runs, self._names, self._settings = runs, names, settings

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return the size of an image within the padded one."""
        return self._runs[0].content(0)[2:]

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Return what the run whose turn it is said of the window's images."""
        run = self._runs[window.id % len(self._runs)]
        output = run.output(tuple(self._names[keyframe] for keyframe in window.ids))
        return decode(output.filtered(self._settings), window)


def keyframe(folder: Path, run: RecordedRun, name: str, number: int) -> Keyframe:
    """Return an image as a keyframe of a camera that is not calibrated; raises RecordingError."""
    row = run.names.index(name)
    image = cv2.imread(str(folder / "images" / name), cv2.IMREAD_COLOR)
    if image is None:
        raise RecordingError(f"{folder / 'images' / name}: not a readable image")
    size = run.content(row)[2:]
    small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), size, interpolation=cv2.INTER_AREA)
    camera = Camera.assumed(*size, 65.0)
    return Keyframe(number, number * 10**9, np.asarray(small, np.uint8), camera.intrinsics, calibrated=False)


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
