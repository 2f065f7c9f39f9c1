"""Statistical consistency of loop closures: gating, pairwise consistency, and a score for a set of loops.

A loop measures the drift between two nodes, and the overlap factors predict how much drift to expect: a loop is
accepted if its measurement is likely given the overlap factors and the loops accepted so far (joint compatibility:
Neira, Tardos, TRA 2001). Rejected loops are kept. When some of them are pairwise consistent (Mangelson et al., Pairwise
Consistent Measurement Set Maximization, ICRA 2018), the map that they would give is compared with the current map by a
truncated least squares score. In that score, loops between the same two stretches of the trajectory form one cluster,
which counts as one piece of evidence (as in Latif, Cadena, Neira, Robust Loop Closing over Time, IJRR 2013): false
loops caused by perceptual aliasing, such as those between look-alike corridors, agree with each other, but with nothing
else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, Sim3
from vggt_ros.geometry.sim3 import inverse, log, scales, to_matrix, to_sim3, transported
from vggt_ros.pose_graph.path_sums import path_sums
from vggt_ros.pose_graph.spanning_tree import Index, SpanningTree

CHI2_GATE = 24.3
"""The 99.9 % quantile of chi-square with the 7 degrees of freedom of a similarity."""
_CHAIN_TOLERANCE = 9.0
"""The covariances of the overlap factors may be too small by this factor before their chi-square lowers the score of a
set of loops. Beyond it the chi-square counts logarithmically, because only loops can tell how much too small the
covariances are."""
_SINGLE_CLUSTER_TOLERANCE = 4.0
"""The same factor for a set that is a single cluster; its chi-square counts linearly."""
_CLUSTER_WINDOWS = 6
"""Loops whose end nodes are within this many windows of each other are one cluster."""
_MAX_CONDITIONING_LOOPS = 60
"""Most accepted loops that a new one is tested against: those with the nearest end nodes."""


@dataclass(eq=False)
class Loop:
    """A relative-pose measurement between two nodes that see the same place.

    Attributes:
        id: number of the loop, never reused.
        first, second: ids of the nodes; first_second: the similarity between them.
        covariance: (7, 7) of its perturbation on the right.
        first_row, second_row: rows of the nodes in the spanning tree.
        images: how many images support the measurement independently.
        pending: whether it waits, undecided, for another constraint on the relative pose of its submaps.
        accepted: whether it is a factor of the graph now.
        reason: why it was accepted, rejected, or left pending.

    """

    id: int
    first: int
    second: int
    first_second: Sim3
    covariance: Array
    first_row: int
    second_row: int
    images: int = 1
    pending: bool = False
    accepted: bool = False
    reason: str = ""

    def __post_init__(self) -> None:
        """Keep the similarity as a matrix, too."""
        self.matrix = to_matrix(self.first_second)

    def measure_again(self, matrix: Array) -> None:
        """Replace the measurement by another similarity (4, 4) between the nodes."""
        self.matrix, self.first_second = matrix, to_sim3(matrix[None])[0]


def end_rows(loops: Sequence[Loop]) -> tuple[Index, Index]:
    """Return the rows (n,) of the first and of the second nodes of loops."""
    return (np.array([loop.first_row for loop in loops], np.int64),
            np.array([loop.second_row for loop in loops], np.int64))


def residual_chi2(poses: Array, loops: Sequence[Loop]) -> Array:
    """Return the chi-square (n,) of the residuals of loops, given the poses (w, 4, 4) of all rows."""
    if not loops:
        return np.zeros(0)
    first, second = end_rows(loops)
    error = log(inverse(np.array([loop.matrix for loop in loops])) @ inverse(poses[first]) @ poses[second])
    return mahalanobis_squared(error, np.array([loop.covariance for loop in loops]))


def mahalanobis_squared(errors: Array, covariances: Array) -> Array:
    """Return the squared Mahalanobis lengths (n,) of errors (n, 7) under covariances (n, 7, 7)."""
    return np.einsum("ni,ni->n", errors, np.linalg.solve(covariances, errors[..., None])[..., 0])


def predicted_chi2(tree: SpanningTree, loops: Sequence[Loop], accepted: Sequence[Loop],
                   path: Array | None = None) -> Array:
    """Return the chi-square (n,) of the innovation of each loop, given the overlap factors and the `accepted` loops.

    The poses in `tree` have to be the solution with the accepted loops. `path` (2, n), the length and the angles of the
    shortest path between the nodes, is for errors that add up along it; without it there are none.
    """
    if not loops:
        return np.zeros(0)
    poses = tree.poses
    first, second = end_rows(loops)
    matrices = np.array([loop.matrix for loop in loops])
    innovation = log(poses[first] @ matrices @ inverse(poses[second]))
    noise = transported(np.array([loop.covariance for loop in loops]), poses[second])
    covariance = drift_covariance(tree, first, second, accepted) + noise
    if path is not None:
        covariance += transported(_systematic_covariance(tree, path, second), poses[second])
    # The subtraction leaves rounding errors of the far larger drift; a loop's own noise bounds it from below.
    values, vectors = np.linalg.eigh((covariance + covariance.swapaxes(1, 2)) / 2)
    floor = np.linalg.eigvalsh(noise)[:, :1]
    projected = np.einsum("nji,nj->ni", vectors, innovation)
    return np.asarray((projected**2 / np.maximum(values, floor)).sum(1))


def drift_covariance(tree: SpanningTree, first: Index, second: Index, accepted: Sequence[Loop]) -> Array:
    """Return the covariance (n, 7, 7) of the drift between rows (n,) and (n,) that the `accepted` loops leave.

    It is of perturbations on the left, in the map's frame.
    """
    covariance = _drift_covariance(tree, first, second)
    if not accepted:
        return covariance
    accepted = _nearest_loops(accepted, first, second)
    first_accepted, second_accepted = end_rows(accepted)
    cross = _cross_covariance(tree, first[:, None], second[:, None], first_accepted, second_accepted)
    joint = _cross_covariance(tree, first_accepted[:, None], second_accepted[:, None], first_accepted, second_accepted)
    index = np.arange(len(accepted))
    joint[index, index] += transported(np.array([loop.covariance for loop in accepted]), tree.poses[second_accepted])
    size = 7 * len(accepted)
    flat = joint.swapaxes(1, 2).reshape(size, size)
    scaling = 1 / np.sqrt(np.diag(flat))  # rotations and far positions differ by orders of magnitude
    factor = np.linalg.cholesky(flat * scaling[:, None] * scaling + 1e-12 * np.eye(size))
    flat_cross = cross.transpose(1, 3, 0, 2).reshape(size, -1) * scaling[:, None]
    whitened = np.linalg.solve(factor, flat_cross).reshape(size, len(first), 7)
    return np.asarray(covariance - np.einsum("snd,sne->nde", whitened, whitened))


def consistent_with(tree: SpanningTree, loop: Loop, others: Sequence[Loop]) -> list[Loop]:
    """Return those of `others` that are pairwise consistent with a loop.

    Two loops are consistent if the cycle of both and of the overlap factors between their ends closes within the gate.
    """
    if not others:
        return []
    chained_poses = tree.chained_poses
    first, second = end_rows(others)
    matrices = np.array([other.matrix for other in others])
    # first -> other first -> other second -> second, against the loop itself, in the frame of its second node.
    to_other = inverse(chained_poses[loop.first_row, None]) @ chained_poses[first]
    from_other = inverse(chained_poses[second]) @ chained_poses[loop.second_row, None]
    cycle = inverse(loop.matrix[None]) @ to_other @ matrices @ from_other
    to_second = inverse(chained_poses[loop.second_row, None])
    drift = _drift_covariance(tree, np.full_like(first, loop.first_row), first) + _drift_covariance(
        tree, second, np.full_like(second, loop.second_row))
    # The tree's covariances are in the frame of its current poses; transport them to the frame of the second node.
    local = transported(drift, inverse(tree.poses[loop.second_row, None]))
    noise = transported(np.array([other.covariance for other in others]), to_second @ chained_poses[second])
    sums = path_sums(tree)[:2]
    path = (abs(sums[:, first] - sums[:, [loop.first_row]]) + abs(sums[:, second] - sums[:, [loop.second_row]]))
    systematic = _systematic_covariance(tree, path, np.full_like(first, loop.second_row))
    agree = mahalanobis_squared(log(cycle), local + noise + loop.covariance + systematic) <= CHI2_GATE
    return [other for other, agrees in zip(others, agree, strict=True) if agrees]


def consistent_set(tree: SpanningTree, loop: Loop, others: Sequence[Loop]) -> list[Loop]:
    """Return a loop and those of the others that are pairwise consistent with it and each other, chosen greedily."""
    chosen, candidates = [loop], consistent_with(tree, loop, others)
    while candidates:
        supporters = {other.id: consistent_with(tree, other, candidates)
                      for other in candidates} if len(candidates) < 12 else {}
        best = max(candidates, key=lambda other: len(supporters.get(other.id, ())))
        chosen.append(best)
        candidates = [other for other in supporters.get(best.id) or consistent_with(tree, best, candidates)
                      if other is not best]
    return chosen


def score(loops: Sequence[Loop], residuals_chi2: Array, chain_chi2: float, stride: int = 1) -> float:
    """Return how well a set of loops explains the measurements: higher is better.

    Args:
        loops: the accepted ones.
        residuals_chi2: chi-square (n,) of their residuals.
        chain_chi2: chi-square of the overlap factors.
        stride: new nodes of the graph per window.

    """
    clusters = _clusters(loops, _CLUSTER_WINDOWS * stride)
    gain = CHI2_GATE * sum(1 + float(np.log2(len(cluster))) for cluster in clusters)
    if len(clusters) < 2:  # without independent support, the covariances of the overlaps are trusted, or nearly so
        return gain - float(residuals_chi2.sum()) - chain_chi2 / _SINGLE_CLUSTER_TOLERANCE
    freedom = 7.0 * len(loops)
    return gain - float(residuals_chi2.sum()) - freedom * float(np.log1p(chain_chi2 / (freedom * _CHAIN_TOLERANCE)))


def stretches(loops: Sequence[Loop], stride: int = 1) -> list[list[Loop]]:
    """Return loops by stretches of the trajectory: two that have a place in common, directly or over others, are one.

    Places are the same within `_CLUSTER_WINDOWS` windows; `stride` as for `score`. Where two stretches are built alike,
    loops all along them agree with each other, and so do those with a third one: all of them are one piece of evidence.
    """
    label = np.arange(len(loops))
    for near in _ends_in_common(loops, _CLUSTER_WINDOWS * stride):
        label[np.isin(label, label[near])] = label[near].min()
    return [[loop for loop, own in zip(loops, label.tolist(), strict=True) if own == one]
            for one in np.unique(label).tolist()]


def supporting_images(loops: Sequence[Loop], stride: int = 1) -> int:
    """Return how many images support loops.

    Loops that have a window in common, at either end, count as the one of them with most images: where that window
    shows a place that looks like another one, it agrees with all windows that show the other one.
    """
    count, left = 0, np.ones(len(loops), bool)
    for row, near in enumerate(_ends_in_common(loops, stride - 1)):
        if left[row]:
            count += max(loop.images for loop, is_near in zip(loops, near & left, strict=True) if is_near)
            left &= ~near
    return count


def _ends_in_common(loops: Sequence[Loop], radius: int) -> NDArray[np.bool_]:
    """Return for each two loops (n, n) whether an end of the one is within `radius` nodes of an end of the other."""
    ends = np.array([[loop.first, loop.second] for loop in loops], np.int64).reshape(-1, 2)
    return np.asarray((abs(ends[:, None, :, None] - ends[:, None]) <= radius).any((2, 3)))


def _clusters(loops: Sequence[Loop], radius: int) -> list[list[Loop]]:
    """Return the loops by pairs of stretches of the trajectory, up to `radius` nodes to either side of one loop."""
    # By node ids, which follow the trajectory: rows move closer when nodes between them are marginalized.
    first = np.array([loop.first for loop in loops], np.int64)
    second = np.array([loop.second for loop in loops], np.int64)
    clusters, assigned = [], np.zeros(len(loops), bool)
    for row in range(len(loops)):
        if not assigned[row]:
            near = np.maximum(abs(first - first[row]), abs(second - second[row])) <= radius
            near &= ~assigned
            assigned |= near
            clusters.append([loop for loop, is_near in zip(loops, near, strict=True) if is_near])
    return clusters


def _systematic_covariance(tree: SpanningTree, path: Array, rows: Index) -> Array:
    """Return the covariance (n, 7, 7) of errors that add up along paths (2, n) to rows, perturbations on the right."""
    sigmas = np.zeros((path.shape[1], 7))
    sigmas[:, :3] = tree.systematic * path[1, :, None]
    sigmas[:, 3:6] = tree.systematic * (path[0] / scales(tree.poses[rows]))[:, None]
    sigmas[:, 6] = tree.systematic * (path[0] > 0)
    return np.asarray(np.einsum("ni,ij->nij", sigmas**2, np.eye(7)))


def _drift_covariance(tree: SpanningTree, first: Index, second: Index) -> Array:
    """Return the covariance (n, 7, 7) of the drift between rows."""
    return _cross_covariance(tree, first, second, first, second)


def _cross_covariance(
    tree: SpanningTree, first: Index, second: Index, first_other: Index, second_other: Index
) -> Array:
    """Return the covariance (..., 7, 7) of the drift from `first` to `second` with that between the other rows."""
    def shared(row: Index, other: Index) -> Array:
        return tree.covariance(tree.common_ancestor(row, other))

    return np.asarray(shared(second, second_other) - shared(second, first_other) - shared(first, second_other)
                      + shared(first, first_other))


def _nearest_loops(loops: Sequence[Loop], first: Index, second: Index) -> Sequence[Loop]:
    """Return at most `_MAX_CONDITIONING_LOOPS` of the loops, those whose end nodes are nearest to any of the rows."""
    if len(loops) <= _MAX_CONDITIONING_LOOPS:
        return loops
    first_rows, second_rows = end_rows(loops)
    distance = np.zeros(len(loops))
    for end in (first, second):
        distance += np.minimum(abs(first_rows[:, None] - end).min(1), abs(second_rows[:, None] - end).min(1))
    return [loops[row] for row in np.argsort(distance, kind="stable")[:_MAX_CONDITIONING_LOOPS]]
