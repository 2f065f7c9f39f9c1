"""Scale between two paths of the same shape, with errors on both sides and axes that differ.

The rotation is that of Kabsch's method, which maximizes the correlation of the two point sets. With errors in both,
scale is then the root of a quadratic (Deming regression): ordinary least squares, and the ratio of two lengths, take
the errors of one path for motion, and have a bias quadratic in them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array

_SMALLEST = 1e-12


@dataclass(frozen=True, eq=False)
class PathRatio:
    """Scale between paths, in arrays of any shape.

    Attributes:
        log: logarithm of the meters in a unit.
        sigma_meters, sigma_units: its sigma by the errors of each path alone.
        chi2, degrees_of_freedom: of the residuals between the shapes.

    """

    log: Array
    sigma_meters: Array
    sigma_units: Array
    chi2: Array
    degrees_of_freedom: Array

    @property
    def sigma(self) -> Array:
        """Its sigma by the errors of both paths."""
        return np.asarray(np.hypot(self.sigma_meters, self.sigma_units))

    def __getitem__(self, index: int | slice) -> PathRatio:
        """Return some of the ratios of n paths."""
        return PathRatio(self.log[index], self.sigma_meters[index], self.sigma_units[index], self.chi2[index],
                         self.degrees_of_freedom[index])


def path_ratio(meters: Array, units: Array, sigma_meters: float, sigma_units: float) -> PathRatio:
    """Compare paths `meters` (..., n, 3) with `units` (n, 3); each sigma is of a coordinate."""
    meters, units = meters - meters.mean(-2, keepdims=True), units - units.mean(0)
    return _solve(len(units), (meters**2).sum((-1, -2)), (units**2).sum(), np.swapaxes(meters, -1, -2) @ units,
                  sigma_meters, sigma_units)


def growing_path_ratios(meters: Array, units: Array, sigma_meters: float, sigma_units: Array) -> PathRatio:
    """Compare the first 2, 3, ..., n positions of two paths (n, 3); sigmas are of a coordinate, `sigma_units` (n,)."""
    meters, units = meters - meters[0], units - units[0]
    count = np.arange(1, len(units) + 1, dtype=np.int64)
    centroids = [np.cumsum(path, axis=0) / count[:, None] for path in (meters, units)]
    squares = [np.cumsum((path**2).sum(1)) - count * (centroid**2).sum(1)
               for path, centroid in zip((meters, units), centroids, strict=True)]
    cross_products = np.cumsum(np.einsum("ni,nj->nij", meters, units), axis=0) - \
        np.einsum("n,ni,nj->nij", count, *centroids)
    return _solve(count[1:], squares[0][1:], squares[1][1:], cross_products[1:], sigma_meters,
                  (np.cumsum(sigma_units) / count)[1:])


def _solve(count: NDArray[np.int64] | int, meters: Array, units: Array, cross_products: Array, sigma_meters: float,
           sigma_units: Array | float) -> PathRatio:
    """Return the ratios by the paths' sums of squares (...,) and of products (..., 3, 3) about their centroids."""
    left, singular, right = np.linalg.svd(cross_products)
    sign = np.sign(np.linalg.det(left @ right))
    product = np.maximum(singular[..., 0] + singular[..., 1] + sign * singular[..., 2], _SMALLEST)
    variance_ratio = (sigma_meters / sigma_units)**2
    difference = meters - variance_ratio * units
    root = np.sqrt(difference**2 + 4 * variance_ratio * product**2)
    # Of the two forms of the root, the one without cancellation.
    scale = np.where(difference > 0, (difference + root) / (2 * product),
                     2 * variance_ratio * product / np.maximum(root - difference, _SMALLEST))
    chi2 = (meters - 2 * scale * product + scale**2 * units) / (sigma_meters**2 + (scale * sigma_units)**2)
    degrees_of_freedom = np.maximum(3.0 * np.asarray(count) - 7, 0.0)
    return PathRatio(*np.broadcast_arrays(
        np.log(np.maximum(scale, _SMALLEST)), sigma_meters / np.sqrt(np.maximum(meters, _SMALLEST)),
        sigma_units / np.sqrt(np.maximum(units, _SMALLEST)), chi2, degrees_of_freedom))
