"""Images padded with black to a square, as the published `demo_colmap.py` gives them to the network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.reconstruction.vggt.comparison.recorded_run import SIDE


def to_square(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) padded to (L, L, 3), where L is the longer side."""
    height, width = image.shape[:2]
    left, top, side = _padding(width, height)
    square = np.zeros((side, side, 3), np.uint8)
    square[top:top + height, left:left + width] = image
    return square


def padded_from_image(width: int, height: int) -> Array:
    """Return the matrix (3, 3) from pixels of an image of this size to those of its square of `SIDE` pixels.

    Integers are pixel centers. Where the two sides differ by an odd number, the padding is not even: the center of the
    image is half of its pixels beside that of the square.
    """
    *padding, side = _padding(width, height)
    scale = SIDE / side
    matrix = np.diag([scale, scale, 1.0])
    matrix[:2, 2] = (np.array(padding) + 0.5) * scale - 0.5
    return matrix


def _padding(width: int, height: int) -> tuple[int, int, int]:
    """Return the black columns on the left, the black rows at the top, and the side of the square, pixels."""
    side = max(width, height)
    return (side - width) // 2, (side - height) // 2, side
