"""Folders of image files as sequences, with or without a list of their stamps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.sequences import kitti
from vggt_ros.sequences.encodings import ImageError
from vggt_ros.sequences.ground_truth import find_truth
from vggt_ros.sequences.image_files import ImageFiles
from vggt_ros.sequences.image_list import depth_unit, find_images, find_list, read_list, times_in_names
from vggt_ros.sequences.intake import Intake
from vggt_ros.sequences.sequence import Image, Omitted, SequenceError

_RATE = 10.0
"""Images a second where there are no times."""
_NO_DEPTH = 65535
"""Beside 0, the value of pixels without depth, such as in 7-Scenes."""


class ImageFolder:
    """Image files: listed with their stamps in `rgb.txt` or EuRoC's `data.csv`, or all of a folder.

    The stamps of the latter are in their names, or at a rate that is assumed.
    """

    rectified = False

    def __init__(self, path: Path, fov: float = 65.0, rate: float | None = None,
                 calibration: Path | None = None) -> None:
        """Read the lists; images are read when they are iterated over.

        Raises:
            SequenceError: no images, none that can be used, or an unreadable list.

        """
        self.path, self.name = path, path.resolve().name
        self.omitted = Omitted()
        assumptions: list[str] = []
        if listed := find_list(path):
            entries = read_list(*listed)
            self._files = sorted(entries, key=lambda entry: entry[0])
            if self._files != entries:
                assumptions.append(f"the order of the times in {listed[0]}, whose lines have another one")
        else:
            files, left_out = find_images(path)
            beside = None if rate else kitti.times(path, files)
            stamps = None if rate else beside or times_in_names(files)
            self._files = list(zip(stamps or (round(i * 1e9 / (rate or _RATE)) for i in range(len(files))), files,
                                   strict=True))
            assumptions += ["the times in times.txt" if beside else
                            "the times in the names of the images" if stamps else
                            f"{rate or _RATE:g} images a second, since there is no rgb.txt with times", *left_out]
        self._images = ImageFiles([file for _, file in self._files], path, fov, calibration)
        self.camera = self._images.camera
        self.truth = find_truth(path)
        self._depths = path / "depth.txt" if (path / "depth.txt").exists() else None
        self._depth_unit, assumed = depth_unit(path) if self._depths else (1.0, [])
        self.assumptions = (*assumptions, *self._images.assumptions, *assumed)

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
        """Yield stamp and depth for every line of `depth.txt`, if there is one; NaN where a pixel is 0 or 65535.

        Raises:
            SequenceError: a file is damaged.

        """
        for stamp, file in read_list(self._depths) if self._depths else ():
            pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
            if pixels is None or pixels.dtype != np.uint16:
                raise SequenceError(f"{file}: not a 16-bit depth image")
            known = (pixels > 0) & (pixels < _NO_DEPTH)
            yield stamp, np.where(known, pixels / np.float32(self._depth_unit), np.float32(np.nan)).astype(np.float32)
