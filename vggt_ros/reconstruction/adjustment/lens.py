"""What the windows say of the lens: the focal length without a calibration, and the distortion that one leaves.

A calibration is never exact. In a bend, where the image moves by its own width, radial distortion of a few pixels at
the border is taken for motion, and the scale drifts by ten percent. It is a constant of the camera, so the estimate of
one window is the prior of the next. Windows differ in it by more than their observations explain (blur, rolling
shutter, patches that grow in forward motion), so a distortion that is not clearly larger than this is not corrected:
a free parameter more would make the poses of every window worse.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.reconstruction.adjustment.bundle import AdjustmentOptions, Scene, undistorted
from vggt_ros.reconstruction.adjustment.covariance import lens_sigmas

UNCALIBRATED = 0.2, 0.05
"""Standard deviations of an assumed focal length, relative, and of the radial distortion without a calibration."""
MIN_FOCAL_SIGMA, MIN_RADIAL_SIGMA = 0.001, 0.003
"""Smallest standard deviation of either: autofocus and temperature change lenses, too."""
INFLATION = 2.0
"""Factor of the focal standard deviation of a window: windows share observations, whose errors are not independent."""
WINDOW_RADIAL_SIGMA = 0.01
"""Standard deviation of the radial distortion by a window beside that by its observations."""
MIN_RADIAL, SIGNIFICANCE = 0.005, 2.0
"""Smallest radial distortion that is corrected, also as a multiple of its standard deviation."""


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
    def applied(self) -> float:
        """The radial distortion that observations are corrected for: 0 if it is small or uncertain."""
        return self.radial if abs(self.radial) > max(MIN_RADIAL, SIGNIFICANCE * self.radial_sigma) else 0.0

    @property
    def is_certain(self) -> bool:
        """True if more windows would not change the estimate."""
        return not self.focal_sigma and self.radial_sigma <= MIN_RADIAL_SIGMA

    @property
    def is_settled(self) -> bool:
        """True if what is corrected will hardly change any more."""
        return self.focal_sigma < 0.01 and (not self.applied or self.radial_sigma < 0.007)

    def updated(self, scene: Scene, observations: Array, inliers: NDArray[np.bool_], registered: NDArray[np.bool_],
                focal: Array) -> Lens:
        """Return the lens by an adjusted window for which this one was the prior.

        Args:
            scene: solution in which what of the lens has a standard deviation was estimated.
            observations: (n, S, 2), corrected for what this lens applies.
            inliers: (n, S), those that were used.
            registered: (S,), the cameras that have a pose.
            focal: (S, 2), focal lengths by this lens.

        """
        if not (self.focal_sigma or self.radial_sigma) or not inliers.any():
            return self
        columns, rows = np.flatnonzero(registered), np.flatnonzero(inliers.any(1))
        grid = np.ix_(rows, columns)
        options = AdjustmentOptions(focal_sigma=self.focal_sigma, radial_sigma=self.radial_sigma)
        focal_sigma, radial_sigma = lens_sigmas(scene.part(columns, rows), observations[grid], inliers[grid], options)
        changes: dict[str, float] = {}
        if self.focal_sigma:
            limits = min(MIN_FOCAL_SIGMA, self.focal_sigma), self.focal_sigma
            changes |= {"focal_factor": self.focal_factor * float(scene.focal[columns[0], 0] / focal[columns[0], 0]),
                        "focal_sigma": float(np.clip(INFLATION * focal_sigma, *limits))}
        if self.radial_sigma:
            radial, sigma = _combined(self.radial, self.radial_sigma, self.applied + scene.radial, radial_sigma)
            changes |= {"radial": radial, "radial_sigma": sigma}
        return replace(self, **changes)


def _combined(prior: float, prior_sigma: float, posterior: float, sigma: float) -> tuple[float, float]:
    """Return estimate and standard deviation of the radial distortion after a window.

    What its observations say is what makes the `posterior` of the `prior`; it is as uncertain as windows differ.
    """
    information = max(1 / max(sigma, 1e-6) ** 2 - 1 / prior_sigma**2, 0.0)
    if information <= 0.0:
        return prior, prior_sigma
    measured = (posterior / sigma**2 - prior / prior_sigma**2) / information
    weight = 1 / (1 / information + WINDOW_RADIAL_SIGMA**2)
    total = weight + 1 / prior_sigma**2
    return ((weight * measured + prior / prior_sigma**2) / total,
            float(np.clip(total**-0.5, min(MIN_RADIAL_SIGMA, prior_sigma), prior_sigma)))


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
