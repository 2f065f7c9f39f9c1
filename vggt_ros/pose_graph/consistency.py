"""Which loops to believe.

A loop is an observation of the drift between two windows, and the overlaps say how much drift to expect: a loop is
taken if what it asks for is likely under the drift that overlaps and loops taken so far leave open (joint
compatibility: Neira, Tardos, TRA 2001). Refused loops are kept. When some agree with each other pairwise (Mangelson et
al., Pairwise Consistent Measurement Set Maximization, ICRA 2018), the map that they would make is compared with the
present one by a truncated least squares score, in which loops between the same two stretches of the way count as one
piece of evidence (as clusters do in Latif, Cadena, Neira, Robust Loop Closing over Time, IJRR 2013): look-alike
corridors agree with themselves, but with nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vggt_ros.geometry.poses import Array, Sim3
from vggt_ros.geometry.sim3 import inverse, log, to_matrix, transported
from vggt_ros.pose_graph.spanning_tree import Index, SpanningTree

GATE = 24.3
"""The 99.9 % quantile of chi-square with the 7 degrees of freedom of a similarity."""
_STRAIN = 9.0
"""The covariances of overlaps may be too small by this factor before drift speaks against a group of loops; beyond it
the logarithm counts, because how much too small they are is what only loops can tell."""
_LONE = 4.0
"""The same for a single piece of evidence, without the logarithm."""
_NEIGHBORS = 6
"""Loops whose ends are within so many windows of each other are one piece of evidence."""
_CONDITIONS = 60
"""Most loops taken that a new one is tested against: those with the nearest ends."""


@dataclass(eq=False)
class Loop:
    """A relation between two windows that see the same place.

    Attributes:
        id: number of the loop, never reused.
        first, second: ids of the windows; first_second: the similarity between them.
        covariance: (7, 7) of its perturbation on the right.
        accepted: whether the graph believes it now.
        images: how many images say so, each for itself.
        waits: whether it is to be judged when something else tells how its submaps lie.
        reason: why, or why not.
        first_row, second_row: of the windows in the tree.

    """

    id: int
    first: int
    second: int
    first_second: Sim3
    covariance: Array
    first_row: int
    second_row: int
    images: int = 1
    waits: bool = False
    accepted: bool = False
    reason: str = ""

    def __post_init__(self) -> None:
        """Keep the similarity as a matrix, too."""
        self.matrix = to_matrix(self.first_second)


def ends(loops: Sequence[Loop]) -> tuple[Index, Index]:
    """Return the rows (n,) of both ends of loops."""
    return (np.array([loop.first_row for loop in loops], np.int64),
            np.array([loop.second_row for loop in loops], np.int64))


def residual_chi2(place: Array, loops: Sequence[Loop]) -> Array:
    """Return the chi-square (n,) of loops against windows that lie at `place` (w, 4, 4)."""
    if not loops:
        return np.zeros(0)
    first, second = ends(loops)
    error = log(inverse(np.array([loop.matrix for loop in loops])) @ inverse(place[first]) @ place[second])
    return mahalanobis_squared(error, np.array([loop.covariance for loop in loops]))


def mahalanobis_squared(errors: Array, covariances: Array) -> Array:
    """Return the squared Mahalanobis lengths (n,) of errors (n, 7) under covariances (n, 7, 7)."""
    return np.einsum("ni,ni->n", errors, np.linalg.solve(covariances, errors[..., None])[..., 0])


def predicted_chi2(tree: SpanningTree, loops: Sequence[Loop], given: Sequence[Loop]) -> Array:
    """Return the chi-square (n,) of each of the loops under the drift that overlaps and the loops `given` leave open.

    The places in `tree` are taken to be the solution with the loops given.
    """
    if not loops:
        return np.zeros(0)
    place = tree.place
    first, second = ends(loops)
    matrices = np.array([loop.matrix for loop in loops])
    innovation = log(place[first] @ matrices @ inverse(place[second]))
    noise = transported(np.array([loop.covariance for loop in loops]), place[second])
    covariance = _drift_covariance(tree, first, second) + noise
    if given:
        given = _nearest_loops(given, first, second)
        first_given, second_given = ends(given)
        cross = _cross_covariance(tree, first[:, None], second[:, None], first_given, second_given)
        joint = _cross_covariance(tree, first_given[:, None], second_given[:, None], first_given, second_given)
        index = np.arange(len(given))
        joint[index, index] += transported(np.array([loop.covariance for loop in given]), place[second_given])
        size = 7 * len(given)
        flat = joint.swapaxes(1, 2).reshape(size, size)
        unit = 1 / np.sqrt(np.diag(flat))  # rotations and positions far from the origin are orders of magnitude apart
        factor = np.linalg.cholesky(flat * unit[:, None] * unit + 1e-12 * np.eye(size))
        sides = cross.transpose(1, 3, 0, 2).reshape(size, -1) * unit[:, None]
        half = np.linalg.solve(factor, sides).reshape(size, len(loops), 7)
        covariance = covariance - np.einsum("snd,sne->nde", half, half)
    # The subtraction leaves rounding errors of the far larger drift; a loop's own noise bounds it from below.
    values, vectors = np.linalg.eigh((covariance + covariance.swapaxes(1, 2)) / 2)
    floor = np.linalg.eigvalsh(noise)[:, :1]
    projected = np.einsum("nji,nj->ni", vectors, innovation)
    return np.asarray((projected**2 / np.maximum(values, floor)).sum(1))


def consistent_with(tree: SpanningTree, loop: Loop, others: Sequence[Loop]) -> list[Loop]:
    """Return those of `others` that agree with a loop: around both and the overlaps between them it is one place."""
    if not others:
        return []
    chained = tree.chained
    first, second = ends(others)
    matrices = np.array([other.matrix for other in others])
    # first -> other first -> other second -> second, against the loop itself, as seen from its second window.
    there = inverse(chained[loop.first_row, None]) @ chained[first]
    back = inverse(chained[second]) @ chained[loop.second_row, None]
    around = inverse(loop.matrix[None]) @ there @ matrices @ back
    to_second = inverse(chained[loop.second_row, None])
    drift = _drift_covariance(tree, np.full_like(first, loop.first_row), first) + _drift_covariance(
        tree, second, np.full_like(second, loop.second_row))
    # The tree's covariances are of its places; overlaps of one segment move together, so turn them back with it.
    local = transported(drift, inverse(tree.place[loop.second_row, None]))
    noise = transported(np.array([other.covariance for other in others]), to_second @ chained[second])
    agree = mahalanobis_squared(log(around), local + noise + loop.covariance) <= GATE
    return [other for other, fits in zip(others, agree, strict=True) if fits]


def consistent_set(tree: SpanningTree, loop: Loop, others: Sequence[Loop]) -> list[Loop]:
    """Return a loop and those of the others that agree with it and with each other, taken greedily."""
    chosen, left = [loop], consistent_with(tree, loop, others)
    while left:
        supporters = {other.id: consistent_with(tree, other, left) for other in left} if len(left) < 12 else {}
        best = max(left, key=lambda other: len(supporters.get(other.id, ())))
        chosen.append(best)
        left = [other for other in supporters.get(best.id) or consistent_with(tree, best, left) if other is not best]
    return chosen


def score(loops: Sequence[Loop], residuals_chi2: Array, chain_chi2: float, stride: int = 1) -> float:
    """Return how well a set of loops explains what was seen: higher is better.

    Args:
        loops: those believed.
        misfits: their chi-square (n,).
        strain: chi-square of the overlaps.
        stride: nodes of the graph in a window.

    """
    clusters = _clusters(loops, _NEIGHBORS * stride)
    gain = GATE * sum(1 + float(np.log2(len(cluster))) for cluster in clusters)
    if len(clusters) < 2:  # nothing but itself speaks for it: the overlaps are taken at their word, or nearly so
        return gain - float(residuals_chi2.sum()) - chain_chi2 / _LONE
    freedom = 7.0 * len(loops)
    return gain - float(residuals_chi2.sum()) - freedom * float(np.log1p(chain_chi2 / (freedom * _STRAIN)))


def independent_clusters(loops: Sequence[Loop], stride: int = 1) -> int:
    """Return how many independent pieces of evidence loops are; `stride` as for `score`."""
    return len(_clusters(loops, _NEIGHBORS * stride))


def supporting_images(loops: Sequence[Loop], stride: int = 1) -> int:
    """Return how many images speak for loops; those of several between the same two windows may be the same ones."""
    return sum(max(loop.images for loop in cluster) for cluster in _clusters(loops, stride - 1))


def _clusters(loops: Sequence[Loop], reach: int) -> list[list[Loop]]:
    """Return the loops that connect each pair of stretches of the way, `reach` nodes to either side of one of them."""
    # By the nodes' numbers, as the way went: rows come closer when nodes between them are let go.
    first = np.array([loop.first for loop in loops], np.int64)
    second = np.array([loop.second for loop in loops], np.int64)
    clusters, counted = [], np.zeros(len(loops), bool)
    for row in range(len(loops)):
        if not counted[row]:
            near = np.maximum(abs(first - first[row]), abs(second - second[row])) <= reach
            near &= ~counted
            counted |= near
            clusters.append([loop for loop, is_near in zip(loops, near, strict=True) if is_near])
    return clusters


def _drift_covariance(tree: SpanningTree, first: Index, second: Index) -> Array:
    """Return the covariance (n, 7, 7) of the drift between rows."""
    return _cross_covariance(tree, first, second, first, second)


def _cross_covariance(
    tree: SpanningTree, first: Index, second: Index, first_other: Index, second_other: Index
) -> Array:
    """Return the covariance (..., 7, 7) of the drift from `first` to `second` with that of the others."""
    def both(row: Index, other: Index) -> Array:
        return tree.covariance(tree.ancestor(row, other))

    return np.asarray(both(second, second_other) - both(second, first_other) - both(first, second_other)
                      + both(first, first_other))


def _nearest_loops(given: Sequence[Loop], first: Index, second: Index) -> Sequence[Loop]:
    """Return the loops of `given` whose ends are nearest to those of any of the rows."""
    if len(given) <= _CONDITIONS:
        return given
    a, b = ends(given)
    distance = np.zeros(len(given))
    for end in (first, second):
        distance += np.minimum(abs(a[:, None] - end).min(1), abs(b[:, None] - end).min(1))
    return [given[row] for row in np.argsort(distance, kind="stable")[:_CONDITIONS]]
