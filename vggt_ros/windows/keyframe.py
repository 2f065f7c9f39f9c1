"""Keyframes, and windows of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Corners:
    """What is followed from image to image, where it stands in one of them.

    Attributes:
        ids: int64 (k,), rising; the same corner has the same id in every image.
        pixels: float32 (k, 2), x and y.
        velocity: float32 (k, 2), pixels a second; NaN for corners that are new.

    """

    ids: NDArray[np.int64]
    pixels: NDArray[np.float32]
    velocity: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class BinaryFeatures:
    """ORB features of an image: pixels (m, 2), x and y, and what they look like, uint8 (m, 32)."""

    pixels: NDArray[np.float32]
    looks: NDArray[np.uint8]

    def __len__(self) -> int:
        """Return the number of features."""
        return len(self.pixels)


@dataclass(frozen=True, eq=False)
class Keyframe:
    """A frame that the reconstructor will see.

    Attributes:
        id: number of the keyframe; never reused, rising with time.
        stamp: nanoseconds, exactly the message's.
        image: rectified RGB, uint8 (H, W, 3), at the reconstructor's working size.
        intrinsics: pinhole matrix, float64 (3, 3), for this size; integer coordinates are pixel centers.
        calibrated: False if `intrinsics` are only assumed.
        corners: those that tracking follows: they lead from one keyframe to the next however far apart they are, and
            a rolling shutter shifts every row by its velocity. None if nothing was tracked.
        map_camera: 4x4, where the tracker took it to be in the map; None if it did not know.
        binary: its binary features; None if they were not looked for yet.

    """

    id: int
    stamp: int
    image: NDArray[np.uint8]
    intrinsics: NDArray[np.float64]
    calibrated: bool = True
    corners: Corners | None = None
    map_camera: NDArray[np.float64] | None = None
    binary: BinaryFeatures | None = None


@dataclass(frozen=True, eq=False)
class Window:
    """Keyframes that are reconstructed at once, oldest first; `shared` are the ids that the window before had too."""

    id: int
    keyframes: tuple[Keyframe, ...]
    shared: tuple[int, ...] = ()

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids of its keyframes."""
        return tuple(keyframe.id for keyframe in self.keyframes)
