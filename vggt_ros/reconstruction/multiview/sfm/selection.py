"""Solve a window by itself: structure from motion from several initial pairs, and selection of the best solution."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, mean_rotation, rotation_angle, umeyama
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.reconstruction.multiview.matching.views import Measurements
from vggt_ros.reconstruction.multiview.sfm.poses import (
    MIN_COMMON_TRACKS,
    SparseReconstruction,
    rank_initial_pairs,
    robust_cost,
    solve_from_pair,
)
from vggt_ros.reconstruction.multiview.sfm.quality import (
    QualityMetrics,
    check_quality,
    first_accepted,
    refine_solution,
)
from vggt_ros.reconstruction.multiview.sfm.turn_rates import with_turn_rates
from vggt_ros.reconstruction.multiview.sfm.twin import solve_twin

Mask = NDArray[np.bool_]

MIN_PARALLAX = 1.0
"""Smallest parallax in the best initial pair, pixels: median track motion after the best rotation is removed."""
MAX_INITIAL_PAIRS = 7
"""Maximum number of initial pairs to try until the best solution has been found twice."""
TRACKS_PER_VIEW = 120
"""Number of tracks per keyframe on which solutions are compared, and by which a new keyframe is registered."""
MAX_ROTATION_DIFFERENCE = np.radians(1.0)
MAX_CENTER_DIFFERENCE = 0.05
"""Two solutions are the same if rotations and centers differ by less; centers as a fraction of their extent."""


def solve_window(measured: Measurements, seed: int
                 ) -> tuple[Measurements, SparseReconstruction, NDArray[np.intp], QualityMetrics]:
    """Return the selected and refined solution of a window, its reference views (n,), and its quality metrics.

    The measurements come first, with the image motion that the solution says; see `with_turn_rates`.

    Args:
        measured: the tracks.
        seed: seed of RANSAC.

    Raises:
        ReconstructionRefused: too few tracks, too little parallax, or no solution with enough inliers.

    """
    observations, visible, focal = measured.observations, measured.visible, measured.focal
    pairs = rank_initial_pairs(observations, visible, focal)
    if not pairs:
        raise ReconstructionRefused(f"too few tracks: no two of {visible.shape[1]} keyframes share {MIN_COMMON_TRACKS}")
    parallax = max(pair[1] for pair in pairs)
    if parallax < MIN_PARALLAX:
        raise ReconstructionRefused(f"no parallax: besides a rotation, the tracks move by only {parallax:.2f} px")
    rows = longest_tracks(visible, range(visible.shape[1]))
    best, others = select_best(observations[rows], visible[rows], focal, diversify(pairs)[:MAX_INITIAL_PAIRS], seed)
    measured = with_turn_rates(measured, best, rows, range(visible.shape[1]))
    agreeing = sum(same_solution(best, other) for other in others)

    def refined(keep_plain: bool) -> tuple[SparseReconstruction, NDArray[np.intp], QualityMetrics]:
        solution, reference = refine_solution(best, measured, int(np.argmax(best.registered)), keep_plain=keep_plain)
        return solution, reference, check_quality(solution, visible, parallax, len(others), agreeing)

    return measured, *first_accepted(refined)


def select_best(observations: Array, visible: Mask, focal: Array, pairs: list[tuple[int, int]], seed: int
                ) -> tuple[SparseReconstruction, list[SparseReconstruction]]:
    """Return the solution of lowest robust cost, and the others that it was compared with.

    The initial `pairs` are tried one after the other, until the best solution has been found twice and its twin
    solution (`twin.py`) has no lower cost.

    Raises:
        ReconstructionRefused: no pair gives a solution.

    """
    solutions: list[tuple[float, SparseReconstruction]] = []
    for pair in pairs:
        solved = solve_from_pair(observations, visible, focal, pair, seed)
        if solved is None:
            continue
        solutions.append((robust_cost(solved.scene, observations, visible, solved.registered), solved))
        best = _lowest_cost(solutions)[1]
        if sum(same_solution(best, other) for _, other in solutions) > 1:
            better = _better_twins(solutions, observations, visible)
            if not better:
                break
            solutions += better  # it has to be found a second time, too
    else:
        solutions += _better_twins(solutions, observations, visible)
    if not solutions:
        raise ReconstructionRefused(f"no two-view geometry from {len(pairs)} pairs of keyframes")
    best = _lowest_cost(solutions)[1]
    return best, [solved for _, solved in solutions if solved is not best]


def _lowest_cost(solutions: list[tuple[float, SparseReconstruction]]) -> tuple[float, SparseReconstruction]:
    return min(solutions, key=lambda entry: entry[0])


def _better_twins(solutions: list[tuple[float, SparseReconstruction]], observations: Array,
                  visible: Mask) -> list[tuple[float, SparseReconstruction]]:
    """Return the twin solution of the best solution with its cost, if it is a different one of lower cost."""
    if not solutions:
        return []
    cost, best = _lowest_cost(solutions)
    twin = solve_twin(best, observations, visible)
    return [twin] if twin[0] < cost and not same_solution(best, twin[1]) else []


def same_solution(first: SparseReconstruction, second: SparseReconstruction) -> bool:
    """Return whether two solutions agree up to a similarity on the poses of the keyframes registered in both."""
    common = first.registered & second.registered
    if common.sum() < 2:
        return False
    rotations = second.scene.rotation[common].swapaxes(1, 2) @ first.scene.rotation[common]
    mean = mean_rotation(rotations)
    if max(rotation_angle(mean.T @ rotation) for rotation in rotations) > MAX_ROTATION_DIFFERENCE:
        return False
    source, target = first.scene.centers()[common], second.scene.centers()[common]
    aligned = umeyama(source, target).apply(source)
    extent = np.linalg.norm(target - target.mean(0), axis=1).max()
    return bool(np.linalg.norm(aligned - target, axis=1).max() < MAX_CENTER_DIFFERENCE * extent)


def diversify(pairs: list[tuple[float, float, int, int]]) -> list[tuple[int, int]]:
    """Return the pairs, the best first; pairs that share keyframes with earlier ones are moved back."""
    remaining, order = list(pairs), list[tuple[int, int]]()
    while remaining:
        used = [keyframe for pair in order for keyframe in pair]
        next_pair = max(remaining, key=lambda entry: entry[0] / (1 + used.count(entry[2]) + used.count(entry[3])))
        remaining.remove(next_pair)
        order.append((next_pair[2], next_pair[3]))
    return order


def longest_tracks(visible: Mask, views: Iterable[int]) -> NDArray[np.intp]:
    """Return the rows of the `TRACKS_PER_VIEW` longest tracks of each of these views."""
    order = np.argsort(-visible.sum(1), kind="stable")
    chosen = np.zeros(len(visible), bool)
    for view in views:
        chosen[order[visible[order, view]][:TRACKS_PER_VIEW]] = True
    return np.flatnonzero(chosen)
