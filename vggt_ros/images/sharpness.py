"""How sharp an image is, compared with those before it."""

from __future__ import annotations

from collections import deque

import cv2
import numpy as np
from numpy.typing import NDArray

_WIDTH = 320
"""Width at which sharpness is measured, pixels: blur of a pixel does not matter."""
_IMAGES = 15
"""Images with which one is compared: they show about the same."""


def sharpness(gray: NDArray[np.uint8]) -> float:
    """Return the energy of fine structures in an image (H, W), as a fraction of that of coarser ones.

    Brightness and contrast do not matter.
    """
    size = (_WIDTH, max(1, round(gray.shape[0] * _WIDTH / gray.shape[1])))
    small = cv2.resize(gray, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    once = cv2.blur(small, (3, 3))
    fine = np.abs(small - once)
    coarse = np.abs(once - cv2.blur(once, (7, 7)))
    return float(fine.mean() / max(float(coarse.mean()), 1e-3))


class Sharpness:
    """The sharpness of the newest images.

    Attributes:
        relative: sharpness of the newest image over the median of those before; 1 for the first.

    """

    def __init__(self) -> None:
        """Begin without images."""
        self.clear()

    def clear(self) -> None:
        """Forget all images."""
        self._values: deque[float] = deque(maxlen=_IMAGES)
        self.relative = 1.0

    def add(self, gray: NDArray[np.uint8]) -> None:
        """Measure an image (H, W)."""
        value = sharpness(gray)
        if len(self._values) >= 3:
            self.relative = value / max(float(np.median(self._values)), 1e-6)
        self._values.append(value)
