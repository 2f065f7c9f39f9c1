"""Poses of nodes that a bundle adjustment found take the place of what windows measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vggt_ros.geometry.poses import Array
from vggt_ros.geometry.sim3 import inverse, log, normalized, scales
from vggt_ros.pose_graph.consistency import CHI2_GATE, Loop
from vggt_ros.pose_graph.loop_selection import LoopSelection
from vggt_ros.pose_graph.spanning_tree import Index, SpanningTree


def take_adjusted(selection: LoopSelection, rows: Index, adjusted: Array, observed: Sequence[Loop] = ()) -> bool:
    """Make the overlap factors what the adjusted poses (n, 4, 4) of rows say, and solve with the loops.

    So are the loops whose images were `observed` in the adjustment: it weighed them against all others. The covariances
    stay: where a window said that its scale is uncertain, loops correct it. Scales by metric sources become those of
    the adjusted poses, until the sources are asked again. Return False, with all as before, if the other loops
    contradict it: one is lost, or they strain the overlap factors much more than before.
    """
    tree, loops = selection.tree, selection.accepted
    before, limit = (tree.chained_poses.copy(), tree.poses.copy()), 2 * _strain(tree) + CHI2_GATE * len(loops)
    poses, log_scale = carried(tree, rows, adjusted), selection.log_scale
    tree.replace_chain(poses, poses)
    selection.log_scale = dict(zip(log_scale, np.log(scales(poses[list(log_scale)])).tolist(), strict=True))
    measured = [(loop, loop.matrix) for loop in observed]
    for loop in observed:
        loop.measure_again(inverse(poses[loop.first_row, None])[0] @ poses[loop.second_row])
    selection.solve()
    if not loops or (all(loop.accepted for loop in loops) and _strain(tree) <= limit):
        return True
    for loop, matrix in measured:
        loop.measure_again(matrix)
    for loop in selection.loops:
        loop.accepted = loop in loops
    selection.log_scale = log_scale
    tree.replace_chain(*before)
    selection.restore(before[1])
    return False


def carried(tree: SpanningTree, rows: Index, poses: Array) -> Array:
    """Return the poses (w, 4, 4) of all rows, given those of some; the others move with their parents."""
    result, relative = tree.poses.copy(), inverse(tree.poses[tree.parent]) @ tree.poses
    given = dict(zip(rows.tolist(), np.asarray(poses), strict=True))
    for row, parent in enumerate(tree.parent.tolist()):
        if row in given:
            result[row] = given[row]
        elif parent >= 0:
            result[row] = result[parent] @ relative[row]
    return normalized(result)


def _strain(tree: SpanningTree) -> float:
    """Return the chi-square of the overlap factors at the poses, without inflation."""
    rows = np.arange(1, len(tree))
    measured, covariance = tree.parent_edges(rows)
    error = log(inverse(measured) @ inverse(tree.poses[tree.parent[rows]]) @ tree.poses[rows])
    return float((error * np.linalg.solve(covariance, error[..., None])[..., 0]).sum())
