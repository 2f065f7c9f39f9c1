"""A set of loops taken as inliers, and the least squares solution of the graph with them.

Only the nodes in which loops end are variables, with the overlap factors between them composed into one factor each.
The nodes between take a share of the correction in proportion to the uncertainty accumulated up to them, so windows
deform non-rigidly, and the size of the problem grows with the loops, not with the windows. Nodes are rows of the
spanning tree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vggt_ros.geometry.poses import Array
from vggt_ros.geometry.sim3 import inverse, log
from vggt_ros.pose_graph.consistency import CHI2_GATE, Loop, end_rows, mahalanobis_squared, residual_chi2, score
from vggt_ros.pose_graph.optimization import solve
from vggt_ros.pose_graph.planar import PlanarGround
from vggt_ros.pose_graph.spanning_tree import Segments, SpanningTree

_CHI2_MEDIAN, _MAX_RESIDUAL_INFLATION = 6.35, 9.0
"""The median of chi-square with 7 degrees of freedom; the upper limit of the factor by which the covariances of loops
may be too small."""


@dataclass(frozen=True, eq=False)
class InlierSet:
    """The solution of the graph with a set of loops.

    Attributes:
        loops: the inliers.
        poses: (n, 4, 4), of every row of the tree.
        chain_chi2: chi-square of the overlap factors within submaps.
        residuals_chi2: (n,), chi-square of the residual of each loop.
        stride: new nodes of the graph per window.
        breaks_chi2: chi-square of the factors between submaps where the chain broke; their covariances are trusted,
            unlike those of the overlap factors.

    """

    loops: tuple[Loop, ...]
    poses: Array
    chain_chi2: float
    residuals_chi2: Array
    stride: int = 1
    breaks_chi2: float = 0.0

    @property
    def score(self) -> float:
        """How well the solution explains the measurements; see `consistency.score`."""
        return score(self.loops, self.residuals_chi2, self.chain_chi2, self.stride) - self.breaks_chi2


def solve_inliers(
    tree: SpanningTree,
    submap: Sequence[int],
    loops: Sequence[Loop],
    stride: int,
    log_scale: Mapping[int, float],
    initial: Array | None = None,
    ground: PlanarGround | None = None,
) -> InlierSet:
    """Return the least squares solution with a set of loops as inliers.

    Args:
        tree: the overlap factors.
        submap: of each row.
        loops: the inliers.
        stride: new nodes of the graph per window.
        log_scale: row to the logarithm of its scale, for rows whose scale is known from metric sources.
        initial: poses (n, 4, 4) to start from, those of the tree if not given.
        ground: of a robot that drives on a plane.

    """
    initial = tree.poses if initial is None else initial
    factors = None if ground is None else ground.factors(initial)
    segments = tree.segments(np.concatenate([*end_rows(loops), *([] if factors is None else [factors.nodes])]))
    nodes = np.append(0, segments.descendant)
    first, second = (np.append(*both)
                     for both in zip((segments.ancestor, segments.descendant), end_rows(loops), strict=True))
    measured = np.array([*segments.measured, *(loop.matrix for loop in loops)]).reshape(-1, 4, 4)
    covariance = np.array([*segments.covariance, *(loop.covariance for loop in loops)]).reshape(-1, 7, 7)
    solved = solve(nodes, initial[nodes], first, second, measured, covariance, log_scale, factors)
    poses = tree.distribute_correction(nodes, solved)
    if factors is not None:  # what the ground corrects says nothing about the loops
        segments = tree.segments(np.concatenate(end_rows(loops)))
    return _evaluate(segments, submap, loops, stride, poses)


def without_outliers(found: InlierSet, solve_again: Callable[[Sequence[Loop]], InlierSet]) -> InlierSet:
    """Return a solution without the loops whose residuals stay above the gate in it, the worst first."""
    while len(found.loops):
        # Most loops are true: if even their median is high, the covariances of loops are too small.
        limit = CHI2_GATE * float(np.clip(np.median(found.residuals_chi2) / _CHI2_MEDIAN, 1.0, _MAX_RESIDUAL_INFLATION))
        outliers = int((found.residuals_chi2 > limit).sum())
        if not outliers:
            break
        worst = np.argsort(-found.residuals_chi2)[: max(1, outliers // 3)]
        found = solve_again([loop for row, loop in enumerate(found.loops) if row not in worst])
    return found


def evaluate_inliers(
    tree: SpanningTree, submap: Sequence[int], loops: Sequence[Loop], stride: int, poses: Array
) -> InlierSet:
    """Return a set of loops with the residuals at given poses (n, 4, 4); arguments as for `solve_inliers`."""
    return _evaluate(tree.segments(np.concatenate(end_rows(loops))), submap, loops, stride, poses)


def _evaluate(
    segments: Segments, submap: Sequence[int], loops: Sequence[Loop], stride: int, poses: Array
) -> InlierSet:
    error = log(inverse(segments.measured) @ inverse(poses[segments.ancestor]) @ poses[segments.descendant])
    chi2, submaps = mahalanobis_squared(error, segments.covariance), np.array(submap, np.int64)
    within = submaps[segments.ancestor] == submaps[segments.descendant]
    return InlierSet(tuple(loops), poses, float(chi2[within].sum()), residual_chi2(poses, loops), stride,
                     float(chi2[~within].sum()))
