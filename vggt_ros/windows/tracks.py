"""Tracks: where keyframes show points, for an adjustment of all keyframes at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Tracks:
    """Observations of points by the keyframes of a window and those before it, and what is known of the camera.

    Attributes:
        points: int64 (m,), number of the point; the same in every window that continues its track.
        keyframes: int64 (m,), id of the keyframe.
        pixels: float32 (m, 2), in the full image, from the principal point, as the camera shows them.
        shift_rate: float32 (m, 2), their shift by a rolling shutter, pixels per second of readout.
        focal: (2,), focal lengths for these images, pixels.
        radial: radial distortion that a calibration leaves, as in `Scene`.
        readout: of the rolling shutter, seconds.

    """

    points: NDArray[np.int64]
    keyframes: NDArray[np.int64]
    pixels: NDArray[np.float32]
    shift_rate: NDArray[np.float32]
    focal: NDArray[np.float64]
    radial: float = 0.0
    readout: float = 0.0
