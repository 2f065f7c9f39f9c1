"""Scale of each window: a robust smoother over the tree of windows, between the overlaps and the metric sources.

Scale drifts along a chain of windows: a little at every overlap, and much at one where the depths of the shared
keyframes were wrong. The ratios of a metric source show both, but a source has outliers too, for seconds at a time (a
wheel that slips). The two are told apart by their duration: a break of scale at an overlap costs as much as a few
seconds of outliers. The estimate of least cost is found exactly, by dynamic programming on a grid over the tree, and
refined by least squares. How much an ordinary overlap drifts is chosen by the marginal likelihood of the measurements,
so that the noise of a source does not deform a chain that is accurate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array

Index = NDArray[np.int64]

_GRID_STEP, _GRID_EXTENT = 0.01, 1.5
"""Grid of the logarithm of scale: its step, and its extent to either side of the robust mean of all measurements."""
_OUTLIER_COST = 9.0
"""Largest cost (chi-square) of one block of measurements, that is of a second of one source: three sigmas."""
_BREAK_COST = 36.0
"""Cost of a break of scale at an overlap: that of four seconds of outliers, if a source measures once a second."""
_NOISE_FACTORS = (0.1, 0.3, 1.0, 3.0)
"""Factors that are tried on the sigmas of the overlaps."""
_WINDOW_SIGMAS = (0.0, 0.02, 0.06)
"""Sigmas that are tried for an independent scale error of each window, which the next window does not inherit."""
_BREAK_VARIANCE = 1.0
"""Variance of the logarithm of scale across a break."""


@dataclass(frozen=True, eq=False)
class ScaleTree:
    """Windows in rows 0, 1, ..., each after its parent.

    Attributes:
        parent: int64 (w,), the row of the window to which each is attached, -1 for a root.
        sigma: (w,), of the logarithm of its scale relative to the parent's.
        break_cost: cost of a break of scale, chi-square.

    """

    parent: Index
    sigma: Array
    break_cost: float = _BREAK_COST

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.parent)


@dataclass(frozen=True, eq=False)
class ScaleMeasurements:
    """Measurements, n of them: `log` (n,) of the factor by which the window in `row` (n,) has to be scaled.

    `sigma` (n,) is its standard deviation. Measurements of the same `block` (n,), 0, 1, ..., share one error and count
    as one. While a source has outliers they fill `block_rate` blocks a second.
    """

    row: Index
    log: Array
    sigma: Array
    block: Index
    block_rate: float = 1.0

    @property
    def weight(self) -> Array:
        """The weight (n,) of each measurement, one over the number in its block."""
        return 1.0 / np.bincount(self.block)[self.block]


def smooth(tree: ScaleTree, measurements: ScaleMeasurements, center: float) -> Array:
    """Return for each window the logarithm (w,) of the factor by which it has to be scaled.

    `center` is the robust mean of all measurements. Windows without measurements follow the windows around them.
    """
    cost, best, rows = np.inf, np.zeros(len(tree)), np.arange(len(tree))
    for noise_factor in _NOISE_FACTORS:
        for window_sigma in _WINDOW_SIGMAS:
            scaled_tree, measured = (ScaleTree(tree.parent, noise_factor * tree.sigma,
                                               _BREAK_COST * measurements.block_rate), measurements)
            if window_sigma:  # each window becomes a leaf of its own, attached to its row of the chain
                scaled_tree = replace(scaled_tree, parent=np.append(scaled_tree.parent, rows),
                                      sigma=np.append(scaled_tree.sigma, np.full(len(tree), window_sigma)))
                measured = replace(measurements, row=measurements.row + len(tree))
            low, high = (_refine(scaled_tree, measured, values)
                         for values in _grid_search(scaled_tree, measured, center))
            if min(low[0], high[0]) < cost:
                # Both cost the same: where the chain breaks while a source has outliers, the break cannot be located.
                cost, best = min(low[0], high[0]), ((low[1] + high[1]) / 2)[-len(tree):]
    return best


def _grid_search(tree: ScaleTree, measurements: ScaleMeasurements, center: float) -> tuple[Array, Array]:
    """Return the values (w,) of least cost on the grid; measurements and overlaps have truncated quadratic losses.

    Where several values are equally good, the first array has the least and the second the largest of them.
    """
    grid = center + np.arange(-_GRID_EXTENT, _GRID_EXTENT + _GRID_STEP / 2, _GRID_STEP)
    # A sigma smaller than the grid's step would keep a window from leaving its parent's grid point.
    variance = np.maximum(tree.sigma, _GRID_STEP) ** 2
    cost = np.zeros((len(tree), len(grid)))
    losses = np.minimum(((measurements.log[:, None] - grid) / measurements.sigma[:, None]) ** 2, _OUTLIER_COST)
    np.add.at(cost, measurements.row, measurements.weight[:, None] * losses)
    for row in range(len(tree) - 1, -1, -1):
        if tree.parent[row] >= 0:
            cost[tree.parent[row]] += _message(cost[row], variance[row], tree.break_cost)
    found = []
    for end in (0, -1):
        values = np.empty(len(tree))
        for row, parent in enumerate(tree.parent.tolist()):
            total = cost[row]
            if parent >= 0:
                total = total + np.minimum((grid - values[parent]) ** 2 / variance[row], tree.break_cost)
            values[row] = grid[np.flatnonzero(total <= total.min() + 1e-6)[end]]
        found.append(values)
    return found[0], found[1]


def _message(cost: Array, variance: float, break_cost: float) -> Array:
    """Return the least cost of a window's subtree, for each value of its parent (the min-sum message)."""
    reach = min(int(np.sqrt(break_cost * variance) / _GRID_STEP), len(cost) - 1)
    overlap = (np.arange(-reach, reach + 1) * _GRID_STEP) ** 2 / variance
    padded = np.pad(cost, reach, constant_values=np.inf)
    near = (sliding_window_view(padded, 2 * reach + 1) + overlap).min(1)
    return np.minimum(near, cost.min() + break_cost)


