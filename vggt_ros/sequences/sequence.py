"""Interface of a sequence of recorded images, whatever its source."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import Camera
from vggt_ros.geometry.poses import Array
from vggt_ros.storage.files import FileError

Image = NDArray[np.uint8]
Truth = tuple[NDArray[np.int64], Array]


_MAX_REASONS = 10
"""Most reasons that are listed."""


class SequenceError(FileError):
    """A sequence cannot be opened or read further; the text names the file or folder."""


class Omitted:
    """The images of a sequence that were left out, by the reason.

    Attributes:
        count: how many.

    """

    def __init__(self) -> None:
        """Begin without any."""
        self.clear()

    def clear(self) -> None:
        """Forget all, at the beginning of another pass."""
        self.count = 0
        self._first: dict[str, str] = {}
        self._counts: Counter[str] = Counter()

    def add(self, name: str, reason: str) -> None:
        """Count an image, by its name, and why it is left out."""
        self.count += 1
        kind = re.sub(r"\d+", "#", reason)  # the same with other numbers
        self._counts[kind] += 1
        self._first.setdefault(kind, f"{name}: {reason}")

    @property
    def lines(self) -> list[str]:
        """One line for each reason, with the number of images and the first of them."""
        return [f"{count} image{'s' if count > 1 else ''} left out, {'the first is ' if count > 1 else ''}"
                f"{self._first[kind]}" for kind, count in self._counts.most_common(_MAX_REASONS)]


class Sequence(Protocol):
    """Images in order of time.

    Attributes:
        name: for reports.
        camera: of the images as they are.
        rectified: whether the images are rectified already, whatever distortion the camera has.
        assumptions: one line for each thing that is assumed because the recording does not have it.
        omitted: the images that the newest iteration left out, since they cannot be used.

    """

    name: str
    camera: Camera
    rectified: bool
    assumptions: tuple[str, ...]
    omitted: Omitted

    @property
    def truth(self) -> Truth | None:
        """Stamps, nanoseconds (n,), and poses `world_camera` (n, 4, 4) in optical axes; None if they are not known."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __iter__(self) -> Iterator[tuple[int, Image]]:
        """Yield stamp, nanoseconds, and image, RGB uint8 (H, W, 3), of the size of `camera`, which may change before.

        Images that cannot be used are left out; raises SequenceError where the recording cannot be read further.
        """
        ...

    def depths(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield stamp and sensor depth (H, W) registered to the image, meters along the optical axis, NaN: unknown."""
        ...
