"""How much larger one path is than another of the same shape, with errors in both and axes that differ.

A similarity takes its scale from what two sets of points have in common, after the rotation that makes this the most
(Kabsch). With errors in both it is the root of a quadratic (Deming): least squares, and the ratio of two lengths, take
the errors of one of them for a part of its path, and are biased by the square of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array

_SMALLEST = 1e-12


@dataclass(frozen=True, eq=False)
class PathRatio:
    """What paths say, in arrays of any shape.

    Attributes:
        log: logarithm of the meters in a unit.
        sigma_meters, sigma_units: what the errors of each path alone make of it.
        squares, free: chi-square of what is left between the shapes, and its degrees of freedom.

    """

    log: Array
    sigma_meters: Array
    sigma_units: Array
    squares: Array
    free: Array

    @property
    def sigma(self) -> Array:
        """What the errors of both paths make of it."""
        return np.asarray(np.hypot(self.sigma_meters, self.sigma_units))

    def __getitem__(self, index: int | slice) -> PathRatio:
        """Return some of what n paths say."""
        return PathRatio(self.log[index], self.sigma_meters[index], self.sigma_units[index], self.squares[index],
                         self.free[index])


def path_ratio(meters: Array, units: Array, sigma_meters: float, sigma_units: float) -> PathRatio:
    """Compare paths `meters` (..., n, 3) with `units` (n, 3); each sigma is of a coordinate."""
    meters, units = meters - meters.mean(-2, keepdims=True), units - units.mean(0)
    return _solved(len(units), (meters**2).sum((-1, -2)), (units**2).sum(), np.swapaxes(meters, -1, -2) @ units,
                   sigma_meters, sigma_units)


def growing_path_ratios(meters: Array, units: Array, sigma_meters: float, sigma_units: Array) -> PathRatio:
    """Compare the first 2, 3, ..., n places of two paths (n, 3); each sigma is of a coordinate, `sigma_units` (n,)."""
    meters, units = meters - meters[0], units - units[0]
    count = np.arange(1, len(units) + 1, dtype=np.int64)
    middles = [np.cumsum(path, axis=0) / count[:, None] for path in (meters, units)]
    squares = [np.cumsum((path**2).sum(1)) - count * (middle**2).sum(1)
               for path, middle in zip((meters, units), middles, strict=True)]
    together = np.cumsum(np.einsum("ni,nj->nij", meters, units), axis=0) - \
        np.einsum("n,ni,nj->nij", count, *middles)
    return _solved(count[1:], squares[0][1:], squares[1][1:], together[1:], sigma_meters,
                   (np.cumsum(sigma_units) / count)[1:])


def _solved(count: NDArray[np.int64] | int, meters: Array, units: Array, together: Array, sigma_meters: float,
            sigma_units: Array | float) -> PathRatio:
    """Return the ratios by the paths' sums of squares (...,) and of products (..., 3, 3) about their middles."""
    left, singular, right = np.linalg.svd(together)
    mirrored = np.sign(np.linalg.det(left @ right))
    product = np.maximum(singular[..., 0] + singular[..., 1] + mirrored * singular[..., 2], _SMALLEST)
    noise = (sigma_meters / sigma_units)**2
    more = meters - noise * units
    root = np.sqrt(more**2 + 4 * noise * product**2)
    # Of the two forms of the root, the one without a difference of nearly equal numbers.
    scale = np.where(more > 0, (more + root) / (2 * product), 2 * noise * product / np.maximum(root - more, _SMALLEST))
    squares = (meters - 2 * scale * product + scale**2 * units) / (sigma_meters**2 + (scale * sigma_units)**2)
    free = np.maximum(3.0 * np.asarray(count) - 7, 0.0)
    return PathRatio(*np.broadcast_arrays(
        np.log(np.maximum(scale, _SMALLEST)), sigma_meters / np.sqrt(np.maximum(meters, _SMALLEST)),
        sigma_units / np.sqrt(np.maximum(units, _SMALLEST)), squares, free))
