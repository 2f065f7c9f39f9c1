"""Keyframes and windows of keyframes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Corners:
    """Tracked features of one image.

    Attributes:
        ids: int64 (k,), rising; the same feature has the same id in every image.
        pixels: float32 (k, 2), x and y.
        velocity: float32 (k, 2), pixels per second; NaN for features of which it is not known.

    """

    ids: NDArray[np.int64]
    pixels: NDArray[np.float32]
    velocity: NDArray[np.float32]

    def common(self, other: Corners) -> float:
        """Return the fraction of the corners of the one with fewer that both have."""
        fewer = min(len(self.ids), len(other.ids))
        return len(np.intersect1d(self.ids, other.ids, assume_unique=True)) / fewer if fewer else 0.0

    def with_velocity(self, known: Corners) -> Corners:
        """Return these corners with the velocity that is `known` of some of them by the image after theirs.

        That of the others changes as theirs does, in the median.
        """
        _, rows, known_rows = np.intersect1d(self.ids, known.ids, assume_unique=True, return_indices=True)
        velocity = np.full_like(self.velocity, np.nan)
        velocity[rows] = known.velocity[known_rows]
        return Corners(self.ids, self.pixels, filled(velocity, self.velocity))


def filled(values: NDArray[np.float32], rough: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return values (n, 2) with their NaN replaced by `rough` ones (n, 2), plus what these lack in the median."""
    both = np.isfinite(values[:, 0]) & np.isfinite(rough[:, 0])
    correction = np.median(values[both] - rough[both], axis=0) if both.any() else 0.0
    return np.where(np.isfinite(values), values, rough + correction).astype(np.float32)


@dataclass(frozen=True, eq=False)
class BinaryFeatures:
    """ORB features of an image: pixels (m, 2), x and y, and descriptors, uint8 (m, 32)."""

    pixels: NDArray[np.float32]
    descriptors: NDArray[np.uint8]

    def __len__(self) -> int:
        """Return the number of features."""
        return len(self.pixels)


@dataclass(frozen=True, eq=False)
class Keyframe:
    """A frame that will be reconstructed.

    Attributes:
        id: number of the keyframe; never reused, rising with time.
        stamp: nanoseconds, exactly the message's.
        image: rectified RGB, uint8 (H, W, 3), at the reconstructor's working size.
        intrinsics: pinhole matrix, float64 (3, 3), for this size; integer coordinates are pixel centers.
        calibrated: False if `intrinsics` are only assumed.
        corners: the tracked features. They connect consecutive keyframes even if these are far apart, and their
            velocity corrects the row-wise shift of a rolling shutter. None if nothing was tracked.
        map_camera: 4x4, the tracker's estimate of the pose in the map; None if it had none.
        binary: ORB features; None if they have not been extracted yet.
        excluded: mask, bool (h, w) of any size, of the part of the image that is left out; None: nothing is.
        unordered: whether it is a photo without an order in time, so that the one before may show something else.

    """

    id: int
    stamp: int
    image: NDArray[np.uint8]
    intrinsics: NDArray[np.float64]
    calibrated: bool = True
    corners: Corners | None = None
    map_camera: NDArray[np.float64] | None = None
    binary: BinaryFeatures | None = None
    excluded: NDArray[np.bool_] | None = None
    unordered: bool = False


@dataclass(frozen=True, eq=False)
class Window:
    """Keyframes that are reconstructed together, oldest first.

    `shared` are the ids also in the previous window, `earlier` those of windows before that may be placed anew.
    """

    id: int
    keyframes: tuple[Keyframe, ...]
    shared: tuple[int, ...] = ()
    earlier: tuple[int, ...] = ()

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids of its keyframes."""
        return tuple(keyframe.id for keyframe in self.keyframes)


def overlapping_windows(keyframes: Sequence[Keyframe], size: int, overlap: int) -> list[Window]:
    """Return windows of `size` keyframes in their order, each of which shares `overlap` with the one before."""
    starts = range(0, max(len(keyframes) - overlap, 1), size - overlap)
    parts = [tuple(keyframes[start:start + size]) for start in starts]
    return [Window(number, part, tuple(keyframe.id for keyframe in part[:overlap]) if number else ())
            for number, part in enumerate(parts)]
