"""The factor graph: one Similarity3 a window, solved incrementally by iSAM2 (gtsam).

A node is `map_window`. gtsam writes a similarity as p' = s (R p + t); ours is p' = s R p + t.
"""

from __future__ import annotations

import gtsam
import numpy as np

from vggt_ros.geometry import Array, Sim3, orthonormalize
from vggt_ros.solution import Edge

_PRIOR_SIGMA = 1e-4
"""Sigma of a submap's first window: it fixes the gauge (rotation in radians, position in map units, log scale)."""


class PoseGraph:
    """Windows, the relations measured between them, and where they lie by the newest solve.

    Attributes:
        edges: every relation, in the order in which they came.
        anchors: the windows that fix the gauge, one a submap.
        map_window: window id to its place.

    """

    def __init__(self) -> None:
        """Begin with an empty graph."""
        parameters = gtsam.ISAM2Params()
        parameters.relinearizeSkip = 1
        parameters.setRelinearizeThreshold(0.01)
        self._solver = gtsam.ISAM2(parameters)
        self.edges: list[Edge] = []
        self.anchors: list[int] = []
        self.map_window: dict[int, Sim3] = {}

    def add_submap(self, window: int, map_window: Sim3) -> None:
        """Begin a submap with a window that lies at `map_window`."""
        self.anchors.append(window)
        self._update([_prior(window, map_window)], {window: map_window})

    def restore(self, map_window: dict[int, Sim3], anchors: list[int], edges: list[Edge]) -> None:
        """Go on, in an empty graph, from where another one ended."""
        self.anchors, self.edges = list(anchors), list(edges)
        self._update([*(_prior(window, map_window[window]) for window in anchors),
                      *(_between(e.first, e.second, e.first_second, e.covariance) for e in edges)], map_window)

    def add_window(self, window: int, reference: int, reference_window: Sim3, covariance: Array) -> None:
        """Attach a window to a `reference` window of the graph.

        `covariance` (7, 7) is of the perturbation of `reference_window` on the right, [rotation, translation, log
        scale], in the new window's frame and units.
        """
        self.edges.append(Edge(reference, window, "overlap", reference_window, covariance))
        self._update([_between(reference, window, reference_window, covariance)],
                     {window: self.map_window[reference] @ reference_window})

    def add_loop(self, first: int, second: int, first_second: Sim3, covariance: Array) -> None:
        """Relate two windows of the graph that see the same place; `covariance` as for `add_window`."""
        self.edges.append(Edge(first, second, "loop", first_second, covariance))
        self._update([_between(first, second, first_second, covariance)], {})
        # The Similarity3 factors leave out the Jacobian of Log, so one linear step is not the solution after a loop.
        for _ in range(5):
            self._update([], {})

    def _update(self, factors: list[gtsam.NonlinearFactor], guesses: dict[int, Sim3]) -> None:
        graph, values = gtsam.NonlinearFactorGraph(), gtsam.Values()
        for factor in factors:
            graph.add(factor)
        for window, guess in guesses.items():
            values.insert(window, _to_gtsam(guess))
        self._solver.update(graph, values)
        self.map_window.update(guesses)
        estimate = self._solver.calculateEstimate()
        self.map_window = {window: _from_gtsam(estimate.atSimilarity3(window)) for window in self.map_window}


def _prior(window: int, map_window: Sim3) -> gtsam.NonlinearFactor:
    noise = gtsam.noiseModel.Isotropic.Sigma(7, _PRIOR_SIGMA)
    return gtsam.PriorFactorSimilarity3(window, _to_gtsam(map_window), noise)


def _between(first: int, second: int, first_second: Sim3, covariance: Array) -> gtsam.NonlinearFactor:
    noise = gtsam.noiseModel.Gaussian.Covariance((covariance + covariance.T) / 2)
    return gtsam.BetweenFactorSimilarity3(first, second, _to_gtsam(first_second), noise)


def _to_gtsam(similarity: Sim3) -> gtsam.Similarity3:
    rotation = gtsam.Rot3(orthonormalize(similarity.rotation))  # Rot3 takes any matrix, and keeps its faults
    return gtsam.Similarity3(rotation, similarity.translation / similarity.scale, similarity.scale)


def _from_gtsam(similarity: gtsam.Similarity3) -> Sim3:
    scale = float(similarity.scale())
    return Sim3(scale, similarity.rotation().matrix(), scale * np.asarray(similarity.translation()))
