"""The scale between two reconstructions of the same keyframes: by their depth, and by the distances of their cameras.

Depth says it best where the cameras are near each other. Where they are far apart, as in a drive, its errors are larger
than those of the distances. Both ratios are symmetric in the noise of either side, whereas a least-squares scale is
biased towards small values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vggt_ros.geometry.poses import Array, mean_rotation, robust_sigma

EFFECTIVE_SAMPLES = 30
"""Effective number of independent depth errors in one keyframe: errors of neighboring pixels are correlated."""


def scale_by_depth(log_ratios: Sequence[Array], same_depth: bool = False) -> tuple[float, float, float]:
    """Return the logarithm of the scale, its variance, and the robust standard deviation of a pixel.

    `log_ratios` has an array (m,) for each keyframe: of each pixel, reference over window. Where the keyframes see the
    `same_depth`, its errors are one error.
    """
    ratios = np.concatenate(log_ratios)
    log_scale, scatter = float(np.median(ratios)), robust_sigma(ratios)
    of_keyframes = np.array([np.median(ratio) for ratio in log_ratios]) - log_scale
    variance = scatter**2 / EFFECTIVE_SAMPLES + float(np.mean(of_keyframes**2)) + 1e-6
    return log_scale, variance / (1 if same_depth else len(log_ratios)), scatter


def with_distances(log_scale: float, variance: float, reference: Array, window: Array, sigma: float,
                   limit: float) -> tuple[float, float]:
    """Return a log scale by depth together with that by the distances of the cameras, and its variance.

    If the two disagree, the result is as uncertain as that. If they contradict each other, it is that by depth.

    Args:
        log_scale, variance: by depth.
        reference, window: (n, 4, 4), the cameras on both sides.
        sigma: standard deviation of the position of a camera, window units.
        limit: a contradiction would move a camera farther, window units.

    """
    offsets, other_offsets = (cameras[:, :3, 3] - cameras[:, :3, 3].mean(0) for cameras in (window, reference))
    length, other_length = float(np.linalg.norm(offsets)), float(np.linalg.norm(other_offsets))
    if not length or not other_length:
        return log_scale, variance
    difference = np.log(other_length / length) - log_scale
    if abs(np.expm1(difference)) * np.linalg.norm(offsets, axis=1).max() > limit:
        return log_scale, variance
    rotation = mean_rotation(reference[:, :3, :3] @ np.swapaxes(window[:, :3, :3], 1, 2))
    residuals = other_offsets / other_length * length - offsets @ rotation.T
    freedom = 3 * len(window) - 4  # without the mean and the scale
    by_distances = max(sigma**2, float((residuals**2).sum()) / freedom) / length**2
    total = variance + by_distances
    return log_scale + variance / total * difference, variance * by_distances / total * max(1.0, difference**2 / total)
