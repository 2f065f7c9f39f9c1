"""What the windows say of the lens: the focal length without a calibration, and the distortion that one leaves.

A calibration is never exact. In a bend, where the image moves by its own width, radial distortion of a few pixels at
the border is taken for motion, and the scale drifts by ten percent. It is a constant of the camera, so the estimate of
one window is the prior of the next.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.reconstruction.adjustment.bundle import undistorted

Array = NDArray[np.float64]

UNCALIBRATED = 0.2, 0.05
"""Standard deviations of an assumed focal length, relative, and of the radial distortion without a calibration."""
MIN_SIGMA = 0.001
"""Smallest standard deviation of either: autofocus and temperature change lenses, too."""
INFLATION = 2.0
"""Factor of the standard deviations of a window: windows share observations, whose errors are not independent."""


@dataclass(frozen=True)
class Lens:
    """Corrections of the calibration, with standard deviations, 0 for what is not estimated.

    Attributes:
        focal_factor: focal length over that of the keyframes' intrinsics.
        radial: radial distortion, as in `Scene`.
        focal_sigma, radial_sigma: standard deviations of the logarithm of the factor, and of the distortion.

    """

    focal_factor: float = 1.0
    radial: float = 0.0
    focal_sigma: float = 0.0
    radial_sigma: float = 0.0

    @property
    def is_settled(self) -> bool:
        """True if the estimate will hardly change any more."""
        return self.focal_sigma < 0.01 and self.radial_sigma < 0.004

    def updated(self, focal_factor: float, radial: float, focal_sigma: float, radial_sigma: float) -> Lens:
        """Return the lens by a window for which this one was the prior."""
        changes: dict[str, float] = {}
        if self.focal_sigma:
            changes |= {"focal_factor": focal_factor, "focal_sigma": _limited(focal_sigma, self.focal_sigma)}
        if self.radial_sigma:
            changes |= {"radial": radial, "radial_sigma": _limited(radial_sigma, self.radial_sigma)}
        return replace(self, **changes)


def _limited(sigma: float, before: float) -> float:
    return float(np.clip(INFLATION * sigma, min(MIN_SIGMA, before), before))


def distorted(observations: Array, focal: Array, radial: float) -> Array:
    """Return observations (..., 2) as the lens shows them: the inverse of `undistorted`."""
    result = observations
    for _ in range(3 if radial else 0):
        factor = 1 + radial * ((result / focal) ** 2).sum(-1, keepdims=True)
        result = observations / factor
    return result


def correction_maps(intrinsics: Array, size: tuple[int, int], radial: float,
                    forward: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the maps x and y (h, w) for `cv2.remap` between images of the lens and of a pinhole camera.

    Args:
        intrinsics: pinhole matrix (3, 3).
        size: width and height.
        radial: distortion.
        forward: True for pinhole images from those of the lens, False for the way back.

    """
    x, y = np.meshgrid(np.arange(size[0], dtype=np.float64), np.arange(size[1], dtype=np.float64))
    center, focal = intrinsics[:2, 2], intrinsics[[0, 1], [0, 1]]
    pixels = np.stack([x, y], -1) - center
    moved = (distorted(pixels, focal, radial) if forward else undistorted(pixels, focal, radial)) + center
    return moved[..., 0].astype(np.float32), moved[..., 1].astype(np.float32)
