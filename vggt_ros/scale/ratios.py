"""The unit of a map from many ratios of a length in meters to the same length in map units, some of them lies.

A source of metric scale lies for a while rather than now and then: a wheel slips, an odometry jumps, a depth image
stays behind. Its ratios then agree with each other. So the answer is the ratio that most of the evidence has, found
from many starts under a redescending loss, and its sigma is corrected by how far seconds of evidence differ from each
other, not single ratios, because the errors of neighbors are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array

_STARTS = 64
"""Ratios from which the descent begins."""
_GATE = 3.0
"""Sigmas beyond which a ratio says something else than the answer."""
_BLOCK = 1_000_000_000
"""Evidence of so many nanoseconds has one error in common."""
_TRUST = 6.0
"""So many blocks of evidence count as much for the level of the errors as what their sigmas say beforehand."""
_SMALLEST = 1e-9


@dataclass(frozen=True, eq=False)
class Ratios:
    """Meters in a map unit, seen n times.

    Attributes:
        log, sigma: their logarithms (n,), and the sigmas of those.
        stamps: when, int64 nanoseconds (n,).
        windows: ids (n,) of the windows whose unit it is in the map.
        common: sigma of the error that all share, of calibration and clocks, which no number of them takes away.

    """

    log: Array
    sigma: Array
    stamps: NDArray[np.int64]
    windows: NDArray[np.int64]
    common: float = 0.002

    @staticmethod
    def of_lengths(meters: Array, sigma_meters: Array, units: Array, sigma_units: Array, stamps: NDArray[np.int64],
                   windows: NDArray[np.int64]) -> Ratios:
        """Return the ratios of lengths (n,) in meters and in map units, each with its sigma (n,)."""
        variance = sum((sigma / np.maximum(length, sigma))**2 for length, sigma in
                       ((meters, sigma_meters), (units, sigma_units)))
        log = np.log(np.maximum(meters, _SMALLEST) / np.maximum(units, _SMALLEST))
        return Ratios(log, np.sqrt(variance), stamps, windows)

    @staticmethod
    def join(parts: Sequence[Ratios]) -> Ratios:
        """Return all ratios of several sources."""
        return Ratios(np.concatenate([np.zeros(0), *(part.log for part in parts)]),
                      np.concatenate([np.zeros(0), *(part.sigma for part in parts)]),
                      np.concatenate([np.zeros(0, np.int64), *(part.stamps for part in parts)]),
                      np.concatenate([np.zeros(0, np.int64), *(part.windows for part in parts)]),
                      min((part.common for part in parts if len(part)), default=0.0))

    def rows(self, chosen: Sequence[int]) -> Ratios:
        """Return those in the rows `chosen`."""
        index = np.array(chosen, np.int64)
        return Ratios(self.log[index], self.sigma[index], self.stamps[index], self.windows[index], self.common)

    def __len__(self) -> int:
        """Return the number of ratios."""
        return len(self.log)


@dataclass(frozen=True)
class RatioEstimate:
    """What ratios agree on.

    Attributes:
        log: natural logarithm of the meters in a map unit.
        sigma: its standard deviation.
        scatter: the part of it that more evidence takes away.
        share: fraction of the seconds with evidence that agree.
        seconds: how many those are.
        count: ratios that agree.

    """

    log: float
    sigma: float
    scatter: float
    share: float
    seconds: int
    count: int


def agree(ratios: Ratios) -> RatioEstimate | None:
    """Return what most of the ratios say, or None if there are none.

    Geman and McClure's loss, descended by reweighting from many starts, so that neither the first evidence nor its
    mean decides which of two answers is taken.
    """
    if not len(ratios):
        return None
    starts = np.quantile(ratios.log, np.linspace(0, 1, min(_STARTS, len(ratios))), method="nearest")
    information = 1 / ratios.sigma**2
    mean = starts
    for _ in range(30):
        weights = information / (1 + ((ratios.log - mean[:, None]) / (_GATE * ratios.sigma))**2)**2  # (starts, n)
        before, mean = mean, (weights * ratios.log).sum(1) / weights.sum(1)
        if np.abs(mean - before).max() < 1e-9:
            break
    squares = ((ratios.log - mean[:, None]) / (_GATE * ratios.sigma))**2
    best = int(np.argmin((squares / (1 + squares)).sum(1)))
    log, agreeing = float(mean[best]), squares[best] < 1
    if not agreeing.any():
        return None
    weights = information[agreeing] / (1 + squares[best, agreeing])**2
    blocks, index = np.unique(ratios.stamps[agreeing] // _BLOCK, return_inverse=True)
    per_block = np.bincount(index, weights)
    offsets = np.bincount(index, weights * (ratios.log[agreeing] - log)) / per_block
    surprise = (_TRUST + float(per_block @ offsets**2)) / (_TRUST + len(blocks) - 1)
    scatter = float(np.sqrt(surprise / weights.sum()))
    everything = len(np.unique(ratios.stamps // _BLOCK))
    return RatioEstimate(log, float(np.hypot(scatter, ratios.common)), scatter, len(blocks) / everything, len(blocks),
                         int(agreeing.sum()))
