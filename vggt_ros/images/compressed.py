"""A color image kept as a JPEG, in about a fifth of the memory of its pixels."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_QUALITY = 95
"""Of the JPEG, 0 to 100."""


class CompressedColor:
    """An RGB image, uint8 (h, w, 3); `np.asarray` gives the pixels, with errors of some gray values in dense texture.

    Attributes:
        shape: (h, w, 3).

    """

    def __init__(self, image: NDArray[np.uint8]) -> None:
        """Keep a copy of an image (h, w, 3)."""
        self.shape = image.shape
        # A copy of its own: what OpenCV returns is longer than the JPEG.
        self._code = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
                                  [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return len(self._code)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the pixels, (h, w, 3); a new array every time."""
        if copy is False:
            raise ValueError("the pixels of a compressed image are always a copy")
        image = cv2.imdecode(np.frombuffer(self._code, np.uint8), cv2.IMREAD_COLOR)
        pixels: NDArray[Any] = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
        return pixels if dtype is None else pixels.astype(dtype, copy=False)
