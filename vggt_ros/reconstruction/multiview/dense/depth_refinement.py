"""Inverse depth of a keyframe refined to a fraction of a pixel, by several neighbors at once.

A first guess, such as that of a plane sweep, is off by a pixel or less in most places. The neighbors are warped into
the keyframe with it. The difference that remains in a small patch, and the derivative of the warped images by the
inverse depth, give the change of the inverse depth by least squares (Lucas and Kanade, An Iterative Image Registration
Technique, IJCAI 1981; along epipolar lines, with many images: Okutomi and Kanade, A Multiple-Baseline Stereo, PAMI
1993). Patches are compared without their mean and contrast. A neighbor whose patch does not correlate, because the
surface is hidden from it or the guess is wrong, does not count.

What moves, such as people, has depths that fit to some neighbors by chance, but texture that does not correlate with
most of those that should see it. So images disagree where patches correlate too little with all these neighbors
together, in parts of the image that are larger than what edges hide from some of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import resize_intrinsics
from vggt_ros.geometry.poses import Array, inverse

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
AGREEMENT, FLAT_VARIANCE = np.float32(0.4), np.float32(20.0)
"""Least mean correlation of patches that agree; the variance of those without texture, which need not correlate."""
REGION, LEAST_AREA = 21, 0.02
"""Edge of the regions in which patches agree or not, pixels, and the least part of the image in which they do not."""
_SHARES = np.full(PATCH, 1 / PATCH, np.float32)
PATCH_INFORMATION = np.float32(PATCH * PATCH / 4)
"""Independent pixels of a patch: depth is not quite constant in it, and noise is correlated."""


class _Patches:
    """An image, float32 (h, w), without its local mean, and the local variance of the rest."""

    def __init__(self, image: Map) -> None:
        self.detail = np.asarray(image - _mean(image), np.float32)
        self.variance = np.asarray(_mean(self.detail * self.detail) + NOISE_VARIANCE, np.float32)


def refine(grays: NDArray[np.uint8], intrinsics: Array, window_camera: Array, index: int, others: Sequence[int],
           guess: Map, sigma: Map) -> tuple[Map, Map, NDArray[np.bool_]]:
    """Return the inverse depth of keyframe `index`, its standard deviation, float32, and where images agree (h, w).

    Images disagree in parts whose texture does not correlate with most of the neighbors that should see it.

    Args:
        grays: uint8 (S, h, w).
        intrinsics: (S, 3, 3) for this size.
        window_camera: (S, 4, 4).
        index: the keyframe.
        others: the neighbors, at least one.
        guess: inverse depth (h, w).
        sigma: its standard deviation (h, w), above 0: how much it counts.

    """
    rho, information, agreement = guess, np.zeros_like(guess), None
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
        agreement = np.zeros(start.shape, np.float32) if level == LEVELS[-1] else None
        for row, image, matrix in zip(others, images[1:], matrices[1:], strict=True):
            turn, shift = projection(matrices[0], matrix, inverse(window_camera[row]) @ window_camera[index])
            _add_neighbor(keyframe, image, turn, shift, start, gradient, information, fastest, agreement)
        limit = MAX_STEP / fastest
        step = np.clip(gradient / information, -limit, limit)
        rho = np.asarray(rho + cv2.resize(step, guess.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
    return rho, np.asarray(1 / np.sqrt(information), np.float32), _agree(np.asarray(agreement))


def _agree(agreement: Map) -> NDArray[np.bool_]:
    """Return where images agree (h, w): everywhere but in large parts in which the sum of `agreement` is negative."""
    against = (cv2.boxFilter(agreement, -1, (REGION, REGION)) < 0).astype(np.uint8)
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(against, connectivity=4)
    agree = boxes[:, cv2.CC_STAT_AREA] < LEAST_AREA * against.size
    agree[0] = True  # the rest of the image
    return np.asarray(agree[labels], np.bool_)


def projection(matrix: Array, other_matrix: Array, other_camera: Array) -> tuple[Array, Array]:
    """Return the turn (3, 3) and shift (3,) of pixels: homogeneous, `turn @ pixel + inverse depth * shift`."""
    return other_matrix @ other_camera[:3, :3] @ np.linalg.inv(matrix), other_matrix @ other_camera[:3, 3]


def _add_neighbor(keyframe: _Patches, image: Map, turn: Array, shift: Array, rho: Map, gradient: Map,
                  information: Map, fastest: Map, agreement: Map | None) -> None:
    """Add what a neighbor's image says to the gradient and the information (h, w) of the inverse depth `rho`.

    `fastest` becomes at least the motion of its pixels per inverse depth. To `agreement`, unless it is None, is added
    by how much the covariance of its patches exceeds that of patches that just agree.
    """
    height, width = rho.shape
    column, row = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    (xc, xr, x1), (yc, yr, y1), (zc, zr, z1) = turn.astype(np.float32)
    sx, sy, sz = shift.astype(np.float32)
    # In place throughout: new arrays would cost as much as the sums.
    z, x, y = (c * column + (r * row + one) for c, r, one in ((zc, zr, z1), (xc, xr, x1), (yc, yr, y1)))
    buffer = np.empty_like(rho)
    for homogeneous, speed in ((z, sz), (x, sx), (y, sy)):
        homogeneous += np.multiply(rho, speed, out=buffer)
    over_z = np.divide(np.float32(1), np.maximum(z, np.float32(1e-3), out=z), out=z)
    along = []
    for pixel, speed in ((x, sx), (y, sy)):
        pixel *= over_z
        change = pixel * sz
        along.append(np.multiply(np.subtract(speed, change, out=change), over_z, out=change))
    rate = along[0] * along[0]
    rate += np.multiply(along[1], along[1], out=buffer)
    np.sqrt(rate, out=rate)
    rate += np.float32(1e-6)
    np.maximum(fastest, rate, out=fastest)
    for half in along:
        half /= rate
        half *= np.float32(0.5)
    after = cv2.remap(image, x + along[0], y + along[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    before = cv2.remap(image, np.subtract(x, along[0], out=along[0]), np.subtract(y, along[1], out=along[1]),
                       cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    slope = np.subtract(after, before, out=buffer)
    after += before
    after *= np.float32(0.5)
    warped = _Patches(after)

    weight = _mean(np.multiply(warped.detail, keyframe.detail, out=after))
    contrast = np.multiply(warped.variance, keyframe.variance, out=before)
    np.sqrt(contrast, out=contrast)
    outside = (x < 1) | (x > width - 2) | (y < 1) | (y > height - 2)
    if agreement is not None:
        excess = np.subtract(weight, AGREEMENT * (contrast - FLAT_VARIANCE))
        excess[outside] = 0
        agreement += excess
    weight /= contrast  # the correlation
    weight -= MIN_CORRELATION
    np.maximum(weight, 0, out=weight)
    weight[outside] = 0
    np.sqrt(np.divide(warped.variance, keyframe.variance, out=contrast), out=contrast)
    np.clip(contrast, 1 / MAX_CONTRAST, MAX_CONTRAST, out=contrast)
    rest = np.subtract(warped.detail, np.multiply(contrast, keyframe.detail, out=contrast), out=warped.detail)
    noise = _mean(np.multiply(rest, rest, out=contrast))
    noise += NOISE_VARIANCE
    by_rate = np.multiply(rate, PATCH_INFORMATION / (1 - MIN_CORRELATION), out=contrast)
    weight *= np.divide(by_rate, noise, out=noise)
    rest *= slope
    gradient -= np.multiply(_mean(rest), weight, out=rest)
    weight *= rate
    information += np.multiply(_mean(np.multiply(slope, slope, out=slope)), weight, out=slope)


def _mean(image: Map) -> Map:
    """Return the mean of the patch around each pixel (h, w)."""
    return np.asarray(cv2.sepFilter2D(image, -1, _SHARES, _SHARES), np.float32)
