"""Images for dense depth: what a pinhole camera with a global shutter would have seen, and the way back.

Dense depth compares images by homographies, to a fraction of a pixel. The radial distortion that a calibration leaves,
and a rolling shutter, move pixels by more than that. So the small images are resampled first, and the depth maps back,
so that they have the pixels of the image again.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.reconstruction.multiview.lens import correction_maps
from vggt_ros.reconstruction.multiview.rolling_shutter import dense_shift_per_second

Array = NDArray[np.float64]

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
        self._intrinsics, self._size, self._radial = intrinsics, size, radial
        factor = np.array(size) / full_size
        self._shifts = [readout * factor * dense_shift_per_second(velocity, size) if readout else None
                        for velocity in velocities]

    def forward(self, images: NDArray[Any], method: int = cv2.INTER_LINEAR) -> NDArray[Any]:
        """Return images as seen by a pinhole camera with a global shutter."""
        return self._resampled(images, True, method)

    def backward(self, maps: NDArray[Any], method: int = cv2.INTER_NEAREST) -> NDArray[Any]:
        """Return maps that belong to the images of `forward` as they belong to the original ones."""
        return self._resampled(maps, False, method)

    def _resampled(self, images: NDArray[Any], forward: bool, method: int) -> NDArray[Any]:
        radial = self._radial if abs(self._radial) >= NEGLIGIBLE_RADIAL else 0.0
        result = images.copy()
        moving = [shift is not None and bool(np.abs(shift).max() > NEGLIGIBLE_SHIFT) for shift in self._shifts]
        if not radial and not any(moving):
            return result
        of_lens = correction_maps(self._intrinsics, self._size, radial, forward)
        for view, (shift, moves) in enumerate(zip(self._shifts, moving, strict=True)):
            if not moves and not radial:
                continue
            x, y = of_lens
            if shift is not None and moves and forward:  # the shift belongs to the pixel of the image
                at = cv2.remap(shift.astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
                x, y = x + at[..., 0], y + at[..., 1]
            elif shift is not None and moves:
                columns, rows = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in self._size))
                at_x, at_y = (columns - shift[..., 0]).astype(np.float32), (rows - shift[..., 1]).astype(np.float32)
                x, y = (cv2.remap(m, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
                        for m in (x, y)) if radial else (at_x, at_y)
            result[view] = cv2.remap(images[view], x, y, method, borderMode=cv2.BORDER_REPLICATE)
        return result
