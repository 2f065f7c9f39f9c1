"""Inverse depth of a keyframe refined to a fraction of a pixel, by several neighbors at once.

A first guess, such as that of a plane sweep, is off by a pixel or less in most places. The neighbors are warped into
the keyframe with it. The difference that remains in a small patch, and the derivative of the warped images by the
inverse depth, give the change of the inverse depth by least squares (Lucas and Kanade, An Iterative Image Registration
Technique, IJCAI 1981; along epipolar lines, with many images: Okutomi and Kanade, A Multiple-Baseline Stereo, PAMI
1993). Patches are compared without their mean and contrast. A neighbor whose patch does not correlate, because the
surface is hidden from it or the guess is wrong, does not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import resize_intrinsics
from vggt_ros.geometry.poses import inverse

Array = NDArray[np.float64]
Map = NDArray[np.float32]

PATCH = 7
"""Edge of the patches, pixels."""
LEVELS = (2, 1)
"""By how much the images are reduced, one iteration after the other: the first one converges from farther away."""
NOISE_VARIANCE = np.float32(4.0)
"""Variance of the gray values' noise."""
MIN_CORRELATION = np.float32(0.4)
"""Patches that correlate less do not count; others count the more, the more they correlate."""
MAX_CONTRAST = np.float32(1.4)
"""Largest ratio of the contrasts of two patches that is removed."""
MAX_STEP = np.float32(1.0)
"""Largest change in an iteration, pixels of the reduced image of the neighbor with the most parallax."""
PATCH_INFORMATION = np.float32(PATCH * PATCH / 4)
"""Independent pixels of a patch: depth is not quite constant in it, and noise is correlated."""


class _Patches:
    """An image, float32 (h, w), without its local mean, and the local variance of the rest."""

    def __init__(self, image: Map) -> None:
        self.detail = np.asarray(image - _mean(image), np.float32)
        self.variance = np.asarray(_mean(self.detail * self.detail) + NOISE_VARIANCE, np.float32)


def refine(grays: NDArray[np.uint8], intrinsics: Array, window_camera: Array, index: int, others: Sequence[int],
           guess: Map, sigma: Map) -> tuple[Map, Map]:
    """Return the inverse depth of keyframe `index`, and its standard deviation, float32 (h, w).

    Args:
        grays: uint8 (S, h, w).
        intrinsics: (S, 3, 3) for this size.
        window_camera: (S, 4, 4).
        index: the keyframe.
        others: the neighbors, at least one.
        guess: inverse depth (h, w).
        sigma: its standard deviation (h, w), above 0: how much it counts.

    """
    rho, information = guess, np.zeros_like(guess)
    for level in LEVELS:
        size = -(-guess.shape[1] // level), -(-guess.shape[0] // level)
        images = [cv2.resize(grays[row], size, interpolation=cv2.INTER_AREA).astype(np.float32)
                  for row in (index, *others)]
        matrices = [resize_intrinsics(intrinsics[row], size[0] / guess.shape[1], size[1] / guess.shape[0])
                    for row in (index, *others)]
        keyframe = _Patches(images[0])
        start, own_rho, own_sigma = (np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_NEAREST), np.float32)
                                     for values in (rho, guess, sigma))
        information = np.asarray(1 / (own_sigma * own_sigma), np.float32)
        gradient = information * (own_rho - start)
        fastest = np.full(start.shape, 1e-6, np.float32)
        for row, image, matrix in zip(others, images[1:], matrices[1:], strict=True):
            turn, shift = _projection(matrices[0], matrix, inverse(window_camera[row]) @ window_camera[index])
            _add_neighbor(keyframe, image, turn, shift, start, gradient, information, fastest)
        limit = MAX_STEP / fastest
        step = np.clip(gradient / information, -limit, limit)
        rho = np.asarray(rho + cv2.resize(step, guess.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
    return rho, np.asarray(1 / np.sqrt(information), np.float32)


def _projection(matrix: Array, other_matrix: Array, other_camera: Array) -> tuple[Array, Array]:
    """Return the turn (3, 3) and shift (3,) of pixels: homogeneous, `turn @ pixel + inverse depth * shift`."""
    return other_matrix @ other_camera[:3, :3] @ np.linalg.inv(matrix), other_matrix @ other_camera[:3, 3]


def _add_neighbor(keyframe: _Patches, image: Map, turn: Array, shift: Array, rho: Map, gradient: Map,
                  information: Map, fastest: Map) -> None:
    """Add what a neighbor's image says to the gradient and the information (h, w) of the inverse depth `rho`.

    `fastest` becomes at least the motion of its pixels per inverse depth.
    """
    height, width = rho.shape
    column, row = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    (xc, xr, x1), (yc, yr, y1), (zc, zr, z1) = turn.astype(np.float32)
    sx, sy, sz = shift.astype(np.float32)
    over_z = 1 / np.maximum(zc * column + (zr * row + z1) + rho * sz, np.float32(1e-3))
    x = (xc * column + (xr * row + x1) + rho * sx) * over_z
    y = (yc * column + (yr * row + y1) + rho * sy) * over_z
    along_x, along_y = (sx - x * sz) * over_z, (sy - y * sz) * over_z
    rate = np.sqrt(along_x * along_x + along_y * along_y) + np.float32(1e-6)
    np.maximum(fastest, rate, out=fastest)
    half_x, half_y = along_x / rate * np.float32(0.5), along_y / rate * np.float32(0.5)
    after = cv2.remap(image, x + half_x, y + half_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    before = cv2.remap(image, x - half_x, y - half_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    slope = after - before
    warped = _Patches((after + before) * np.float32(0.5))

    correlation = _mean(warped.detail * keyframe.detail) / np.sqrt(warped.variance * keyframe.variance)
    weight = np.maximum(correlation - MIN_CORRELATION, 0)
    weight[(x < 1) | (x > width - 2) | (y < 1) | (y > height - 2)] = 0
    contrast = np.clip(np.sqrt(warped.variance / keyframe.variance), 1 / MAX_CONTRAST, MAX_CONTRAST)
    rest = warped.detail - contrast * keyframe.detail
    noise = _mean(rest * rest) + NOISE_VARIANCE
    weight *= rate * (PATCH_INFORMATION / (1 - MIN_CORRELATION)) / noise
    gradient -= weight * _mean(slope * rest)
    information += weight * rate * _mean(slope * slope)


def _mean(image: Map) -> Map:
    """Return the mean of the patch around each pixel (h, w)."""
    return np.asarray(cv2.boxFilter(image, -1, (PATCH, PATCH)), np.float32)
