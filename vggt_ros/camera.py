"""Cameras: intrinsics as they arrive, and rectification to the pinhole images that the rest works on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Camera:
    """Intrinsics of an image as it arrives.

    Attributes:
        width, height: size in pixels.
        intrinsics: float64 (3, 3); integer coordinates are pixel centers.
        distortion: coefficients in OpenCV's order for the model, empty if none.
        model: `plumb_bob`, `rational_polynomial` or `equidistant` (fisheye), as in sensor_msgs/CameraInfo.
        calibrated: False if the field of view is only assumed.

    """

    width: int
    height: int
    intrinsics: NDArray[np.float64]
    distortion: tuple[float, ...] = ()
    model: str = "plumb_bob"
    calibrated: bool = True

    @staticmethod
    def assumed(width: int, height: int, fov: float) -> Camera:
        """Return a pinhole camera of `fov` degrees across the width, marked as not calibrated."""
        focal = width / 2 / np.tan(np.radians(fov) / 2)
        intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
        return Camera(width, height, intrinsics, calibrated=False)