def _refine(tree: ScaleTree, measurements: ScaleMeasurements, values: Array) -> tuple[float, Array]:
    """Return least squares values (w,), and their cost; breaks and outliers are those that `values` (w,) have.

    The cost is -2 times the logarithm of the marginal likelihood, up to a constant.
    """
    has_parent = tree.parent >= 0
    difference = np.where(has_parent, values - values[tree.parent], 0.0)
    is_break = has_parent & (difference**2 > tree.break_cost * np.maximum(tree.sigma, _GRID_STEP) ** 2)
    variance = np.where(is_break, _BREAK_VARIANCE, tree.sigma**2)
    chi2 = ((measurements.log - values[measurements.row]) / measurements.sigma) ** 2
    inliers = chi2 < _OUTLIER_COST
    information = np.where(inliers, measurements.weight / measurements.sigma**2, 0.0)
    weight = np.bincount(measurements.row, information, len(tree))
    vector = np.bincount(measurements.row, information * measurements.log, len(tree))
    gain = np.ones(len(tree))
    for row in range(len(tree) - 1, -1, -1):
        parent = tree.parent[row]
        if parent >= 0:
            gain[row] = 1 / (1 + weight[row] * variance[row])
            weight[parent] += weight[row] * gain[row]
            vector[parent] += vector[row] * gain[row]
    solved = np.zeros(len(tree))
    for row, parent in enumerate(tree.parent.tolist()):
        if parent >= 0:
            solved[row] = (vector[row] * variance[row] + solved[parent]) * gain[row]
        elif weight[row] > 0:
            solved[row] = vector[row] / weight[row]
    measurement_chi2 = (information * (measurements.log - solved[measurements.row]) ** 2).sum()
    overlap_chi2 = ((solved - solved[tree.parent]) ** 2 / variance)[has_parent].sum()
    rejected_cost = _OUTLIER_COST * measurements.weight[~inliers].sum() + tree.break_cost * is_break.sum()
    return float(measurement_chi2 + overlap_chi2 + rejected_cost - np.log(gain[~is_break]).sum()), solved
