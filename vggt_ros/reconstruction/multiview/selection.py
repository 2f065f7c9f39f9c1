"""Which solution of a window is believed: several beginnings that have to agree, refined, judged, or refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import mean_rotation, rotation_angle, umeyama
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.reconstruction.multiview.poses import (
    MIN_COMMON,
    Solved,
    rank_pairs,
    refit,
    robust_cost,
    solve,
    triangulate,
)
from vggt_ros.reconstruction.multiview.refine import refine
from vggt_ros.reconstruction.multiview.twin import twin

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

MIN_PARALLAX = 1.0
"""Pixels that the tracks must move besides a rotation, between the keyframes farthest apart."""
MIN_ANGLE = 0.4
"""Degrees between the rays of a point that the median point must have."""
MIN_INLIERS = 0.5
"""Fraction of the observations that a solution must explain."""
MAX_BEGINNINGS = 7
"""Pairs of keyframes to begin from, at most, until the best solution is found twice."""
TRACKS_A_VIEW = 120
"""Tracks of each keyframe that the beginnings are compared on."""
SAME_ROTATION = np.radians(1.0)
SAME_CENTER = 0.05
"""Two solutions are the same if rotations and centers agree to this, centers as a fraction of their extent."""


@dataclass(frozen=True)
class Judgment:
    """Figures by which a solution is judged.

    Attributes:
        residual_px: root mean square of the residuals that agree.
        inlier_ratio: tracked observations that agree, of all in placed keyframes.
        angle_deg: median of the widest angle between the rays of a point.
        parallax_px: what the best rotation leaves of the motion of the tracks, in the best pair.
        points: points seen.
        alternatives: solutions from other beginnings that were compared.
        agreeing: how many of them agree with this one.

    """

    residual_px: float
    inlier_ratio: float
    angle_deg: float
    parallax_px: float
    points: int
    alternatives: int
    agreeing: int


def find(grays: list[NDArray[np.uint8]], centers: Array, observed: Array, seen: Mask, shift: Array, focal: Array,
         focal_sigma: float, seed: int) -> tuple[Solved, Judgment]:
    """Return the solution of a window that is believed, and its figures.

    Args:
        grays: the images, uint8 (H, W).
        centers: principal points (S, 2).
        observed: tracks (n, S, 2), pixels from the principal point.
        seen: (n, S).
        shift: (n, S, 2), pixels by which a rolling shutter has moved the observations.
        focal: (S, 2), pixels.
        focal_sigma: how far, as a fraction, the focal length may be off; 0 keeps it.
        seed: of everything random.

    Raises:
        ReconstructionRefused: too few tracks, no parallax, or no solution that explains the tracks.

    """
    observed = observed - shift
    pairs = rank_pairs(observed, seen, focal)
    if not pairs:
        raise ReconstructionRefused(f"too few tracks: no two of {seen.shape[1]} keyframes share {MIN_COMMON}")
    parallax = max(pair[1] for pair in pairs)
    if parallax < MIN_PARALLAX:
        raise ReconstructionRefused(f"no parallax: after the best rotation the tracks move by {parallax:.2f} px only")
    rows = _longest(seen)
    best, others = choose(observed[rows], seen[rows], focal, _spread(pairs)[:MAX_BEGINNINGS], seed)
    refined = _refined(best, grays, centers, observed, seen, shift, focal_sigma)
    judgment = _judge(refined, seen, parallax, len(others), sum(same(best, other) for other in others))
    return refined, judgment


def choose(observed: Array, seen: Mask, focal: Array, pairs: list[tuple[int, int]], seed: int
           ) -> tuple[Solved, list[Solved]]:
    """Return the solution that explains the tracks best, and the others that it was compared with.

    Begun from one of `pairs` after the other, until the best is found twice and its twin is no better.

    Raises:
        ReconstructionRefused: there is none.

    """
    solutions: list[tuple[float, Solved]] = []
    for pair in pairs:
        solved = solve(observed, seen, focal, pair, seed)
        if solved is None:
            continue
        solutions.append((robust_cost(solved.scene, observed, seen, solved.placed), solved))
        best = _best(solutions)[1]
        if sum(same(best, other) for _, other in solutions) > 1:
            better = _better_twins(solutions, observed, seen)
            if not better:
                break
            solutions += better  # and has to be found once more
    else:
        solutions += _better_twins(solutions, observed, seen)
    if not solutions:
        raise ReconstructionRefused(f"no relative pose from {len(pairs)} pairs of keyframes")
    best = _best(solutions)[1]
    return best, [solved for _, solved in solutions if solved is not best]


def _best(solutions: list[tuple[float, Solved]]) -> tuple[float, Solved]:
    return min(solutions, key=lambda entry: entry[0])


def _better_twins(solutions: list[tuple[float, Solved]], observed: Array, seen: Mask) -> list[tuple[float, Solved]]:
    """Return the twin of the best of some solutions with its cost, if it is another one, and better."""
    if not solutions:
        return []
    cost, best = _best(solutions)
    found = twin(best, observed, seen)
    return [found] if found[0] < cost and not same(best, found[1]) else []


def same(first: Solved, second: Solved) -> bool:
    """Return whether two solutions agree, up to a similarity, on the poses of the keyframes that both placed."""
    both = first.placed & second.placed
    if both.sum() < 2:
        return False
    rotations = second.scene.rotation[both].swapaxes(1, 2) @ first.scene.rotation[both]
    mean = mean_rotation(rotations)
    if max(rotation_angle(mean.T @ rotation) for rotation in rotations) > SAME_ROTATION:
        return False
    source, target = first.scene.centers()[both], second.scene.centers()[both]
    moved = umeyama(source, target).apply(source)
    extent = np.linalg.norm(target - target.mean(0), axis=1).max()
    return bool(np.linalg.norm(moved - target, axis=1).max() < SAME_CENTER * extent)


def _spread(pairs: list[tuple[float, float, int, int]]) -> list[tuple[int, int]]:
    """Return the pairs with the best first, those that share keyframes with earlier ones later."""
    left, order = list(pairs), list[tuple[int, int]]()
    while left:
        used = [keyframe for pair in order for keyframe in pair]
        following = max(left, key=lambda entry: entry[0] / (1 + used.count(entry[2]) + used.count(entry[3])))
        left.remove(following)
        order.append((following[2], following[3]))
    return order


def _longest(seen: Mask) -> NDArray[np.intp]:
    """Return the rows of the longest tracks of each keyframe."""
    order = np.argsort(-seen.sum(1), kind="stable")
    chosen = np.zeros(len(seen), bool)
    for view in range(seen.shape[1]):
        chosen[order[seen[order, view]][:TRACKS_A_VIEW]] = True
    return np.flatnonzero(chosen)


def _refined(solved: Solved, grays: list[NDArray[np.uint8]], centers: Array, observed: Array, seen: Mask,
             shift: Array, focal_sigma: float) -> Solved:
    """Return the solution on all tracks, every view aligned anew with a reference patch, adjusted again."""
    fixed = int(np.argmax(solved.placed))
    scene, used = refit(solved.scene, observed, seen, solved.placed, fixed, iterations=5)
    if used.any(1).sum() < MIN_COMMON:
        raise ReconstructionRefused(f"too few points: {used.any(1).sum()} of {len(used)} tracks agree with the poses")
    aligned, trusted = refine(grays, scene, centers, observed, shift, used)
    scene, used = refit(scene, aligned, trusted, solved.placed, fixed, iterations=20, focal_sigma=focal_sigma)
    return replace(solved, scene=scene, seen=used, observed=aligned)


def _judge(solved: Solved, tracked: Mask, parallax: float, alternatives: int, agreeing: int) -> Judgment:
    """Return the figures of a solution.

    Raises:
        ReconstructionRefused: they say that it cannot be believed.

    """
    used, wanted = solved.seen, tracked & solved.placed
    points = int(used.any(1).sum())
    if points < MIN_COMMON:
        raise ReconstructionRefused(f"too few points: {points} of {len(used)} tracks agree with the poses found")
    residual = np.sqrt((solved.scene.residuals(solved.observed) ** 2).sum(-1)[used].mean())
    _, angle = triangulate(solved.scene, solved.observed, used)
    judgment = Judgment(float(residual), float((used & wanted).sum() / wanted.sum()),
                        float(np.degrees(np.median(angle[used.any(1)]))), parallax, points, alternatives, agreeing)
    if judgment.angle_deg < MIN_ANGLE:
        raise ReconstructionRefused(f"no parallax: rays of a point meet at {judgment.angle_deg:.2f} degrees (median)")
    if judgment.inlier_ratio < MIN_INLIERS:
        raise ReconstructionRefused(f"no solution: the best explains {judgment.inlier_ratio:.0%} of the observations")
    return judgment
