"""Interface of a sequence of recorded images, whatever its source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import Camera
from vggt_ros.geometry.poses import Array
from vggt_ros.storage.files import FileError

Image = NDArray[np.uint8]
Truth = tuple[NDArray[np.int64], Array]


class SequenceError(FileError):
    """A sequence cannot be opened or read further; the text names the file or folder."""


class Sequence(Protocol):
    """Images in order of time.

    Attributes:
        name: for reports.
        camera: of the images as they are.
        rectified: whether the images are rectified already, whatever distortion the camera has.
        assumptions: one line for each thing that is assumed because the recording does not have it.

    """

    name: str
    camera: Camera
    rectified: bool
    assumptions: tuple[str, ...]

    @property
    def truth(self) -> Truth | None:
        """Stamps, nanoseconds (n,), and poses `world_camera` (n, 4, 4) in optical axes; None if they are not known."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __iter__(self) -> Iterator[tuple[int, Image]]:
        """Yield stamp, nanoseconds, and image, RGB uint8 (H, W, 3); raises SequenceError at a damaged image."""
        ...

    def depths(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield stamp and sensor depth (H, W) registered to the image, meters along the optical axis, NaN: unknown."""
        ...
