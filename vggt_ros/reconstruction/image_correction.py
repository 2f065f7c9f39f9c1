"""Images of a window as a pinhole camera with a global shutter would have seen them, for its refinement.

The rows of a rolling shutter are shifted by pixels where the camera turns, which bends the poses of a window that is
adjusted to a tenth of a pixel. The readout time is estimated over the first windows (`rolling_shutter`), and the images
are resampled; the image motion is that of the tracker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.reconstruction.adjustment.pinhole_images import PinholeImages
from vggt_ros.reconstruction.adjustment.rolling_shutter import (
    READOUT_CHANGE,
    ReadoutEstimator,
    shift_per_second,
    velocity_grid,
)
from vggt_ros.reconstruction.adjustment.sparse_reconstruction import SparseReconstruction
from vggt_ros.windows.keyframe import Keyframe

Gray = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class RawImage:
    """An image as it came: gray (H, W), intrinsics (3, 3), and its motion (see `velocity_grid`)."""

    gray: Gray
    intrinsics: Array
    velocity: Array

    @staticmethod
    def of(keyframe: Keyframe) -> RawImage:
        """Return the image of a keyframe."""
        gray = np.asarray(cv2.cvtColor(keyframe.image, cv2.COLOR_RGB2GRAY), np.uint8)
        return RawImage(gray, keyframe.intrinsics, velocity_grid(keyframe))


class ImageCorrection:
    """Corrects images for a rolling shutter, whose readout time it estimates over the windows."""

    def __init__(self) -> None:
        """Begin with a global shutter."""
        self._readout = ReadoutEstimator(-1.0)
        self._corrected: dict[RawImage, Gray] = {}  # the newest, with this readout time:
        self._corrected_by = 0.0

    @property
    def readout(self) -> float:
        """Readout time found so far, seconds; 0 for a global shutter."""
        return self._readout.seconds

    def corrected(self, images: Sequence[RawImage]) -> list[Gray]:
        """Return images (H, W), all of one size, as seen with a global shutter."""
        if not self.readout:
            return [image.gray for image in images]
        known = self._corrected if self._corrected_by == self.readout else {}
        missing = [image for image in images if image not in known]
        size = images[0].gray.shape[1], images[0].gray.shape[0]
        pinhole = PinholeImages(images[0].intrinsics, size, 0.0, self.readout, [i.velocity for i in missing], size)
        grays = pinhole.forward(np.array([image.gray for image in missing]), cv2.INTER_CUBIC)
        known = {**known, **dict(zip(missing, grays, strict=True))}
        self._corrected, self._corrected_by = {image: known[image] for image in images}, self.readout
        return list(self._corrected.values())

    def update(self, images: Sequence[RawImage], solution: SparseReconstruction,
               tracked: NDArray[np.bool_]) -> bool:
        """Update the estimate by a window; return whether it has to be solved again with the new one.

        Args:
            images: of the S cameras.
            solution: by the images that were corrected with the estimate so far.
            tracked: (n, S), its observations, inliers or not.

        """
        height, width = images[0].gray.shape
        centers = np.array([image.intrinsics[:2, 2] for image in images])
        pixels = np.where(tracked[..., None], solution.observations + centers, np.nan)
        before, rate = self.readout, shift_per_second(pixels, [i.velocity for i in images], (width, height))
        self._readout.update(solution, tracked, rate)
        return abs(self.readout - before) >= READOUT_CHANGE
