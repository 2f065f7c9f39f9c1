"""The focal length of an uncalibrated camera, as the solved keyframes have it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vggt_ros.geometry.camera import with_focal
from vggt_ros.geometry.poses import Array
from vggt_ros.windows.solution import Frame, MapKeyframe, Solution

_KEYFRAMES = 8
"""Newest keyframes whose median focal length is that of the camera now."""


def solved_intrinsics(intrinsics: Array, width: int, keyframes: Sequence[MapKeyframe]) -> Array:
    """Return a pinhole matrix (3, 3) for images of `width` with the median focal length of solved keyframes."""
    focal = np.median([k.intrinsics[[0, 1], [0, 1]] * (width / k.depth.shape[1]) for k in keyframes], axis=0)
    return with_focal(intrinsics, focal)


def frame_intrinsics(frame: Frame, solution: Solution) -> Array:
    """Return the pinhole matrix (3, 3) of a frame: of an uncalibrated camera with the focal length that was solved."""
    if frame.calibrated or not len(solution):
        return frame.intrinsics
    newest = [solution.keyframes[k] for k in solution.ids[-_KEYFRAMES:].tolist()]
    return solved_intrinsics(frame.intrinsics, frame.image.shape[1], newest)
