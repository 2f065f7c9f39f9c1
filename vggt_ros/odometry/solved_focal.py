"""The focal length of an uncalibrated camera, as the solved keyframes have it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from vggt_ros.geometry.camera import with_focal
from vggt_ros.geometry.poses import Array
from vggt_ros.windows.solution import Frame, MapKeyframe, Solution

_KEYFRAMES = 8
"""Newest keyframes whose median focal length is that of the camera now."""
_SAME_ASPECT = 0.03
"""Relative difference of aspect ratios below which images may be of one camera."""


def solved_intrinsics(intrinsics: Array, width: int, keyframes: Sequence[MapKeyframe]) -> Array:
    """Return a pinhole matrix (3, 3) for images of `width` with the median focal length of solved keyframes."""
    focal = np.median([k.intrinsics[[0, 1], [0, 1]] * (width / k.depth.shape[1]) for k in keyframes], axis=0)
    return with_focal(intrinsics, focal)


def frame_intrinsics(frame: Frame, solution: Solution) -> Array:
    """Return the pinhole matrix (3, 3) of a frame: of an uncalibrated camera with the focal length that was solved.

    Keyframes of another aspect ratio are of another camera, such as one that a loaded map was made with.
    """
    if frame.calibrated or not len(solution):
        return frame.intrinsics
    height, width = frame.image.shape[:2]
    alike = (keyframe for k in map(int, solution.ids[::-1])
             if _have_same_shape((keyframe := solution.keyframes[k]).depth.shape, (height, width)))
    newest = list(islice(alike, _KEYFRAMES))
    return solved_intrinsics(frame.intrinsics, width, newest) if newest else frame.intrinsics


def _have_same_shape(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether two sizes (h, w) have the same aspect ratio, up to the rounding of reduced images."""
    return abs(one[0] * other[1] / (one[1] * other[0]) - 1) < _SAME_ASPECT
