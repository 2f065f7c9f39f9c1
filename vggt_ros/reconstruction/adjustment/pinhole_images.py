"""Images for dense depth: what a pinhole camera with a global shutter would have seen, and the way back.

Dense depth compares images by homographies, to a fraction of a pixel. The radial distortion that a calibration leaves,
and a rolling shutter, move pixels by more than that. So the small images are resampled first, and the depth maps back,
so that they have the pixels of the image again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.reconstruction.adjustment.lens import correction_maps
from vggt_ros.reconstruction.adjustment.rolling_shutter import dense_shift

Map = NDArray[np.float32]

NEGLIGIBLE_RADIAL = 1e-4
"""Smaller radial distortion does not concern dense depth."""
NEGLIGIBLE_SHIFT = 0.05
"""Smaller shifts by a rolling shutter, pixels, do not concern dense depth."""


class PinholeImages:
    """Resamples images and maps (S, h, w) of S views, of the size that is given."""

    def __init__(self, intrinsics: Array, size: tuple[int, int], radial: float, readout: float,
                 velocities: list[Array], full_size: tuple[int, int]) -> None:
        """Take what moves pixels.

        Args:
            intrinsics: pinhole matrix (3, 3) for this size.
            size: width and height of the small images.
            radial: radial distortion, see `lens`.
            readout: readout time, seconds.
            velocities: image motion of each view at full size, see `rolling_shutter.velocity_grid`.
            full_size: width and height of the full images.

        """
        self._intrinsics, self._size = intrinsics, size
        self._radial = radial if abs(radial) >= NEGLIGIBLE_RADIAL else 0.0
        self._readout, self._velocities, self._factor = readout, velocities, np.array(size) / full_size

    def forward(self, images: NDArray[Any], method: int = cv2.INTER_LINEAR) -> NDArray[Any]:
        """Return the images (S, h, w) as seen by a pinhole camera with a global shutter."""
        return np.array([self._resampled([image], self._positions(view, True), method)[0]
                         for view, image in enumerate(images)])

    def backward(self, maps: Sequence[NDArray[Any]], view: int, method: int = cv2.INTER_NEAREST) -> list[NDArray[Any]]:
        """Return maps (h, w) that belong to a view's image of `forward` as they belong to the original one."""
        return self._resampled(maps, self._positions(view, False), method)

    @staticmethod
    def _resampled(maps: Sequence[NDArray[Any]], positions: tuple[Map, Map] | None, method: int) -> list[NDArray[Any]]:
        """Return what maps (h, w) have at the positions x and y (h, w); a copy of each where these are None."""
        if positions is None:
            return [values.copy() for values in maps]
        return [cv2.remap(values, *positions, method, borderMode=cv2.BORDER_REPLICATE) for values in maps]

    def _positions(self, view: int, forward: bool) -> tuple[Map, Map] | None:
        """Return where the pixels of a view come from, x and y (h, w); None if none of them moves.

        They are computed when they are needed: those of all views would take more memory than the images.
        """
        motion = self._readout * self._factor * self._velocities[view]
        shift = dense_shift(motion if forward else -motion, self._size) if self._readout else None
        if shift is None or not max(shift.max(), -shift.min()) > NEGLIGIBLE_SHIFT:
            return self._of_lens[forward] if self._radial else None
        if forward and self._radial:  # the shift belongs to the pixel of the image
            x, y = self._of_lens[forward]
            shift = cv2.remap(shift, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            return x + shift[..., 0], y + shift[..., 1]
        columns, rows = (np.arange(n, dtype=np.float32) for n in self._size)
        x, y = columns + shift[..., 0], rows[:, None] + shift[..., 1]
        if self._radial:
            x, y = (cv2.remap(m, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
                    for m in self._of_lens[forward])
        return x, y

    @cached_property
    def _of_lens(self) -> dict[bool, tuple[Map, Map]]:
        """Where pixels come from by the radial distortion alone, forward and backward."""
        return {forward: correction_maps(self._intrinsics, self._size, self._radial, forward)
                for forward in (True, False)}
