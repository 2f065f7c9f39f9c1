"""Interlaced images, as analog cameras and some capture cards give them: every second row is of another time.

While the camera moves, edges are combs that match nothing. The rows of one time are kept, and those between them are
interpolated: half of the vertical resolution, but one image.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

_LOG = logging.getLogger(__name__)
_COMBED = 1.05
"""Ratio of the difference of neighboring rows to that of rows two apart, above which they are of different times: in
any other image it is at most 1, which white noise has."""
_ENOUGH = 5
"""Combed images in a row after which all images are known to be interlaced, also where the camera stands still."""
_STEP = 4
"""Every so many columns are compared."""


class Deinterlacer:
    """Interpolates the odd rows of interlaced images."""

    def __init__(self) -> None:
        """Begin with images that are not known to be interlaced."""
        self._combed = 0

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an image (H, W) or (H, W, 3), as it is if it is not interlaced."""
        if self._combed < _ENOUGH:
            self._combed = self._combed + 1 if is_combed(image) else 0
            if not self._combed:
                return image
            if self._combed == _ENOUGH:
                _LOG.warning("the images are interlaced: every second row is of another time, and is interpolated; a "
                             "progressive mode of the camera has more detail")
        return interpolated(image)


def is_combed(image: NDArray[np.uint8]) -> bool:
    """Return whether rows of an image (H, W, ...) are more alike two apart than next to each other."""
    rows = image[:, ::_STEP].astype(np.int16)
    near, far = (float(np.abs(rows[step:] - rows[:-step]).mean()) if len(rows) > step else 0.0 for step in (1, 2))
    return near > _COMBED * far


def interpolated(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image (H, W, ...) with each odd row as the mean of those beside it; the last one has one only."""
    result, even = image.copy(), image[::2].astype(np.uint16)
    below = np.concatenate([even[1:], even[-1:]])
    odd = result[1::2]
    odd[:] = ((even + below + 1) // 2)[:len(odd)]
    return result
