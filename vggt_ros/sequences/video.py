"""Video files as sequences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import Camera
from vggt_ros.sequences.calibration_file import find_calibration
from vggt_ros.sequences.encodings import ImageError
from vggt_ros.sequences.intake import Intake
from vggt_ros.sequences.sequence import Image, Omitted, SequenceError, Truth

_MIN_SHARE = 0.9
"""Share of the images that the header states below which some are missing; with a varying rate it is an estimate."""


class Video:
    """A video file.

    Stamps are the times in the file, from zero: phones and screen recorders vary the rate.
    """

    rectified = False
    truth: Truth | None = None

    def __init__(self, path: Path, fov: float = 65.0, calibration: Path | None = None) -> None:
        """Read the first images; without a `calibration`, `fov`, degrees, is assumed.

        Raises:
            SequenceError: the file or the calibration cannot be read, or there is no image that can be used.

        """
        self.path, self.name, self.omitted = path, path.stem, Omitted()
        if _is_text(path):  # which ffmpeg draws as a terminal does
            raise SequenceError(f"{path}: a text file, not a recording; name a folder of images, a bag or a video")
        capture = cv2.VideoCapture(str(path))
        readable, first = capture.read() if capture.isOpened() else (False, None)
        self._count = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 1)
        rate = capture.get(cv2.CAP_PROP_FPS)
        begin = capture.get(cv2.CAP_PROP_POS_MSEC)
        self._has_times = capture.grab() and capture.get(cv2.CAP_PROP_POS_MSEC) > begin
        capture.release()
        if not readable or first is None:
            raise SequenceError(f"{path}: neither a folder, a bag nor a video that OpenCV can read{_cut_off(path)}")
        try:
            Intake().accept(np.asarray(first, np.uint8))
        except ImageError as error:
            raise SequenceError(f"{path}: {error}") from error
        self._rate = rate if rate > 0 else 30.0
        size = first.shape[1], first.shape[0]
        known = find_calibration(calibration)
        self.camera = known.camera(size) if known else Camera.assumed(*size, fov)
        self.assumptions: tuple[str, ...] = known.assumptions(self.camera) if known else (
            f"a field of view of {fov:g} degrees, since a video has no calibration; --calibration FILE gives one",)
        if not self._has_times and self._count > 1:
            origin = "as its header says, " if rate > 0 else ""
            self.assumptions += (f"{self._rate:g} images a second, {origin}since the file has no times",)

    def __len__(self) -> int:
        """Return the number of images, as the file's header states it."""
        return self._count

    def __iter__(self) -> Iterator[tuple[int, Image]]:
        """Yield stamp and image; images of another size than the first are left out."""
        self.omitted.clear()
        capture = cv2.VideoCapture(str(self.path))
        try:
            index = 0
            while (read := capture.read())[0]:
                stamp = round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6) if self._has_times \
                    else round(index * 1e9 / self._rate)
                index += 1
                if read[1].shape[:2] != (self.camera.height, self.camera.width):
                    self.omitted.add(f"image {index}", f"{read[1].shape[1]}x{read[1].shape[0]} pixels, the first has "
                                     f"{self.camera.width}x{self.camera.height}")
                    continue
                yield stamp, np.asarray(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB), np.uint8)
            if index < _MIN_SHARE * self._count:
                self.omitted.add("the rest of the video", f"it ends, or is damaged, after {index} images; its header "
                                 f"says {self._count}")
        finally:
            capture.release()

    def depths(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield nothing."""
        return iter(())


def _is_text(path: Path) -> bool:
    """Return whether a file begins with text only."""
    if not path.is_file():  # a camera
        return False
    with suppress(OSError), path.open("rb") as file:
        begin = file.read(4096).decode("utf-8-sig", "replace").rstrip("\ufffd")  # the end may be half a character
        return bool(begin) and "\ufffd" not in begin and all(one.isprintable() or one.isspace() for one in begin)
    return False


def _cut_off(path: Path) -> str:
    """Return, as the end of a sentence, that an MP4 has no index, which recorders write at the end; else empty."""
    with suppress(OSError, ValueError), path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        if data[4:8] == b"ftyp" and data.find(b"moov") < 0:
            return "; its index (moov) is missing, since the recording was cut off: tools such as untrunc mend that"
    return ""
