"""Sparse optical flow of points between two keyframes, from an initial guess."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.images.exposure import brightness_change, followed
from vggt_ros.images.mask import is_masked
from vggt_ros.images.warped_flow import mapped, warped
from vggt_ros.reconstruction.multiview.matching.features import Features, Gray

Pixels = NDArray[np.float32]

PATCH, LEVELS = (21, 21), 3
WARPED_PATCH, WARPED_LEVELS = (31, 31), 2
"""Patch, pixels, and levels of the pyramid: the second pair in the warped image of a turn, which is blurred, but where
the guess is near."""
TERMINATION = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 0.01)
NEIGHBORS = 3
"""Matches around a point whose mean motion is the initial guess of its flow."""


def follow(source: Features, target: Features, points: Pixels, guess: Pixels,
           max_backward_error: float) -> tuple[Pixels, NDArray[np.bool_]]:
    """Return the points (n, 2) in `target` tracked from an initial guess, and which passed the check backward."""
    return followed(lambda gray: _lucas_kanade(gray, target, points, guess, max_backward_error, PATCH, LEVELS),
                    source.gray, target.gray)[1]


def follow_warped(source: Features, target: Features, points: Pixels, matrix: NDArray[np.float64],
                  max_backward_error: float) -> tuple[Pixels, NDArray[np.bool_]]:
    """Return what `follow` does, from the image of `source` warped by a homography (3, 3) from there to `target`."""
    if not len(points):
        return points, np.zeros(0, bool)
    guess = mapped(points, matrix)
    return _lucas_kanade(warped(source.gray, matrix), target, guess, guess, max_backward_error, WARPED_PATCH,
                         WARPED_LEVELS)


def _lucas_kanade(gray: Gray, target: Features, points: Pixels, guess: Pixels, max_backward_error: float,
                  patch: tuple[int, int], levels: int) -> tuple[Pixels, NDArray[np.bool_]]:
    """Return the points of an image `gray` (H, W) in `target`, and which passed the forward-backward check."""
    if not len(points):
        return points, np.zeros(0, bool)
    change = brightness_change(gray, target.gray)
    gray = gray if change.is_negligible else change.apply(gray)
    options = {"winSize": patch, "maxLevel": levels, "criteria": TERMINATION, "flags": cv2.OPTFLOW_USE_INITIAL_FLOW}
    moved, found, _ = cv2.calcOpticalFlowPyrLK(gray, target.gray, points, guess.copy(), **options)
    height, width = target.gray.shape
    good = (found[:, 0] > 0) & (moved > 3).all(1) & (moved < [width - 4, height - 4]).all(1)
    good &= ~is_masked(target.excluded, moved, target.gray.shape)
    rows = np.flatnonzero(good)
    if len(rows):
        back, found_back, _ = cv2.calcOpticalFlowPyrLK(target.gray, gray, moved[rows],
                                                       (points + moved - guess)[rows], **options)
        near = np.linalg.norm(back - points[rows], axis=1) < max_backward_error
        good[rows] = (found_back[:, 0] > 0) & near
    return moved, good


def motion_around(points: Pixels, first: Pixels, second: Pixels) -> Pixels:
    """Return an initial guess (n, 2) of the motion of points: the mean motion of the nearest matches (k, 2)."""
    distance = np.linalg.norm(points[:, None] - first[None], axis=2)
    nearest = np.argpartition(distance, min(NEIGHBORS, len(first)) - 1, axis=1)[:, :NEIGHBORS]
    weight = 1.0 / (np.take_along_axis(distance, nearest, 1) + 5.0)
    motion = (second - first)[nearest]
    return np.asarray((weight[..., None] * motion).sum(1) / weight.sum(1, keepdims=True), np.float32)
