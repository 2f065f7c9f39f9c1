"""What the trajectory between two keyframes allows: how far a loop may move them against each other.

Two places that are built alike (the floors of a staircase, the corridors of a hotel) look the same and are
reconstructed consistently, so neither features nor depth can tell a false loop between them from a true one. What can
is the trajectory in between: its relative pose is known to a fraction of its length. A loop that asks for more than the
largest drift is not accepted, however well it fits, unless loops of another stretch of the trajectory agree with it.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from vggt_ros.geometry.poses import Array
from vggt_ros.geometry.sim3 import inverse, scales, transported
from vggt_ros.pose_graph.consistency import CHI2_GATE, Loop, drift_covariance, end_rows, predicted_chi2, stretches
from vggt_ros.pose_graph.path_sums import COUNT, SCALE, VARIANCE, path_sums, scale_variance
from vggt_ros.pose_graph.spanning_tree import SpanningTree
from vggt_ros.pose_graph.submaps import Submaps

MAX_STRETCHES = 2
"""Stretches of the trajectory, each of which allows another largest drift if they agree; more of them allow no more."""
SYSTEMATIC = {True: 0.05, False: 0.2}
"""Standard deviation of errors that add up along the path, over the largest drift, of a camera with and without a
calibration: a wrong focal length turns every turn too far, and bends straight paths."""
_LOOK_ALIKE = ("They may be two places that look alike; the loop is accepted when loops of another stretch of the "
               "trajectory agree with it: show the camera other places that it has seen before")


@dataclass(frozen=True)
class Drift:
    """Standard deviations of a relative pose by the graph: radians, map units, natural logarithm of the scale."""

    rotation: float
    translation: float
    log_scale: float


def refusals(tree: SpanningTree, submaps: Submaps, loops: Sequence[Loop], kept: Sequence[Loop],
             largest_drift: float) -> list[str]:
    """Return for each loop why the trajectory does not allow it, given the accepted loops to keep; empty if it does.

    `largest_drift` is a fraction of the path. The poses of the tree have to be the solution with the loops to keep.
    """
    paths = shortest_paths(tree, submaps.of_row, loops, kept)
    chi2 = predicted_chi2(tree, loops, kept, np.where(np.isfinite(paths[:2]), paths[:2], 0.0))
    demands, limits = asked(loops, tree.poses), _allowed(paths, largest_drift)
    return [_refusal(loop, submaps.out_of_reach(tree.poses, loop, kept), *figures) for loop, *figures
            in zip(loops, chi2.tolist(), demands.tolist(), limits.tolist(), strict=True)]


def _refusal(loop: Loop, motion: tuple[float, float] | None, chi2: float, demand: float, limit: float) -> str:
    if motion is not None:
        return (f"the camera would have moved {motion[0]:.3g} map units while it was lost, and can have moved at most "
                f"{motion[1]:.3g} at the speed it had. {_LOOK_ALIKE}")
    if demand > limit:
        return (f"it would move one of the places by {demand:.3g} map units, and the trajectory between them allows "
                f"{limit:.3g} (loops.drift); its chi-square against the map is {chi2:.0f}. {_LOOK_ALIKE}")
    if chi2 > CHI2_GATE:
        return (f"its chi-square against the map is {chi2:.0f}, more than {CHI2_GATE}, by a move of {demand:.3g} map "
                f"units or by rotation or scale. {_LOOK_ALIKE}")
    return ""


def plausible_hypothesis(tree: SpanningTree, submaps: Submaps, loops: Sequence[Loop], largest_drift: float,
                         stride: int) -> list[Loop]:
    """Return those of consistent loops that the trajectory alone allows, by as many stretches as the new ones are of.

    Each stretch, but no more than `MAX_STRETCHES` of them, allows another largest drift.
    """
    agreeing = max(1, min(MAX_STRETCHES, len(stretches([loop for loop in loops if not loop.accepted], stride))))
    limits = agreeing * _allowed(shortest_paths(tree, submaps.of_row, loops, ()), largest_drift)
    return [loop for loop, demand, limit in zip(loops, asked(loops, tree.chained_poses), limits, strict=True)
            if loop.accepted or demand <= limit]


def asked(loops: Sequence[Loop], poses: Array) -> Array:
    """Return how far loops move their second nodes against the first ones (n,), map units, at poses (w, 4, 4)."""
    first, second = end_rows(loops)
    matrices = np.array([loop.matrix for loop in loops]).reshape(-1, 4, 4)
    return np.asarray(np.linalg.norm((poses[first] @ matrices)[:, :3, 3] - poses[second, :3, 3], axis=1))


def shortest_paths(tree: SpanningTree, submap: Sequence[int], loops: Sequence[Loop], kept: Sequence[Loop]) -> Array:
    """Return length, angles and variance (3, n) of the shortest paths between the nodes of each of the loops.

    See `path_sums` for the three; the variance includes that of the loop itself and of scales weakly held. The
    paths are along the overlap factors within a submap, whose numbers by rows are given, and along the `kept` loops.
    Infinite where there is none.
    """
    result = np.full((3, len(loops)), np.inf)
    if not loops:
        return result
    sums, segments = path_sums(tree), tree.segments(np.concatenate([*end_rows(kept), *end_rows(loops)]))
    neighbors: dict[int, list[tuple[int, Array]]] = {}
    steps = [(first, second, sums[:, second] - sums[:, first])
             for first, second in zip(segments.ancestor.tolist(), segments.descendant.tolist(), strict=True)
             if submap[first] == submap[second]]
    steps += [(loop.first_row, loop.second_row, _own_path(loop, tree.poses)) for loop in kept]
    for first, second, step in steps:
        neighbors.setdefault(first, []).append((second, step))
        neighbors.setdefault(second, []).append((first, step))
    for row, loop in enumerate(loops):
        if (path := _shortest_path(neighbors, loop.first_row, loop.second_row)) is not None:
            path += _own_path(loop, tree.poses)
            at = tree.poses[loop.second_row, None, :3, 3]
            result[:, row] = path[:3] + [0.0, 0.0, float(scale_variance(path[SCALE, None], at)[0])]
    return result


def _allowed(paths: Array, largest_drift: float) -> Array:
    """Return how far loops may move their nodes (n,) by length, angles and variance (3, n) of the paths, map units."""
    return np.asarray(largest_drift * paths[0] + np.sqrt(CHI2_GATE * paths[2]))


def drift(tree: SpanningTree, submaps: Submaps, accepted: Sequence[Loop], first: int, second: int) -> Drift | None:
    """Return the drift to expect between two rows with the accepted loops; None if nothing constrains it."""
    label = submaps.constrained_components(accepted)
    if label[submaps.of_row[first]] != label[submaps.of_row[second]]:
        return None
    pose = tree.poses[[second]]
    covariance = drift_covariance(tree, np.array([first]), np.array([second]), accepted)
    variances = np.maximum(np.diag(transported(covariance, inverse(pose))[0]), 0.0)
    return Drift(float(np.sqrt(variances[:3].sum())), float(scales(pose)[0] * np.sqrt(variances[3:6].sum())),
                 float(np.sqrt(variances[6])))


def _own_path(loop: Loop, poses: Array) -> Array:
    """Return the sums (8,) of `path_sums` of a loop as an edge: only the variance of its position counts."""
    scale, sums = float(scales(poses[loop.second_row, None])[0]), np.zeros(COUNT)
    sums[VARIANCE] = scale**2 * float(np.trace(loop.covariance[3:6, 3:6]))
    return sums


def _shortest_path(neighbors: Mapping[int, Sequence[tuple[int, Array]]], begin: int, end: int) -> Array | None:
    """Return the sums (8,) along the shortest path between two rows (Dijkstra, 1959), or None if there is none."""
    order = count()  # of equal lengths
    queue: list[tuple[float, int, int, Array]] = [(0.0, next(order), begin, np.zeros(COUNT))]
    done: set[int] = set()
    while queue:
        length, _, row, sums = heapq.heappop(queue)
        if row == end:
            return sums
        if row in done:
            continue
        done.add(row)
        for other, step in neighbors.get(row, ()):
            if other not in done:
                heapq.heappush(queue, (length + float(step[0]), next(order), other, sums + step))
    return None
