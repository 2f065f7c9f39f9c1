"""Folders of image files as sequences, with or without a list of their stamps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import Camera, CameraError
from vggt_ros.sequences.encodings import ImageError
from vggt_ros.sequences.image_list import common_size, depth_unit, find_images, read_list
from vggt_ros.sequences.intake import Intake, check_camera
from vggt_ros.sequences.sequence import Image, Omitted, SequenceError
from vggt_ros.storage.files import read_lines, read_trajectory


class ImageFolder:
    """Image files: listed with their stamps in `rgb.txt`, or all of a folder, at an assumed rate."""

    rectified = False

    def __init__(self, path: Path, fov: float = 65.0, rate: float = 10.0) -> None:
        """Read the lists; images are read when they are iterated over.

        Raises:
            SequenceError: no images, none that can be used, or an unreadable list.

        """
        self.path, self.name = path, path.resolve().name
        self.omitted = Omitted()
        assumptions = []
        if (path / "rgb.txt").exists():
            self._files = read_list(path / "rgb.txt")
        else:
            files, left_out = find_images(path)
            self._files = [(round(i * 1e9 / rate), file) for i, file in enumerate(files)]
            assumptions += [f"{rate:g} images a second, since there is no rgb.txt with times", *left_out]
        width, height = common_size([file for _, file in self._files])
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
        """Yield stamp and image; those that are missing, damaged or of another size are left out."""
        self.omitted.clear()
        intake = Intake()
        for stamp, file in self._files:
            try:
                image = _read_image(file, intake)
                if image.shape[:2] != (self.camera.height, self.camera.width):
                    raise ImageError(f"{image.shape[1]}x{image.shape[0]} pixels, most images have "
                                     f"{self.camera.width}x{self.camera.height}")
            except ImageError as error:
                self.omitted.add(file.name, str(error))
                continue
            yield stamp, image

    def depths(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield stamp and depth for every line of `depth.txt`, if there is one.

        Raises:
            SequenceError: a file is damaged, or README.txt does not state the depth unit.

        """
        if not (self.path / "depth.txt").exists():
            return
        unit = depth_unit(self.path / "README.txt")
        for stamp, file in read_list(self.path / "depth.txt"):
            pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
            if pixels is None or pixels.dtype != np.uint16:
                raise SequenceError(f"{file}: not a 16-bit depth image")
            yield stamp, np.where(pixels > 0, pixels / np.float32(unit), np.float32(np.nan)).astype(np.float32)


def _read_image(file: Path, intake: Intake) -> Image:
    try:
        return intake.decode_file(file.read_bytes())
    except OSError as error:
        raise ImageError("no such file" if not file.exists() else error.strerror or str(error)) from error


def _read_calibration(path: Path, width: int, height: int) -> Camera:
    """Return the camera of a file with `fx fy cx cy [k1 k2 p1 p2 [k3]]`."""
    try:
        lines = [line for line in read_lines(path) if line.strip() and not line.startswith("#")]
        fx, fy, cx, cy, *distortion = (float(word) for word in " ".join(lines).split())
        camera = Camera(width, height, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), tuple(distortion))
    except ValueError as error:
        raise SequenceError(f"{path}: expected `fx fy cx cy [k1 k2 p1 p2 [k3]]` ({error})") from error
    try:
        check_camera(camera)
    except CameraError as error:
        raise SequenceError(f"{path}: {error}") from error
    return camera
