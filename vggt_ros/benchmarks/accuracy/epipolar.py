"""How well poses explain matches of SIFT features, which none of them was adjusted to: a second judge of rotations.

The distance to the epipolar line in both images, to first order, is Sampson's (Hartley and Zisserman, Multiple View
Geometry, 11.4.3). Matches that no set of poses explains are left out, alike for all sets.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, inverse, skew

FEATURES = 2000
"""SIFT features of an image."""
RATIO = 0.75
"""Largest ratio of the distances of descriptors to the nearest and the second nearest (Lowe, IJCV 2004)."""
NEIGHBORS = 3
"""Each image is matched with so many that follow it."""
MAX_ERROR = 1.5
"""Matches farther than this from the epipolar lines of every set of poses are no matches, pixels."""
MIN_MATCHES = 20
"""Pairs of images with fewer matches are left out."""


def sampson(camera_world: tuple[Array, Array], matrices: tuple[Array, Array], pixels: tuple[Array, Array]) -> Array:
    """Return the distance of matches from their epipolar lines (n,), pixels.

    Args:
        camera_world: poses 4x4 of two images.
        matrices: their intrinsics 3x3.
        pixels: the matches (n, 2) in both.

    """
    second_first = camera_world[1] @ inverse(camera_world[0])
    essential = skew(second_first[:3, 3] / np.linalg.norm(second_first[:3, 3])) @ second_first[:3, :3]
    fundamental = np.linalg.inv(matrices[1]).T @ essential @ np.linalg.inv(matrices[0])
    first, second = (np.concatenate([at, np.ones((len(at), 1))], 1) for at in pixels)
    lines = first @ fundamental.T, second @ fundamental
    square = sum((line[:, :2] ** 2).sum(1) for line in lines)
    return np.asarray(np.abs((second * lines[0]).sum(1)) / np.sqrt(square))


def match_neighbors(images: Mapping[str, NDArray[np.uint8]]) -> dict[tuple[str, str], tuple[Array, Array]]:
    """Return the matches (n, 2), (n, 2) of each RGB image (H, W, 3) with those that follow it, by both names."""
    sift, matcher = cv2.SIFT_create(FEATURES), cv2.BFMatcher()
    features = {}
    for name, image in images.items():
        points, descriptors = sift.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.array([]))
        features[name] = np.array([point.pt for point in points]), descriptors
    names, found = list(images), {}
    for row, first in enumerate(names):
        for second in names[row + 1:row + 1 + NEIGHBORS]:
            (at_first, one), (at_second, other) = features[first], features[second]
            if one is None or other is None or len(other) < 2:
                continue
            good = [best for best, next_best in matcher.knnMatch(one, other, k=2)
                    if best.distance < RATIO * next_best.distance]
            if len(good) >= MIN_MATCHES:
                found[first, second] = (at_first[[match.queryIdx for match in good]],
                                        at_second[[match.trainIdx for match in good]])
    return found


def epipolar_errors(images: Mapping[str, NDArray[np.uint8]], matrices: Mapping[str, Array],
                    sets: Mapping[str, Mapping[str, Array]]) -> tuple[dict[str, float], int]:
    """Return for each set of poses the median distance of matches from epipolar lines, pixels, and how many matches.

    Args:
        images: RGB (H, W, 3) by name, neighbors in order.
        matrices: intrinsics 3x3 of each image.
        sets: poses `camera_world` 4x4 of the images, by name of the set; images that a set lacks are left out.

    """
    errors = []
    for (first, second), pixels in match_neighbors(images).items():
        if all(first in poses and second in poses for poses in sets.values()):
            matrix = matrices[first], matrices[second]
            each = np.array([sampson((poses[first], poses[second]), matrix, pixels) for poses in sets.values()])
            each = each[:, each.min(0) < MAX_ERROR]
            if each.shape[1] >= MIN_MATCHES:
                errors.append(each)
    if not errors:
        return dict.fromkeys(sets, float("nan")), 0
    together = np.concatenate(errors, 1)
    return dict(zip(sets, np.median(together, 1).tolist(), strict=True)), together.shape[1]
