"""Corners to track (Shi and Tomasi, Good Features to Track, CVPR 1994), spread over the image.

A threshold relative to the strongest corner of the whole image leaves dark and plain parts without any: a lamp in a
dark hall has a thousand times the response of the floor. Therefore every cell of a grid has its own threshold and its
share of the corners; what a cell cannot use goes to the others. The lowest threshold is the noise of the image.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

_COLUMNS, _ROWS = 6, 4
"""Size of the grid."""
_QUALITY = 0.02
"""Smallest response of a corner, as a fraction of the strongest one in its cell."""
_NOISE_FACTOR, _WEAK_NOISE_FACTOR = 15.0, 5.0
"""Smallest response of a corner, as a multiple of that of noise: its position is then certain to 0.1 px. The
weak ones below it are certain to 0.2 px."""
_WEAK_SHARE = 0.5
"""Weak corners are used where this fraction of the wanted number is not reached without them."""
_BLOCK = 5
"""Side of the patch of a corner, pixels."""
_MIN_SIGMA = 1.0
"""Least noise that is assumed, gray values."""
_PASSES = 3


def detect_corners(gray: NDArray[np.uint8], count: int, spacing: float,
                   free: NDArray[np.uint8] | None = None) -> NDArray[np.float32]:
    """Return up to `count` corners (n, 2), x and y, about `spacing` pixels apart, the strongest of each cell first.

    Args:
        gray: the image (H, W).
        count: largest number of corners.
        spacing: smallest distance in x or y, pixels.
        free: 0 where no corner may be, uint8 (H, W).

    """
    height, width = gray.shape
    response = cv2.cornerMinEigenVal(gray, _BLOCK, ksize=3)
    noise = _noise_response(gray)
    weak = response < _NOISE_FACTOR * noise
    response[response < _WEAK_NOISE_FACTOR * noise] = 0
    response[:3], response[-3:], response[:, :3], response[:, -3:] = 0, 0, 0, 0
    if free is not None:
        response[free == 0] = 0
    rows = np.linspace(0, height, _ROWS + 1).astype(int)
    columns = np.linspace(0, width, _COLUMNS + 1).astype(int)
    cell = np.zeros(gray.shape, np.uint8)
    for i in range(_ROWS):
        for j in range(_COLUMNS):
            tile = np.s_[rows[i]:rows[i + 1], columns[j]:columns[j + 1]]
            cell[tile] = i * _COLUMNS + j
            response[tile] /= max(float(response[tile].max()), 1e-12)
    # Of pixels with the same response, which compression makes common in plain parts, one is a little stronger.
    response *= _unequal(gray.shape)
    y, x = np.nonzero(_peaks(response, spacing))
    strength, cells, is_weak = response[y, x], cell[y, x], weak[y, x]
    order = np.lexsort((-strength, cells))
    first = np.searchsorted(cells[order], np.arange(_ROWS * _COLUMNS))
    rank = np.arange(len(order)) - first[cells[order]]  # of each corner among those of its cell
    # In rounds: from every cell its next strongest one; the weak ones come last.
    most = min(count, max(int((~is_weak).sum()), round(_WEAK_SHARE * count)))
    order = order[np.lexsort((-strength[order], rank, is_weak[order]))][:most]
    return np.stack([x[order], y[order]], 1).astype(np.float32)


@lru_cache(maxsize=4)
def _unequal(shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return random factors a little below 1."""
    return np.asarray(1 - 1e-3 * np.random.default_rng(0).random(shape, np.float32), np.float32)


def _peaks(response: NDArray[np.float32], spacing: float) -> NDArray[np.bool_]:
    """Return the mask of local maxima (H, W) that are `spacing` pixels apart, found in a few passes."""
    side = 2 * max(int(spacing), 1) + 1
    kernel, remaining = np.ones((side, side), np.uint8), response.copy()
    peaks = np.zeros(response.shape, np.bool_)
    for _ in range(_PASSES):
        found = (remaining == cv2.dilate(remaining, kernel)) & (remaining > _QUALITY)
        peaks |= found
        remaining[cv2.dilate(found.astype(np.uint8), kernel) > 0] = 0
    return peaks


def _noise_response(gray: NDArray[np.uint8]) -> float:
    """Return the response of `cornerMinEigenVal` to the noise of an image, which its plainest parts show."""
    high = np.abs(cv2.Laplacian(gray, cv2.CV_16S, ksize=1)).astype(np.float32)
    sigma = float(np.quantile(cv2.blur(high, (15, 15))[7::8, 7::8], 0.1)) / (0.8 * np.sqrt(20.0))
    # White noise: the Sobel filter has the variance 12 sigma^2, in units of 4 * 255.
    return 12.0 * (max(sigma, _MIN_SIGMA) / (4 * 255.0)) ** 2
