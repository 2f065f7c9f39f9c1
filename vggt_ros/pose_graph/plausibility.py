"""What the trajectory between two keyframes allows: how far a loop may move them against each other.

Two places that are built alike (the floors of a staircase, the corridors of a hotel) look the same and are
reconstructed consistently, so neither features nor depth can tell a false loop between them from a true one. What can
is the trajectory in between: its relative pose is known to a fraction of its length. A loop that asks for more than the
largest drift is not accepted, however well it fits, unless loops of another stretch of the trajectory agree with it.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vggt_ros.geometry.poses import Array
from vggt_ros.geometry.sim3 import inverse, scales, transported
from vggt_ros.pose_graph.consistency import CHI2_GATE, Loop, drift_covariance, end_rows, stretches
from vggt_ros.pose_graph.spanning_tree import SpanningTree
from vggt_ros.pose_graph.submaps import Submaps

MAX_STRETCHES = 2
"""Stretches of the trajectory, each of which allows another largest drift if they agree; more of them allow no more."""
_LOOK_ALIKE = ("They may be two places that look alike; the loop is accepted when loops of another stretch of the "
               "trajectory agree with it: show the camera other places that it has seen before")


@dataclass(frozen=True)
class Drift:
    """Standard deviations of a relative pose by the graph: radians, map units, natural logarithm of the scale."""

    rotation: float
    translation: float
    log_scale: float


def refusal(tree: SpanningTree, submaps: Submaps, loop: Loop, kept: Sequence[Loop], largest_drift: float,
            chi2: float) -> str:
    """Return why the trajectory does not allow a loop, given the accepted loops to keep; empty if it does.

    `chi2` is that of the loop's innovation (`predicted_chi2`); `largest_drift` is a fraction of the path. The poses of
    the tree have to be the solution with the loops to keep.
    """
    if (move := submaps.out_of_reach(tree.poses, loop, kept)) is not None:
        return (f"the camera would have moved {move[0]:.3g} map units while it was lost, and can have moved at most "
                f"{move[1]:.3g} at the speed it had: {_LOOK_ALIKE}")
    demand = asked([loop], tree.poses)[0]
    limit = allowed(tree, submaps.of_row, [loop], kept, largest_drift)[0]
    if chi2 > CHI2_GATE:
        known = f", and the trajectory between them allows {limit:.3g}" if demand > limit else ""
        return (f"its chi-square against the map is {chi2:.0f}, more than {CHI2_GATE}: it would move one of the places "
                f"by {demand:.3g} map units{known}. {_LOOK_ALIKE}")
    if demand > limit:
        return (f"it would move one of the places by {demand:.3g} map units, and the trajectory between them allows "
                f"{limit:.3g} (loops.drift). {_LOOK_ALIKE}")
    return ""


def plausible_hypothesis(tree: SpanningTree, submaps: Submaps, loops: Sequence[Loop], largest_drift: float,
                         stride: int) -> list[Loop]:
    """Return those of consistent loops that the trajectory alone allows, by as many stretches as the new ones are of.

    Each stretch, but no more than `MAX_STRETCHES` of them, allows another largest drift.
    """
    count = min(MAX_STRETCHES, len(stretches([loop for loop in loops if not loop.accepted], stride)))
    limits = allowed(tree, submaps.of_row, loops, (), largest_drift)
    return [loop for loop, demand, limit in zip(loops, asked(loops, tree.chained_poses), limits, strict=True)
            if loop.accepted or demand <= count * limit]


def asked(loops: Sequence[Loop], poses: Array) -> Array:
    """Return how far loops move their second nodes against the first ones (n,), map units, at poses (w, 4, 4)."""
    first, second = end_rows(loops)
    matrices = np.array([loop.matrix for loop in loops]).reshape(-1, 4, 4)
    return np.asarray(np.linalg.norm((poses[first] @ matrices)[:, :3, 3] - poses[second, :3, 3], axis=1))


def allowed(tree: SpanningTree, submap: Sequence[int], loops: Sequence[Loop], kept: Sequence[Loop],
            largest_drift: float) -> Array:
    """Return how far the trajectory between their nodes allows each of the loops to move them (n,), map units.

    That is the largest drift, a fraction of the length of the shortest path between them along the overlap factors and
    the `kept` loops, plus the error of the relative poses on this path and of the loop itself. It is infinite where
    there is no such path within submaps, whose numbers by rows are given.
    """
    length, variance = tree.path_lengths()
    ends = np.concatenate([*end_rows(kept), *end_rows(loops)]) if kept or loops else np.zeros(0, np.int64)
    segments = tree.segments(ends)
    neighbors: dict[int, list[tuple[int, float, float]]] = {}

    def connect(first: int, second: int, step: float, noise: float) -> None:
        neighbors.setdefault(first, []).append((second, step, noise))
        neighbors.setdefault(second, []).append((first, step, noise))

    for first, second in zip(segments.ancestor.tolist(), segments.descendant.tolist(), strict=True):
        if submap[first] == submap[second]:
            connect(first, second, float(length[second] - length[first]), float(variance[second] - variance[first]))
    for loop in kept:
        connect(loop.first_row, loop.second_row, 0.0, _variance(loop, tree.poses))
    result = np.full(len(loops), np.inf)
    for row, loop in enumerate(loops):
        path, noise = _shortest_path(neighbors, loop.first_row, loop.second_row)
        result[row] = largest_drift * path + np.sqrt(CHI2_GATE * (noise + _variance(loop, tree.poses)))
    return result


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


def _variance(loop: Loop, poses: Array) -> float:
    """Return the variance of the position of a loop's second node by its measurement, map units squared."""
    scale = float(scales(poses[loop.second_row, None])[0])
    return scale**2 * float(np.trace(loop.covariance[3:6, 3:6]))


def _shortest_path(neighbors: dict[int, list[tuple[int, float, float]]], begin: int, end: int) -> tuple[float, float]:
    """Return length and variance of the shortest path between two rows (Dijkstra, 1959), infinite if there is none."""
    queue, done = [(0.0, 0.0, begin)], set()
    while queue:
        length, variance, row = heapq.heappop(queue)
        if row == end:
            return length, variance
        if row in done:
            continue
        done.add(row)
        for other, step, noise in neighbors.get(row, ()):
            if other not in done:
                heapq.heappush(queue, (length + step, variance + noise, other))
    return np.inf, np.inf
