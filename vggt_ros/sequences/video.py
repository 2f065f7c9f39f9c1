"""Video files as sequences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import Camera
from vggt_ros.sequences.sequence import Image, SequenceError, Truth


class Video:
    """A video file; its camera is not calibrated."""

    rectified = False
    truth: Truth | None = None

    def __init__(self, path: Path, fov: float = 65.0) -> None:
        """Read the first image; raises SequenceError if the file cannot be read."""
        self.path, self.name = path, path.stem
        capture = cv2.VideoCapture(str(path))
        readable, first = capture.read() if capture.isOpened() else (False, None)
        self._count = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 1)
        rate = capture.get(cv2.CAP_PROP_FPS)
        capture.release()
        if not readable or first is None:
            raise SequenceError(f"{path}: neither a folder, a rosbag2 nor a video that OpenCV can read")
        self._rate = rate if rate > 0 else 30.0
        self.camera = Camera.assumed(first.shape[1], first.shape[0], fov)
        self.assumptions = (f"a field of view of {fov:g} degrees, since a video has no calibration",
                            *(() if rate > 0 else ("30 images a second, since the file does not say",)))

    def __len__(self) -> int:
        """Return the number of images, as the file's header states it."""
        return self._count

    def __iter__(self) -> Iterator[tuple[int, Image]]:
        """Yield stamp, from zero at the file's rate, and image."""
        capture = cv2.VideoCapture(str(self.path))
        try:
            index = 0
            while (read := capture.read())[0]:
                yield round(index * 1e9 / self._rate), np.asarray(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB), np.uint8)
                index += 1
        finally:
            capture.release()

    def depths(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield nothing."""
        return iter(())
