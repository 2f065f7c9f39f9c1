"""Least squares over Sim(3) nodes by gtsam's Levenberg-Marquardt, one iteration at a time.

gtsam holds Python's global interpreter lock during a call, so no call is longer than one iteration. Its Similarity3 is
p' = s (R p + t); here it is p' = s R p + t.
"""

from __future__ import annotations

from collections.abc import Mapping

import gtsam
import numpy as np

from vggt_ros.geometry.poses import Array, Sim3
from vggt_ros.geometry.sim3 import normalized, scales, to_matrix, to_sim3
from vggt_ros.pose_graph.planar import PlanarFactors
from vggt_ros.pose_graph.spanning_tree import Index

GAUGE_SIGMA = 1e-4
"""Sigma of the prior on the first node, which fixes the gauge (rotation in radians, position in map units, log
scale)."""
_UNINFORMATIVE_SIGMA, _SCALE_SIGMA = 1e4, 0.02
"""Sigmas of the pose and of the log scale in the prior on a node whose scale is known from metric sources."""
_GROUND_LOSS = 1.0
"""Residual, in sigmas, at which a factor by the ground has a quarter of its weight (Geman-McClure)."""
_MAX_ITERATIONS = 12
"""The Similarity3 factors leave out the Jacobian of Log, so a few more iterations are needed than by Gauss-Newton."""


def solve(nodes: Index, poses: Array, first: Index, second: Index, measured: Array, covariance: Array,
          log_scale: Mapping[int, float], ground: PlanarFactors | None = None) -> Array:
    """Return the optimized poses (n, 4, 4) of nodes (n,); the first stays at its pose.

    Args:
        nodes: their numbers.
        poses: (n, 4, 4), the initial estimate.
        first, second: (m,), numbers of the nodes that each factor relates.
        measured: (m, 4, 4), of each second node in the frame of the first.
        covariance: (m, 7, 7), of its perturbation on the right.
        log_scale: number of a node to the logarithm of its scale, for those whose scale is known.
        ground: factors on nodes, all of `nodes`, by the ground; with a robust loss.

    """
    graph, values = gtsam.NonlinearFactorGraph(), gtsam.Values()
    scaled = poses.copy()
    scaled[:, :3, :3] /= scales(poses)[:, None, None]
    scaled[:, :3, :3] *= np.exp([log_scale.get(node, 0.0) for node in nodes.tolist()])[:, None, None]
    scale_noise = gtsam.noiseModel.Diagonal.Sigmas(np.array([*[_UNINFORMATIVE_SIGMA] * 6, _SCALE_SIGMA]))
    for node, similarity, prior in zip(nodes.tolist(), _to_gtsam(poses), _to_gtsam(scaled), strict=True):
        values.insert(node, similarity)
        if node in log_scale:
            graph.add(gtsam.PriorFactorSimilarity3(node, prior, scale_noise))
    fixed = int(nodes[0])
    graph.add(gtsam.PriorFactorSimilarity3(fixed, values.atSimilarity3(fixed),
                                           gtsam.noiseModel.Isotropic.Sigma(7, GAUGE_SIGMA)))
    covariance = (covariance + np.swapaxes(covariance, 1, 2)) / 2
    for one, other, similarity, sigma in zip(first.tolist(), second.tolist(), _to_gtsam(measured), covariance,
                                             strict=True):
        graph.add(gtsam.BetweenFactorSimilarity3(one, other, similarity, gtsam.noiseModel.Gaussian.Covariance(sigma)))
    if ground is not None:
        _add_ground(graph, ground)
    solver = gtsam.LevenbergMarquardtOptimizer(graph, values)
    error = solver.error()
    for _ in range(_MAX_ITERATIONS):
        solver.iterate()
        before, error = error, solver.error()
        if before - error <= 1e-4 * error + 1e-9:
            break
    estimate = solver.values()
    return np.array([_from_gtsam(estimate.atSimilarity3(node)) for node in nodes.tolist()])


def _add_ground(graph: gtsam.NonlinearFactorGraph, ground: PlanarFactors) -> None:
    """Add two factors to each node: one by its tilt, one by its height, each with a robust loss of its own."""
    loss = gtsam.noiseModel.mEstimator.GemanMcClure.Create(_GROUND_LOSS)
    for node, target, covariances in zip(ground.nodes.tolist(), _to_gtsam(ground.targets), ground.covariances,
                                         strict=True):
        for covariance in covariances:
            noise = gtsam.noiseModel.Robust.Create(loss, gtsam.noiseModel.Gaussian.Covariance(covariance))
            graph.add(gtsam.PriorFactorSimilarity3(node, target, noise))


def _to_gtsam(matrices: Array) -> list[gtsam.Similarity3]:
    """Return matrices (n, 4, 4) in gtsam's convention, orthonormalized first because Rot3 does not do that."""
    return [gtsam.Similarity3(gtsam.Rot3(s.rotation), s.translation / s.scale, s.scale)
            for s in to_sim3(normalized(matrices))]


def _from_gtsam(similarity: gtsam.Similarity3) -> Array:
    scale = float(similarity.scale())
    return to_matrix(Sim3(scale, similarity.rotation().matrix(), scale * np.asarray(similarity.translation())))
