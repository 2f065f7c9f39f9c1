"""Folders of image files as sequences, with or without a list of their stamps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.sequences.encodings import ImageError
from vggt_ros.sequences.image_files import ImageFiles
from vggt_ros.sequences.image_list import depth_unit, find_images, read_list
from vggt_ros.sequences.intake import Intake
from vggt_ros.sequences.sequence import Image, Omitted, SequenceError
from vggt_ros.storage.files import read_trajectory


class ImageFolder:
    """Image files: listed with their stamps in `rgb.txt`, or all of a folder, at an assumed rate."""

    rectified = False

    def __init__(self, path: Path, fov: float = 65.0, rate: float = 10.0, calibration: Path | None = None) -> None:
        """Read the lists; images are read when they are iterated over.

        Raises:
            SequenceError: no images, none that can be used, or an unreadable list.

        """
        self.path, self.name = path, path.resolve().name
        self.omitted = Omitted()
        assumptions: list[str] = []
        if (path / "rgb.txt").exists():
            self._files = read_list(path / "rgb.txt")
        else:
            files, left_out = find_images(path)
            self._files = [(round(i * 1e9 / rate), file) for i, file in enumerate(files)]
            assumptions += [f"{rate:g} images a second, since there is no rgb.txt with times", *left_out]
        self._images = ImageFiles([file for _, file in self._files], path, fov, calibration)
        self.camera = self._images.camera
        self.truth = read_trajectory(path / "groundtruth.txt") if (path / "groundtruth.txt").exists() else None
        self.assumptions = (*assumptions, *self._images.assumptions)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._files)

    def __iter__(self) -> Iterator[tuple[int, Image]]:
        """Yield stamp and image; those that are missing, damaged or of another size are left out."""
        self.omitted.clear()
        intake = Intake()
        for stamp, file in self._files:
            try:
                image = self._images.read(file, intake)
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
