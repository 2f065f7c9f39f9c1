"""Scale from window to window: by how much each is larger than its overlap says, by what the sources of meters say.

A chain of windows loses scale: a little at every overlap, and much at one where the depths of the shared keyframes were
wrong. A source of metric scale sees both, but it also lies for a while. What tells them apart is how long it lasts: a
break of the chain costs as much as a few seconds of evidence that is not believed. The least costly answer is found
exactly, by dynamic programming on a grid over the tree of windows, and refined by least squares. How much scale an
ordinary overlap loses is what the evidence says, too (its marginal likelihood), so that an accurate chain is not bent
by the noise of a source.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array

Index = NDArray[np.int64]

_STEP, _REACH = 0.01, 1.5
"""Grid of the logarithm of scale: its step, and how far it reaches to both sides of what most of the evidence says."""
_LIE = 9.0
"""Most that a second of evidence from one source costs (chi-square): three sigmas."""
_BREAK = 36.0
"""What a break of the chain costs: as much as four seconds of a source that lies, if that speaks once a second."""
_LEVELS = (0.1, 0.3, 1.0, 3.0)
"""How much larger the errors of overlaps may be than they say."""
_JITTERS = (0.0, 0.02, 0.06)
"""Sigma of what each window may have of its own, on top of that: it is gone in the next one."""
_FREE = 1.0
"""Variance over a break."""


@dataclass(frozen=True, eq=False)
class Chain:
    """Windows in rows 0, 1, ..., each after the one that it hangs on.

    Attributes:
        parent: int64 (w,), the row that each hangs on, -1 for none.
        sigma: (w,), of the logarithm of its scale against that one.
        price: what a break costs, chi-square.

    """

    parent: Index
    sigma: Array
    price: float = _BREAK

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.parent)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is said of windows, n times: `log` (n,) of the factor by which the one in `row` (n,) has to become larger.

    `sigma` (n,) is its standard deviation. What has the same `block` (n,), 0, 1, ..., has one error in common, and
    counts as one. While a source lies it does so in `rate` blocks a second.
    """

    row: Index
    log: Array
    sigma: Array
    block: Index
    rate: float = 1.0

    @property
    def weight(self) -> Array:
        """The share (n,) that each has in its block."""
        return 1.0 / np.bincount(self.block)[self.block]


def smooth(chain: Chain, evidence: Evidence, center: float) -> Array:
    """Return for each window the logarithm (w,) of the factor by which it has to become larger.

    `center` is what most of the evidence says. Windows of which nothing is said follow those they hang together with.
    """
    cost, best, rows = np.inf, np.zeros(len(chain)), np.arange(len(chain))
    for level in _LEVELS:
        for jitter in _JITTERS:
            tree, seen = Chain(chain.parent, level * chain.sigma, _BREAK * evidence.rate), evidence
            if jitter:  # each window hangs on its place in the chain
                tree = replace(tree, parent=np.append(tree.parent, rows),
                               sigma=np.append(tree.sigma, np.full(len(chain), jitter)))
                seen = replace(evidence, row=evidence.row + len(chain))
            low, high = (_refined(tree, seen, values) for values in _searched(tree, seen, center))
            if min(low[0], high[0]) < cost:
                # Both are as good: where the chain breaks while a source lies, nobody knows.
                cost, best = min(low[0], high[0]), ((low[1] + high[1]) / 2)[-len(chain):]
    return best


def _searched(chain: Chain, evidence: Evidence, center: float) -> tuple[Array, Array]:
    """Return the best values (w,) on the grid: least cost of evidence and overlaps, both of bounded loss.

    Where others are as good, that is, of all these the least and the largest.
    """
    grid = center + np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
    # Overlaps finer than the grid would hold it in its place.
    variance = np.maximum(chain.sigma, _STEP) ** 2
    cost = np.zeros((len(chain), len(grid)))
    losses = np.minimum(((evidence.log[:, None] - grid) / evidence.sigma[:, None]) ** 2, _LIE)
    np.add.at(cost, evidence.row, evidence.weight[:, None] * losses)
    for row in range(len(chain) - 1, -1, -1):
        if chain.parent[row] >= 0:
            cost[chain.parent[row]] += _message(cost[row], variance[row], chain.price)
    found = []
    for end in (0, -1):
        values = np.empty(len(chain))
        for row, parent in enumerate(chain.parent.tolist()):
            total = cost[row]
            if parent >= 0:
                total = total + np.minimum((grid - values[parent]) ** 2 / variance[row], chain.price)
            values[row] = grid[np.flatnonzero(total <= total.min() + 1e-6)[end]]
        found.append(values)
    return found[0], found[1]


def _message(cost: Array, variance: float, price: float) -> Array:
    """Return what the least cost of a window is, for each value of the one that it hangs on."""
    reach = min(int(np.sqrt(price * variance) / _STEP), len(cost) - 1)
    overlap = (np.arange(-reach, reach + 1) * _STEP) ** 2 / variance
    padded = np.pad(cost, reach, constant_values=np.inf)
    near = (sliding_window_view(padded, 2 * reach + 1) + overlap).min(1)
    return np.minimum(near, cost.min() + price)


def _refined(chain: Chain, evidence: Evidence, values: Array) -> tuple[float, Array]:
    """Return least squares values (w,) without the breaks and lies at `values` (w,), and their cost.

    The cost is -2 times the logarithm of the marginal likelihood, up to a constant.
    """
    hangs = chain.parent >= 0
    bent = np.where(hangs, values - values[chain.parent], 0.0)
    broken = hangs & (bent**2 > chain.price * np.maximum(chain.sigma, _STEP) ** 2)
    variance = np.where(broken, _FREE, chain.sigma**2)
    off = ((evidence.log - values[evidence.row]) / evidence.sigma) ** 2
    believed = off < _LIE
    information = np.where(believed, evidence.weight / evidence.sigma**2, 0.0)
    weight = np.bincount(evidence.row, information, len(chain))
    vector = np.bincount(evidence.row, information * evidence.log, len(chain))
    shrink = np.ones(len(chain))
    for row in range(len(chain) - 1, -1, -1):
        parent = chain.parent[row]
        if parent >= 0:
            shrink[row] = 1 / (1 + weight[row] * variance[row])
            weight[parent] += weight[row] * shrink[row]
            vector[parent] += vector[row] * shrink[row]
    solved = np.zeros(len(chain))
    for row, parent in enumerate(chain.parent.tolist()):
        if parent >= 0:
            solved[row] = (vector[row] * variance[row] + solved[parent]) * shrink[row]
        elif weight[row] > 0:
            solved[row] = vector[row] / weight[row]
    misfit = (information * (evidence.log - solved[evidence.row]) ** 2).sum()
    strain = ((solved - solved[chain.parent]) ** 2 / variance)[hangs].sum()
    price = _LIE * evidence.weight[~believed].sum() + chain.price * broken.sum()
    return float(misfit + strain + price - np.log(shrink[~broken]).sum()), solved
