"""Which way up photos are: the orientation that EXIF states, and what is done with it.

A phone stores the pixels as its sensor has them, however it is held, and states beside them how they are to be turned.
All photos of one camera have one calibration as stored. Photos that are turned one by one would be of two cameras, and
a phone that looks down states one orientation now and another one then: so all are turned as most of them state it. A
photo of another size was stored anew by another program; it is turned as it states itself.

Source: CIPA DC-008 (EXIF 2.3), 4.6.4, tag 274.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DESCRIPTIONS = {2: "mirrored", 3: "turned by 180 degrees", 4: "mirrored and turned by 180 degrees",
                 5: "mirrored and turned by 90 degrees to the left", 6: "turned by 90 degrees to the right",
                 7: "mirrored and turned by 90 degrees to the right", 8: "turned by 90 degrees to the left"}


def turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return an image as stored, (h, w) or (h, w, 3), as it is shown by an orientation of EXIF, 1 to 8."""
    if orientation == 1:
        return pixels
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


@dataclass(frozen=True)
class Form:
    """Size and orientation that most images of a camera have.

    Attributes:
        stored: (width, height) of the files.
        orientation: of EXIF, 1 to 8.

    """

    stored: tuple[int, int]
    orientation: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Return (width, height) as shown."""
        return self.stored if self.orientation < 5 else self.stored[::-1]

    @property
    def description(self) -> str:
        """Say what is done with the images; empty if nothing is."""
        return _DESCRIPTIONS.get(self.orientation, "")

    def apply(self, image: NDArray[np.uint8], own: int) -> NDArray[np.uint8]:
        """Return an image as shown; `own` is the orientation that its file states, used if it has another size."""
        return turned(image, self.orientation if image.shape[1::-1] == self.stored else own)
