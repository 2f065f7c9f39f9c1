"""A picture of the tracked corners in their image."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

FROM_DEPTH, TRIANGULATED, UNKNOWN = (0, 220, 0), (255, 170, 0), (140, 140, 140)
"""RGB colors of corners whose landmark comes from solved depth, of those triangulated by tracking, of all others."""
_SHIFT = 3
"""Fractional bits of coordinates that are passed to OpenCV."""


def draw_corners(image: NDArray[np.uint8], pixels: NDArray[np.float32], motion: NDArray[np.float32],
                 landmark: NDArray[np.bool_], from_depth: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a copy of an image with its corners, each with a line to where it was in the image before.

    Args:
        image: RGB, uint8 (H, W, 3).
        pixels: (n, 2), x and y of the corners.
        motion: (n, 2), displacement since the image before, NaN for new ones.
        landmark: (n,), whether a corner has a landmark.
        from_depth: (n,), whether that comes from solved depth.

    """
    drawn = np.ascontiguousarray(image).copy()
    radius = max(2, round(image.shape[1] / 250))
    scaled = np.rint(pixels * (1 << _SHIFT)).astype(int)
    before = np.rint((pixels - np.nan_to_num(motion)) * (1 << _SHIFT)).astype(int)
    for here, there, known, deep in zip(scaled.tolist(), before.tolist(), landmark, from_depth, strict=True):
        color = FROM_DEPTH if deep else TRIANGULATED if known else UNKNOWN
        cv2.line(drawn, here, there, color, 1, cv2.LINE_AA, _SHIFT)
        cv2.circle(drawn, here, radius << _SHIFT, color, 1, cv2.LINE_AA, _SHIFT)
    return drawn
