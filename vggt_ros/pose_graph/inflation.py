"""By how much the covariances of the overlap factors are too small, as estimated from the loops."""

from __future__ import annotations

import numpy as np

_INITIAL, _INITIAL_WEIGHT, _MAX, _MAX_WEIGHT = 4.0, 2, 1000.0, 100
"""Prior on the inflation, its weight as a number of loops; the upper limits of the inflation and of the weight."""


class Inflation:
    """The factor on the covariances of the overlap factors: prior, and estimate from the loops.

    The chi-square of the chain after the loops are closed estimates by how much its covariances are too small.

    Attributes:
        factor: the present estimate.

    """

    def __init__(self) -> None:
        """Begin with the prior."""
        self.factor = self._prior = _INITIAL
        # Weight of the prior as a number of loops, and the number of present loops that it includes.
        self._weight, self._included = _INITIAL_WEIGHT, 0

    def estimate(self, chain_chi2: float, loops: int) -> float:
        """Return the factor by the chi-square of the chain, at the present factor, with so many accepted loops."""
        chi2 = chain_chi2 * self.factor + 7 * self._prior * self._weight
        count = max(0, loops - self._included) + self._weight
        self.factor = float(np.clip(chi2 / (7 * count), 1.0, _MAX))
        return self.factor

    def settle(self, accepted: int, left: int) -> None:
        """Make the present estimate from `accepted` loops the prior, of which `left` loops stay in the graph."""
        self._prior, self._weight = self.factor, min(_MAX_WEIGHT, self._weight + accepted - self._included)
        self._included = left
