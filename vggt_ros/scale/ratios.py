"""Scale of a map from many ratios of a length in meters to the same length in map units, with outliers.

Outliers of a source of metric scale come in bursts of seconds, not singly: a wheel slips, an odometry jumps, a depth
image is stale. Their ratios agree with each other. So the estimate is the ratio with the most support, found from many
starts under a redescending loss. Its sigma is corrected by the scatter of the means of each second, not of single
ratios, because the errors of neighboring ratios are correlated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array

_STARTS = 64
"""Ratios at which iteratively reweighted least squares starts."""
_OUTLIER_SIGMAS = 3.0
"""Sigmas beyond which a ratio is an outlier."""
_BLOCK = 1_000_000_000
"""Duration of a block, nanoseconds: ratios in it share one error."""
_PRIOR_BLOCKS = 6.0
"""Weight of the given sigmas in the estimated level of the errors, in blocks."""


@dataclass(frozen=True, eq=False)
class ScaleRatios:
    """Ratios of meters to map units, n of them.

    Attributes:
        log, sigma: their logarithms (n,), and the sigmas of those.
        stamps: int64 nanoseconds (n,).
        windows: ids (n,) of the windows whose scale in the map they are about.
        common_sigma: of the error that all share, of calibration and clocks, which averaging does not reduce.

    """

    log: Array
    sigma: Array
    stamps: NDArray[np.int64]
    windows: NDArray[np.int64]
    common_sigma: float = 0.002

    @staticmethod
    def join(parts: Sequence[ScaleRatios]) -> ScaleRatios:
        """Return all ratios of several sources."""
        return ScaleRatios(np.concatenate([np.zeros(0), *(part.log for part in parts)]),
                           np.concatenate([np.zeros(0), *(part.sigma for part in parts)]),
                           np.concatenate([np.zeros(0, np.int64), *(part.stamps for part in parts)]),
                           np.concatenate([np.zeros(0, np.int64), *(part.windows for part in parts)]),
                           min((part.common_sigma for part in parts if len(part)), default=0.0))

    def select(self, chosen: Sequence[int]) -> ScaleRatios:
        """Return the ratios in the rows `chosen`."""
        index = np.array(chosen, np.int64)
        return ScaleRatios(self.log[index], self.sigma[index], self.stamps[index], self.windows[index],
                           self.common_sigma)

    def __len__(self) -> int:
        """Return the number of ratios."""
        return len(self.log)


@dataclass(frozen=True)
class ScaleEstimate:
    """Robust estimate of scale from ratios.

    Attributes:
        log: natural logarithm of the meters in a map unit.
        sigma: its standard deviation.
        random_sigma: the part of it that averaging reduces.
        inlier_fraction: of the seconds with ratios, how many agree.
        seconds: number of seconds that agree.
        count: number of ratios that agree.

    """

    log: float
    sigma: float
    random_sigma: float
    inlier_fraction: float
    seconds: int
    count: int


def estimate_scale(ratios: ScaleRatios) -> ScaleEstimate | None:
    """Return the scale that most of the ratios support, or None if there are none.

    Geman-McClure loss, by iteratively reweighted least squares from many starts, so that neither the first ratios nor
    their mean decide between two candidates.
    """
    if not len(ratios):
        return None
    starts = np.quantile(ratios.log, np.linspace(0, 1, min(_STARTS, len(ratios))), method="nearest")
    information = 1 / ratios.sigma**2
    mean = starts
    for _ in range(30):
        # (starts, n)
        weights = information / (1 + ((ratios.log - mean[:, None]) / (_OUTLIER_SIGMAS * ratios.sigma))**2)**2
        before, mean = mean, (weights * ratios.log).sum(1) / weights.sum(1)
        if np.abs(mean - before).max() < 1e-9:
            break
    squares = ((ratios.log - mean[:, None]) / (_OUTLIER_SIGMAS * ratios.sigma))**2
    best_start = int(np.argmin((squares / (1 + squares)).sum(1)))
    log, inliers = float(mean[best_start]), squares[best_start] < 1
    if not inliers.any():
        return None
    weights = information[inliers] / (1 + squares[best_start, inliers])**2
    blocks, index = np.unique(ratios.stamps[inliers] // _BLOCK, return_inverse=True)
    per_block = np.bincount(index, weights)
    offsets = np.bincount(index, weights * (ratios.log[inliers] - log)) / per_block
    variance_factor = (_PRIOR_BLOCKS + float(per_block @ offsets**2)) / (_PRIOR_BLOCKS + len(blocks) - 1)
    random_sigma = float(np.sqrt(variance_factor / weights.sum()))
    all_blocks = len(np.unique(ratios.stamps // _BLOCK))
    return ScaleEstimate(log, float(np.hypot(random_sigma, ratios.common_sigma)), random_sigma,
                         len(blocks) / all_blocks, len(blocks), int(inliers.sum()))
