"""Similarities that fit best to relations measured between them, by gtsam's Levenberg-Marquardt in short steps.

gtsam holds Python's lock during a call, so no call is longer than one iteration. It writes a similarity as
p' = s (R p + t); ours is p' = s R p + t.
"""

from __future__ import annotations

from collections.abc import Mapping

import gtsam
import numpy as np

from vggt_ros.geometry.poses import Array, Sim3
from vggt_ros.geometry.sim3 import normalized, scales, to_matrix, to_sim3
from vggt_ros.pose_graph.spanning_tree import Index

GAUGE_SIGMA = 1e-4
"""Sigma of the first node: it fixes the gauge (rotation in radians, position in map units, log scale)."""
_ANYWHERE, _SIGMA_SCALE = 1e4, 0.02
"""Sigma of the place and of the logarithm of the scale of a node whose scale sources of meters tell."""
_ITERATIONS = 12
"""The Similarity3 factors leave out the Jacobian of Log, so a few more than Gauss-Newton needs."""


def solve(nodes: Index, place: Array, first: Index, second: Index, measured: Array, covariance: Array,
          log_scale: Mapping[int, float]) -> Array:
    """Return where nodes (n,) lie, (n, 4, 4); the first stays at its place.

    Args:
        nodes: their numbers.
        place: (n, 4, 4), where they lie now.
        first, second: (m,), numbers of the nodes that are related.
        measured: (m, 4, 4), of each second node in the frame of the first.
        covariance: (m, 7, 7), of its perturbation on the right.
        log_scale: number of a node to the logarithm of its scale, for those of which that is known.

    """
    graph, values = gtsam.NonlinearFactorGraph(), gtsam.Values()
    known = place.copy()
    known[:, :3, :3] /= scales(place)[:, None, None]
    known[:, :3, :3] *= np.exp([log_scale.get(node, 0.0) for node in nodes.tolist()])[:, None, None]
    some_scale = gtsam.noiseModel.Diagonal.Sigmas(np.array([*[_ANYWHERE] * 6, _SIGMA_SCALE]))
    for node, similarity, prior in zip(nodes.tolist(), _to_gtsam(place), _to_gtsam(known), strict=True):
        values.insert(node, similarity)
        if node in log_scale:
            graph.add(gtsam.PriorFactorSimilarity3(node, prior, some_scale))
    fixed = int(nodes[0])
    graph.add(gtsam.PriorFactorSimilarity3(fixed, values.atSimilarity3(fixed),
                                           gtsam.noiseModel.Isotropic.Sigma(7, GAUGE_SIGMA)))
    covariance = (covariance + np.swapaxes(covariance, 1, 2)) / 2
    for one, other, similarity, sigma in zip(first.tolist(), second.tolist(), _to_gtsam(measured), covariance,
                                             strict=True):
        graph.add(gtsam.BetweenFactorSimilarity3(one, other, similarity, gtsam.noiseModel.Gaussian.Covariance(sigma)))
    solver = gtsam.LevenbergMarquardtOptimizer(graph, values)
    error = solver.error()
    for _ in range(_ITERATIONS):
        solver.iterate()
        before, error = error, solver.error()
        if before - error <= 1e-4 * error + 1e-9:
            break
    estimate = solver.values()
    return np.array([_from_gtsam(estimate.atSimilarity3(node)) for node in nodes.tolist()])


def _to_gtsam(matrices: Array) -> list[gtsam.Similarity3]:
    """Return matrices (n, 4, 4) as gtsam writes them; Rot3 takes any matrix, and keeps its faults."""
    return [gtsam.Similarity3(gtsam.Rot3(s.rotation), s.translation / s.scale, s.scale)
            for s in to_sim3(normalized(matrices))]


def _from_gtsam(similarity: gtsam.Similarity3) -> Array:
    scale = float(similarity.scale())
    return to_matrix(Sim3(scale, similarity.rotation().matrix(), scale * np.asarray(similarity.translation())))
