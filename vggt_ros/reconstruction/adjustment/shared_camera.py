"""The camera that took all images of a map, as self-calibration knows it: what a calibration leaves.

A focal length that is wrong by one percent, or a principal point that is off by two pixels, costs little in one window.
In bends it turns and stretches a long path.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vggt_ros.geometry.poses import Array
from vggt_ros.reconstruction.adjustment.bundle import undistorted

PARAMETERS = 5
"""[logarithm of a factor on the focal lengths, principal point x and y in pixels, radial distortion, readout time in
seconds]."""


@dataclass(frozen=True, eq=False)
class SharedCamera:
    """A camera model of all images.

    Attributes:
        focal: (2,), focal lengths, pixels.
        center: (2,), the principal point from the calibrated one, pixels.
        radial: radial distortion, as in `bundle.Scene`.
        readout: of the rolling shutter, seconds.

    """

    focal: Array
    center: Array
    radial: float = 0.0
    readout: float = 0.0

    def pinhole(self, pixels: Array, shift_rate: Array) -> Array:
        """Return where an ideal camera would show points (m, 2), from its principal point.

        `pixels` are from the calibrated one, `shift_rate` (m, 2) in pixels per second of readout.
        """
        return undistorted(self._centered(pixels, shift_rate), self.focal, self.radial)

    def derivatives(self, projections: Array, pixels: Array, shift_rate: Array) -> Array:
        """Return those of `projections` (m, 2) minus `pinhole` by the parameters (m, 2, 5).

        That of the distortion at the place of the observation is left out: it is a few percent.
        """
        centered = self._centered(pixels, shift_rate)
        square = ((centered / self.focal) ** 2).sum(1, keepdims=True)
        result = np.zeros((len(pixels), 2, PARAMETERS))
        result[:, :, 0] = projections + 2 * self.radial * square * centered
        result[:, :, 1:3] = np.eye(2)
        result[:, :, 3] = -square * centered
        result[:, :, 4] = shift_rate
        return result

    def moved(self, step: Array) -> SharedCamera:
        """Return the camera after a step (5,) of its parameters."""
        return SharedCamera(self.focal * np.exp(np.clip(step[0], -0.1, 0.1)), self.center + step[1:3],
                            self.radial + float(np.clip(step[3], -0.1, 0.1)), self.readout + float(step[4]))

    def difference(self, other: SharedCamera) -> Array:
        """Return the parameters (5,) of this camera minus those of another one."""
        return np.array([np.log(self.focal[0] / other.focal[0]), *(self.center - other.center),
                         self.radial - other.radial, self.readout - other.readout])

    def _centered(self, pixels: Array, shift_rate: Array) -> Array:
        return np.asarray(pixels - self.center - self.readout * shift_rate)
