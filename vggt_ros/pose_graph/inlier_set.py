"""A set of loops to believe, and the map that it makes.

Only the nodes in which loops end are solved, with the overlaps between them composed into one each; those between take
their share of the correction in proportion to the uncertainty that has accumulated up to them. So windows bend, and
the solve grows with the loops, not with the windows. Nodes are the rows of the tree of overlaps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vggt_ros.geometry.poses import Array
from vggt_ros.geometry.sim3 import inverse, log
from vggt_ros.pose_graph.consistency import Loop, ends, mahalanobis_squared, residual_chi2, score
from vggt_ros.pose_graph.optimization import solve
from vggt_ros.pose_graph.spanning_tree import Segments, SpanningTree


@dataclass(frozen=True, eq=False)
class InlierSet:
    """What becomes of the map with a set of loops.

    Attributes:
        loops: those believed.
        place: (n, 4, 4), of every row of the tree.
        strain: chi-square of the overlaps.
        misfits: chi-square of each loop.
        stride: nodes of the graph in a window.
        broken: chi-square of the places at which the chain broke: unlike the overlaps', their covariances are not in
            doubt.

    """

    loops: tuple[Loop, ...]
    place: Array
    chain_chi2: float
    residuals_chi2: Array
    stride: int = 1
    breaks_chi2: float = 0.0

    @property
    def score(self) -> float:
        """How well it explains what was seen; see `consensus.score`."""
        return score(self.loops, self.residuals_chi2, self.chain_chi2, self.stride) - self.breaks_chi2


def solve_inliers(
    tree: SpanningTree,
    submap: Sequence[int],
    loops: Sequence[Loop],
    stride: int,
    log_scale: Mapping[int, float],
    start: Array | None = None,
) -> InlierSet:
    """Return the least squares solution with a set of loops.

    Args:
        tree: the overlaps.
        submap: of each row.
        loops: to be believed.
        stride: nodes of the graph in a window.
        log_scale: row to the logarithm of its scale, where sources of meters tell.
        start: places (n, 4, 4) to start with, those of the tree if not given.

    """
    start = tree.place if start is None else start
    segments = tree.segments(np.concatenate(ends(loops)))
    nodes = np.append(0, segments.below)
    first, second = (np.append(*both) for both in zip((segments.above, segments.below), ends(loops), strict=True))
    measured = np.array([*segments.measured, *(loop.matrix for loop in loops)]).reshape(-1, 4, 4)
    covariance = np.array([*segments.covariance, *(loop.covariance for loop in loops)]).reshape(-1, 7, 7)
    solved = solve(nodes, start[nodes], first, second, measured, covariance, log_scale)
    return _evaluated(segments, submap, loops, stride, tree.spread(nodes, solved))


def evaluate_inliers(
    tree: SpanningTree, submap: Sequence[int], loops: Sequence[Loop], stride: int, place: Array
) -> InlierSet:
    """Return what overlaps and a set of loops say of places (n, 4, 4); arguments as for `solve_inliers`."""
    return _evaluated(tree.segments(np.concatenate(ends(loops))), submap, loops, stride, place)


def _evaluated(
    segments: Segments, submap: Sequence[int], loops: Sequence[Loop], stride: int, place: Array
) -> InlierSet:
    error = log(inverse(segments.measured) @ inverse(place[segments.above]) @ place[segments.below])
    chain_chi2, submaps = mahalanobis_squared(error, segments.covariance), np.array(submap, np.int64)
    within = submaps[segments.above] == submaps[segments.below]
    return InlierSet(tuple(loops), place, float(chain_chi2[within].sum()), residual_chi2(place, loops), stride,
                      float(chain_chi2[~within].sum()))
