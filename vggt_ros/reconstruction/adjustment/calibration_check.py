"""Whether the images agree with the calibration of the camera.

A calibration of another camera, zoom or image size bends the map, and nothing else shows it: the residuals stay below a
pixel. Beside the solution of each window, which keeps the calibration, bundle adjustment with the focal length and the
radial distortion free says what the images ask for. Windows are a few percent off in that, far more than their
covariances say, so it corrects nothing: only a calibration that is off by more is contradicted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.reconstruction.adjustment.bundle import AdjustmentOptions, Scene
from vggt_ros.reconstruction.adjustment.covariance import lens_sigmas
from vggt_ros.reconstruction.adjustment.lens import UNCALIBRATED
from vggt_ros.reconstruction.adjustment.triangulation import triangulate_and_adjust

MAX_FOCAL, MAX_RADIAL = 0.07, 0.1
"""Largest errors of a calibration that are not told: of the logarithm of the focal length, and of the radial distortion
at one focal length (of the calibration) from the center. Right calibrations are found to be up to 0.05 and 0.03 off."""
MAX_SIGMA = 0.03
"""Largest standard deviation of the focal length by a window that says anything: straight drives have a larger one."""
WINDOW_SIGMA = 0.03
"""Standard deviation of the focal length by a window beside that by its observations."""
MIN_WINDOWS, ENOUGH = 2, 6
"""Windows that say anything, after which there is an answer, and after which it is final."""


@dataclass(frozen=True)
class CalibrationCheck:
    """What windows that say anything ask for, beside the calibration.

    Attributes:
        log_focal: logarithm of the focal length over that of the calibration, mean by information.
        radial: radial distortion, as in `Scene` with the calibration's focal length, the mean with these weights.
        information: sum of the weights.
        windows: number of windows.

    """

    log_focal: float = 0.0
    radial: float = 0.0
    information: float = 0.0
    windows: int = 0

    @property
    def is_contradicted(self) -> bool:
        """True if the calibration is off by more than windows err."""
        return self.windows >= MIN_WINDOWS and (abs(self.log_focal) > MAX_FOCAL or abs(self.radial) > MAX_RADIAL)

    @property
    def report(self) -> dict[str, float]:
        """The figures from which `contradiction` makes a sentence."""
        return {"focal_by_images": float(np.exp(self.log_focal)), "radial_by_images": self.radial,
                "calibration_contradicted": float(self.is_contradicted)}

    def updated(self, scene: Scene, observations: Array, visible: NDArray[np.bool_], registered: NDArray[np.bool_],
                applied: float) -> CalibrationCheck:
        """Return the check with one more window.

        Args:
            scene: solution with the focal length of the calibration.
            observations: (n, S, 2), corrected for the radial distortion `applied`.
            visible: (n, S), which of them there are.
            registered: (S,), the cameras that have a pose.
            applied: what the observations are corrected for.

        """
        if self.windows >= ENOUGH:
            return self
        options = AdjustmentOptions(30, focal_sigma=UNCALIBRATED[0], radial_sigma=UNCALIBRATED[1])
        free, inliers = triangulate_and_adjust(scene, observations, visible, registered, int(np.argmax(registered)),
                                               options)
        columns, rows = np.flatnonzero(registered), np.flatnonzero(inliers.any(1))
        if not len(rows):
            return self
        grid = np.ix_(rows, columns)
        sigma = lens_sigmas(free.part(columns, rows), observations[grid], inliers[grid], options)[0]
        if sigma > MAX_SIGMA:
            return self
        weight = 1 / (sigma**2 + WINDOW_SIGMA**2)
        total = self.information + weight
        log_focal = float(np.log(free.focal[columns[0], 0] / scene.focal[columns[0], 0]))
        return replace(self, log_focal=self.log_focal + weight / total * (log_focal - self.log_focal),
                       radial=self.radial + weight / total * (applied + free.radial - self.radial),
                       information=total, windows=self.windows + 1)


def contradiction(report: Mapping[str, float]) -> str:
    """Return in a sentence how a window's report contradicts the calibration, and what can be done; else empty."""
    if not report.get("calibration_contradicted"):
        return ""
    factor, radial = report["focal_by_images"], report["radial_by_images"]
    return (f"the images contradict the calibration: they fit to {factor:.2f} times its focal length"
            + (f", with {abs(radial):.0%} more {'barrel' if radial > 0 else 'pincushion'} distortion"
               if abs(radial) > MAX_RADIAL / 2 else "")
            + "; calibrate the camera anew, with this zoom and image size, or leave the calibration out")
