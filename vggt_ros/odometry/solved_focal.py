"""The focal length of an uncalibrated camera, as the solved keyframes have it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import islice

import numpy as np

from vggt_ros.geometry.camera import with_focal
from vggt_ros.geometry.poses import Array
from vggt_ros.windows.frame import Frame
from vggt_ros.windows.solution import MapKeyframe, Solution

_LOG = logging.getLogger(__name__)
_KEYFRAMES = 8
"""Newest keyframes whose median focal length is that of the camera now."""
_SAME_ASPECT = 0.03
"""Relative difference of aspect ratios below which images may be of one camera."""


def solved_intrinsics(intrinsics: Array, width: int, keyframes: Sequence[MapKeyframe]) -> Array:
    """Return a pinhole matrix (3, 3) for images of `width` with the median focal length of solved keyframes."""
    focal = np.median([k.intrinsics[[0, 1], [0, 1]] * (width / k.depth.shape[1]) for k in keyframes], axis=0)
    return with_focal(intrinsics, focal)


class FrameIntrinsics:
    """The pinhole matrices of frames; those of an uncalibrated camera have the focal length that was solved."""

    def __init__(self) -> None:
        """Begin with an unknown camera."""
        self._said = False

    def __call__(self, frame: Frame, solution: Solution, first_own: int = 0) -> Array:
        """Return the pinhole matrix (3, 3) of a frame.

        As long as the camera of the frame has no keyframe, which have ids from `first_own` on, that of a loaded map is
        taken to be the same one, and the log says so. Keyframes of another aspect ratio are of another camera.
        """
        if frame.calibrated or not len(solution):
            return frame.intrinsics
        height, width = frame.image.shape[:2]
        alike = (keyframe for k in map(int, solution.ids[::-1])
                 if _have_same_shape((keyframe := solution.keyframes[k]).depth.shape, (height, width)))
        newest = list(islice(alike, _KEYFRAMES))
        own = [keyframe for keyframe in newest if keyframe.id >= first_own]
        if not newest:
            return frame.intrinsics
        intrinsics = solved_intrinsics(frame.intrinsics, width, own or newest)
        if not own and not self._said:
            self._said = True
            of_map, assumed = (math.degrees(2 * math.atan(width / 2 / matrix[0, 0]))
                               for matrix in (intrinsics, frame.intrinsics))
            _LOG.warning("the camera is not calibrated, and is taken to be that of the loaded map, with a field of "
                         "view of %.0f degrees instead of %.0f: if it is another one, it needs a calibration to be "
                         "found in the map", of_map, assumed)
        return intrinsics


def _have_same_shape(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether two sizes (h, w) have the same aspect ratio, up to the rounding of reduced images."""
    return abs(one[0] * other[1] / (one[1] * other[0]) - 1) < _SAME_ASPECT
