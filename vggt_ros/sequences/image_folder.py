"""Folders of image files as sequences, with or without a list of their stamps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import Camera
from vggt_ros.sequences.sequence import Image, SequenceError
from vggt_ros.storage.files import parse_stamp, read_lines, read_trajectory

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}


class ImageFolder:
    """Image files: listed with their stamps in `rgb.txt`, or all of a folder, at an assumed rate."""

    rectified = False

    def __init__(self, path: Path, fov: float = 65.0, rate: float = 10.0) -> None:
        """Read the lists; images are read when they are iterated over.

        Raises:
            SequenceError: no images, or an unreadable list.

        """
        self.path, self.name = path, path.resolve().name
        assumptions = []
        if (path / "rgb.txt").exists():
            self._files = _read_list(path / "rgb.txt")
        else:
            files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
            self._files = [(round(i * 1e9 / rate), file) for i, file in enumerate(files)]
            assumptions.append(f"{rate:g} images a second, since there is no rgb.txt with times")
        if not self._files:
            raise SequenceError(f"{path}: there are no images in it")
        height, width = _read_image(self._files[0][1]).shape[:2]
        if (path / "calibration.txt").exists():
            self.camera = _read_calibration(path / "calibration.txt", width, height)
        else:
            self.camera = Camera.assumed(width, height, fov)
            assumptions.append(f"a field of view of {fov:g} degrees, since there is no calibration.txt")
        self.truth = read_trajectory(path / "groundtruth.txt") if (path / "groundtruth.txt").exists() else None
        self.assumptions = tuple(assumptions)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._files)

    def __iter__(self) -> Iterator[tuple[int, Image]]:
        """Yield stamp and image; raises SequenceError at an image that is missing, damaged or of another size."""
        for stamp, file in self._files:
            image = _read_image(file)
            if image.shape[:2] != (self.camera.height, self.camera.width):
                raise SequenceError(f"{file}: {image.shape[1]}x{image.shape[0]} pixels, the first image has "
                                    f"{self.camera.width}x{self.camera.height}")
            yield stamp, image

    def depths(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield stamp and depth for every line of `depth.txt`, if there is one.

        Raises:
            SequenceError: a file is damaged, or README.txt does not state the depth unit.

        """
        if not (self.path / "depth.txt").exists():
            return
        unit = _depth_unit(self.path / "README.txt")
        for stamp, file in _read_list(self.path / "depth.txt"):
            pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
            if pixels is None or pixels.dtype != np.uint16:
                raise SequenceError(f"{file}: not a 16-bit depth image")
            yield stamp, np.where(pixels > 0, pixels / np.float32(unit), np.float32(np.nan)).astype(np.float32)


def _read_image(file: Path) -> Image:
    pixels = cv2.imread(str(file), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise SequenceError(f"{file}: {'not a readable image' if file.exists() else 'no such file'}")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def _read_list(path: Path) -> list[tuple[int, Path]]:
    """Return stamps and files of a list with the lines `timestamp filename`."""
    entries = []
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split(maxsplit=1)
        if not fields or fields[0].startswith("#"):
            continue
        try:
            entries.append((parse_stamp(fields[0]), path.parent / fields[1].strip()))
        except (ValueError, IndexError) as error:
            raise SequenceError(f"{path}, line {number}: expected `timestamp filename`") from error
    return entries


def _read_calibration(path: Path, width: int, height: int) -> Camera:
    """Return the camera of a file with `fx fy cx cy [k1 k2 p1 p2 [k3]]`."""
    try:
        lines = [line for line in read_lines(path) if line.strip() and not line.startswith("#")]
        fx, fy, cx, cy, *distortion = (float(word) for word in " ".join(lines).split())
        return Camera(width, height, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), tuple(distortion))
    except ValueError as error:
        raise SequenceError(f"{path}: expected `fx fy cx cy [k1 k2 p1 p2 [k3]]` ({error})") from error


def _depth_unit(path: Path) -> float:
    """Return the units per meter of 16-bit depth images, from the line `Depth` of the folder's README.txt."""
    line = next((line for line in read_lines(path) if line.startswith("Depth")), "")
    if match := re.search(r"(\d+) units per met", line):
        return float(match[1])
    if re.search(r"\bmm\b", line):
        return 1000.0
    raise SequenceError(f"{path}: its line `Depth` must state `N units per meter` or `mm`")
