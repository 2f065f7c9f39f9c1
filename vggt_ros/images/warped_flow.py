"""A homography as the initial guess of optical flow, of positions and of patches.

In a fast turn few points are followed from where they were: they move by a fifth of the image, and their patches are
turned, sheared by a rolling shutter, and stretched toward the border of a wide image. The few agree on a homography,
as all points do that a rotation moves or that lie in a plane. In the image warped by it, the others have hardly moved.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Gray = NDArray[np.uint8]
Pixels = NDArray[np.float32]

MIN_INLIERS, MIN_INLIER_RATIO = 12, 0.35
"""Fewest pairs of points that agree on a homography, and their fraction."""
MIN_FOLLOWED = 1 / 3
"""Fraction of the points in view that are followed from their places by a homography, at least: where two images show
different places, a few wrong points agree on one, too, but it helps no others."""
_MAX_ERROR = 0.01
"""Largest error of an inlier, as a fraction of the longer side of the image: what the camera moved beside the turn."""


def homography(first: Pixels, second: Pixels, side: int) -> NDArray[np.float64] | None:
    """Return the homography (3, 3) from points (n, 2) to the same ones in another image, None if few agree.

    `side` is the longer side of the images.
    """
    if len(first) < MIN_INLIERS:
        return None
    matrix, inliers = cv2.findHomography(first, second, cv2.USAC_MAGSAC, _MAX_ERROR * side, maxIters=2000,
                                         confidence=0.999)
    if matrix is None or inliers is None or inliers.sum() < max(MIN_INLIERS, MIN_INLIER_RATIO * len(first)):
        return None
    return np.asarray(matrix, np.float64)


def warped(image: Gray, matrix: NDArray[np.float64]) -> Gray:
    """Return an image (H, W) warped by a homography; its border is continued."""
    return np.asarray(cv2.warpPerspective(image, matrix, image.shape[::-1], borderMode=cv2.BORDER_REPLICATE), np.uint8)


def mapped(points: Pixels, matrix: NDArray[np.float64]) -> Pixels:
    """Return points (n, 2) mapped by a homography."""
    return np.asarray(cv2.perspectiveTransform(points[None], matrix)[0], np.float32)


def is_confirmed(guess: Pixels, good: NDArray[np.bool_], size: tuple[int, int]) -> bool:
    """Return whether enough of the points that a homography maps into an image (width, height) are followed from there.

    `guess` (n, 2) are their places by it, `good` (n,) says which are followed.
    """
    inside = ((guess > 0) & (guess < size)).all(1)
    return bool(good.sum() >= max(MIN_FOLLOWED * inside.sum(), 1))
