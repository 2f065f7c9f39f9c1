"""Solve a window that continues a local map: its new keyframes are registered by the points that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.reconstruction.adjustment.bundle import AdjustmentOptions, Scene
from vggt_ros.reconstruction.adjustment.triangulation import triangulate_and_adjust
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.reconstruction.multiview.matching.views import Measurements
from vggt_ros.reconstruction.multiview.sfm.local_map import FREE_VIEWS, LocalMap
from vggt_ros.reconstruction.multiview.sfm.poses import (
    MIN_VISIBLE_POINTS,
    SparseReconstruction,
    register_others,
    robust_cost,
)
from vggt_ros.reconstruction.multiview.sfm.quality import (
    MIN_INLIERS,
    QualityMetrics,
    check_quality,
    first_accepted,
    refine_solution,
)
from vggt_ros.reconstruction.multiview.sfm.selection import longest_tracks
from vggt_ros.reconstruction.multiview.sfm.start_poses import StartPoses
from vggt_ros.reconstruction.multiview.sfm.turn_rates import with_turn_rates

Mask = NDArray[np.bool_]

MAX_COST_RATIO = 2.0
"""A window whose robust cost exceeds that of the local map by this factor is compared with a solution by itself."""
MIN_COST = 3.0
"""Robust cost below which a solution needs no comparison, square pixels: one observation of three is an outlier."""
MIN_KEPT = 0.5
"""Fraction of its observations that each known view keeps where only the first is held: one that agrees with few would
be placed anew anywhere. With more of them held, as in a fast turn, those that lose theirs do no harm."""


def known_part(local: LocalMap, measured: Measurements) -> tuple[SparseReconstruction, NDArray[np.intp]]:
    """Return the views of a local map, with those after them not registered, and the reference views (n,).

    Args:
        local: solved views; its tracks are the first rows of those measured.
        measured: the tracks through its views and the new ones.

    """
    count, known = len(measured.views), len(local.views)
    rotation = np.concatenate([local.scene.rotation, np.tile(np.eye(3), (count - known, 1, 1))])
    translation = np.concatenate([local.scene.translation, np.zeros((count - known, 3))])
    points = np.concatenate([local.scene.points, np.zeros((len(measured.tracks) - len(local.tracks), 3))])
    inliers = np.zeros_like(measured.visible)
    inliers[:len(local.tracks), :known] = ~np.isnan(local.tracks[..., 0])
    reference = np.concatenate([local.reference, np.full(len(measured.tracks) - len(local.reference), -1)])
    return SparseReconstruction(Scene(rotation, translation, points, measured.focal), np.arange(count) < known, inliers,
                                measured.observations, (0, 1), measured.lens), reference


def solve_continued(local: LocalMap, measured: Measurements, start: StartPoses | None = None
                    ) -> tuple[Measurements, SparseReconstruction, NDArray[np.intp], QualityMetrics, int]:
    """Return the solution of the views of a local map and the new ones after them, and how many of the views were held.

    The first four are as in `solve_window`. The oldest views are held fixed, only the first one if what is known of the
    lens has changed.

    Args:
        local: solved views; its tracks are the first rows of those measured.
        measured: the tracks through its views and the new ones.
        start: poses to begin with, of new views and those of the local map that may change; without, the new views are
            registered by known points.

    Raises:
        ReconstructionRefused: the new views do not fit to the local map.

    """
    held = 1
    if measured.lens.is_settled and not local.is_outdated(measured.lens.applied):
        held = max(len(measured.views) - FREE_VIEWS, 1)
    found = _solve(local, measured, start, held)
    if held > 1 and local.is_outdated(measured.lens.applied + found[1].scene.radial):
        held = 1
        found = _solve(local, measured, start, held)
    return *found, held


def _solve(local: LocalMap, measured: Measurements, start: StartPoses | None, held: int
           ) -> tuple[Measurements, SparseReconstruction, NDArray[np.intp], QualityMetrics]:
    """Return the solution as `solve_window` does; the poses of the first `held` views are fixed."""
    count, known = len(measured.views), len(local.views)
    visible, observations = measured.visible, measured.observations
    begin, reference = known_part(local, measured)
    registered, rotation, translation = begin.registered, begin.scene.rotation, begin.scene.translation
    rows = longest_tracks(visible, range(max(known - 1, 0), count))
    inliers = np.zeros_like(visible)
    inliers[:len(local.tracks), :known] = visible[:len(local.tracks), :known]
    fixed = np.arange(count) < held
    supported, scene, begun = registered, replace(begin.scene, points=begin.scene.points[rows]), inliers[rows]
    if start is not None:
        moved = start.known & ~fixed
        rotation[moved], translation[moved] = start.rotation[moved], start.translation[moved]
        registered, supported = registered | moved, fixed
        for _ in range(2):
            scene, begun = triangulate_and_adjust(scene, observations[rows], visible[rows], registered, fixed,
                                                  AdjustmentOptions(15))
    solved = register_others(SparseReconstruction(scene, registered, begun, observations[rows], (0, 1)), visible[rows],
                             supported)
    if not solved.registered[known:].any():
        raise ReconstructionRefused(f"none of {count - known} new keyframes sees {MIN_VISIBLE_POINTS} known points")
    scene = replace(begin.scene, rotation=solved.scene.rotation, translation=solved.scene.translation)
    measured = with_turn_rates(measured, solved, rows, range(known, count))
    observations = measured.observations
    done = np.tile(fixed, (len(visible), 1))
    done[:len(local.tracks), :known] = True
    begin = SparseReconstruction(scene, solved.registered, inliers, observations, (0, 1))
    in_window = visible & (np.arange(count) >= known)

    def refined(keep_plain: bool) -> tuple[SparseReconstruction, NDArray[np.intp], QualityMetrics]:
        solution, references = refine_solution(begin, measured, fixed, reference, done, keep_plain)
        if not solution.registered[known:].any():
            raise ReconstructionRefused("no new keyframe agrees with the known points")
        for view in np.flatnonzero(solution.registered[known:]) + known:
            if solution.inliers[:, view].sum() < MIN_VISIBLE_POINTS:
                raise ReconstructionRefused(f"a new keyframe agrees with {solution.inliers[:, view].sum()} points only")
        before, after = inliers[:, :known].sum(0), (solution.inliers & inliers)[:, :known].sum(0)
        if held == 1 and (lost := int((after < MIN_KEPT * before).sum())):
            raise ReconstructionRefused(f"{lost} of {known} keyframes that were solved before keep less than half of "
                                        "their points")
        return solution, references, check_quality(solution, in_window, 0.0, 0, 0, continued=True)

    return measured, *first_accepted(refined)


def is_doubtful(solved: SparseReconstruction, tracked: Mask, known: int, local: LocalMap) -> bool:
    """Return whether a continued solution should be compared with one of the window by itself."""
    of_new = tracked & (np.arange(tracked.shape[1]) >= known)
    cost = robust_cost(solved.scene, solved.observations, of_new, solved.registered)
    return (not solved.registered.all() or cost > max(MAX_COST_RATIO * local.cost, MIN_COST)
            or (solved.inliers & of_new).sum() < MIN_INLIERS * of_new.sum())
