"""SIFT features and their matches between two images, verified and guided by epipolar geometry.

Optical flow needs images that differ little. Descriptors (Lowe, IJCV 2004; RootSIFT: Arandjelovic and Zisserman, CVPR
2012) match over wide steps. Once some matches agree on an essential matrix, the others need to be searched along
epipolar lines only, where a weaker match is unambiguous.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import pixel_rays

Float = NDArray[np.float32]
Rows = NDArray[np.intp]

MIN_MATCHES = 12
"""Fewest matches that agree on an essential matrix."""
MAX_FEATURES = 1500
_CONTRAST = 0.015
"""Contrast threshold of OpenCV's SIFT, below its default of 0.04: plain scenes have weak features only."""
_MAX_RATIO, _GUIDED_RATIO = 0.85, 0.92
"""Largest ratio of the distance to the best match to that of the second best: in the image, on the epipolar line."""
_MAX_EPIPOLAR_ERROR = 3.0
"""Largest distance to the epipolar line, pixels."""
_ENOUGH = 80
"""Matches without a guide from which no others are added: most of those with a guide are wrong, and only where few
match, as at a wall without texture, are the right ones among them worth it."""
_MAX_GUIDED_DISTANCE = 0.9
"""Largest distance of the RootSIFT vectors (unit length) of a guided match."""


@dataclass(frozen=True, eq=False)
class SiftFeatures:
    """Features of an image: pixels (m, 2), x and y, and RootSIFT descriptors (m, 128) of unit length."""

    pixels: Float
    descriptors: Float

    def __len__(self) -> int:
        """Return the number of features."""
        return len(self.pixels)


def sift_features(gray: NDArray[np.uint8], free: NDArray[np.uint8] | None = None, reduction: int = 2,
                  most: int = MAX_FEATURES) -> SiftFeatures:
    """Return the SIFT features of an image (H, W), detected at 1/`reduction` of its size; none where `free` is 0."""
    size = gray.shape[1] // reduction, gray.shape[0] // reduction
    taken = gray if reduction == 1 else cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    mask = None if free is None else cv2.resize(free, size, interpolation=cv2.INTER_NEAREST)
    keypoints, descriptors = cv2.SIFT_create(most, contrastThreshold=_CONTRAST).detectAndCompute(taken, mask)
    if descriptors is None or not len(keypoints):
        return SiftFeatures(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32))
    pixels = np.array([keypoint.pt for keypoint in keypoints], np.float32) * reduction + (reduction - 1) / 2
    root = np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-9))
    return SiftFeatures(pixels, np.asarray(root, np.float32))


def verified_matches(first: SiftFeatures, second: SiftFeatures, first_intrinsics: NDArray[np.float64],
                     second_intrinsics: NDArray[np.float64], guided: bool = True) -> tuple[Rows, Rows, int]:
    """Return the rows of the features that match and agree on an essential matrix, and how many match without a guide.

    Those without a guide are the first. Only where they are few, and if `guided`, others are added that are guided by
    epipolar lines: these are mostly wrong (`docs/notes/wide-steps.md`), and their number says nothing of whether two
    images show the same. None if too few match.

    `first_intrinsics` and `second_intrinsics` are the pinhole matrices (3, 3).
    """
    none = np.zeros(0, np.intp), np.zeros(0, np.intp), 0
    if min(len(first), len(second)) < MIN_MATCHES:
        return none
    similarity = first.descriptors @ second.descriptors.T
    rows, columns = _mutual(similarity, _MAX_RATIO)
    if len(rows) < MIN_MATCHES:
        return none
    rays = [pixel_rays(matrix, *features.pixels.T.astype(np.float64))
            for features, matrix in ((first, first_intrinsics), (second, second_intrinsics))]
    threshold = _MAX_EPIPOLAR_ERROR / float(first_intrinsics[0, 0])
    essential, inliers = cv2.findEssentialMat(rays[0][rows, :2].copy(), rays[1][columns, :2].copy(), np.eye(3),
                                              method=cv2.USAC_MAGSAC, prob=0.999, threshold=threshold)
    if essential is None or essential.shape != (3, 3) or inliers is None or inliers.sum() < MIN_MATCHES:
        return none
    essential = np.asarray(essential, np.float64)
    agree = _epipolar_error(essential, rays[0][rows], rays[1][columns]).diagonal() < threshold
    rows, columns = rows[agree], columns[agree]
    if not guided or len(rows) >= _ENOUGH:
        return rows, columns, len(rows)
    similarity[~(_epipolar_error(essential, *rays) < threshold)] = -1.0
    similarity[similarity <= 1 - _MAX_GUIDED_DISTANCE**2 / 2] = -1.0
    more_rows, more_columns = _mutual(similarity, _GUIDED_RATIO)
    added = ~np.isin(more_rows, rows) & ~np.isin(more_columns, columns)
    return np.concatenate([rows, more_rows[added]]), np.concatenate([columns, more_columns[added]]), len(rows)


def _mutual(similarity: Float, max_ratio: float) -> tuple[Rows, Rows]:
    """Return the pairs that are each other's most similar ones (n, m), and clearly more so than the second best.

    Similarities below 0 are not candidates. They are changed meanwhile, since a copy of them is as large as an image.
    """
    rows, best, back = np.arange(len(similarity)), similarity.argmax(1), similarity.argmax(0)
    top = similarity[rows, best]
    similarity[rows, best] = -1.0
    second = similarity.max(1)
    similarity[rows, best] = top
    distance, other_distance = (np.sqrt(np.maximum(2 - 2 * s, 0.0)) for s in (top, second))
    good = (top > 0) & (distance < max_ratio * other_distance) & (back[best] == rows)
    return rows[good], best[good]


def _epipolar_error(essential: NDArray[np.float64], first: NDArray[np.float64],
                    second: NDArray[np.float64]) -> Float:
    """Return the distances (n, m), at depth 1, of the rays `second` (m, 3) to the epipolar lines of `first` (n, 3).

    The larger one of both directions.
    """
    lines, back = first @ essential.T, second @ essential
    product = np.abs(lines.astype(np.float32) @ second.T.astype(np.float32))
    weight, other = (1 / np.linalg.norm(both[:, :2], axis=1).astype(np.float32) for both in (lines, back))
    product *= np.maximum(weight[:, None], other[None])
    return product
