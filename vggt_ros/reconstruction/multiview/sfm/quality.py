"""Refinement of a solution to sub-pixel accuracy, and the checks that it has to pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.reconstruction.adjustment.bundle import EXACT, AdjustmentOptions, Scene
from vggt_ros.reconstruction.adjustment.lens import Lens
from vggt_ros.reconstruction.adjustment.triangulation import agreeing_directions, triangulate, triangulate_and_adjust
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.reconstruction.multiview.matching.refine import refine
from vggt_ros.reconstruction.multiview.matching.views import Measurements
from vggt_ros.reconstruction.multiview.sfm.poses import (
    MIN_COMMON_TRACKS,
    SparseReconstruction,
)

Mask = NDArray[np.bool_]
Result = TypeVar("Result")

MIN_ANGLE = 0.4
"""Smallest median, over the points, of the largest angle between the rays of a point, degrees."""
MIN_INLIERS, MIN_INLIERS_CONTINUED = 0.5, 0.45
"""Fraction of the tracked observations that must be inliers of a solution; the second of one that continues a local
map, whose points support its poses: people, blur and what else is wrong may then be most of the image."""

MIN_SUPPORT, MIN_INLIERS_SUPPORTED, WIDE_ANGLE = 40, 0.3, 3.0
"""Inliers of points that three keyframes see, in each keyframe, and fraction of inliers, that are enough for a solution
of wide steps: one whose median angle between rays is so wide, degrees, and which was found twice or continues a local
map. Past trees, cars and facades half of the tracks are wrong then, but wrong ones hardly ever agree in three images. A
keyframe with neither is left out of such a solution. With narrow angles, people who move agree as well: a new keyframe
without that fraction is left out of a solution that continues a local map."""


@dataclass(frozen=True)
class QualityMetrics:
    """Quality metrics of a solution; the names become keys of the report of the window.

    Attributes:
        residual_px: root mean square of the reprojection errors of the inliers.
        inlier_ratio: fraction of inliers among the tracked observations of registered keyframes.
        angle_deg: median over the points of the largest angle between the rays of a point.
        parallax_px: median track motion after the best rotation is removed, in the best initial pair.
        points: number of points with inliers.
        alternatives: number of solutions from other initializations that were compared.
        agreeing: number of those that agree with this one.

    """

    residual_px: float
    inlier_ratio: float
    angle_deg: float
    parallax_px: float
    points: int
    alternatives: int
    agreeing: int


NO_METRICS = QualityMetrics(0.0, 0.0, 0.0, 0.0, 0, 0, 0)
"""Those of a window in which nothing was solved but turns."""


def refine_solution(solved: SparseReconstruction, measured: Measurements, fixed: int | Mask,
                    reference: NDArray[np.intp] | None = None,
                    done: Mask | None = None, keep_plain: bool = False
                    ) -> tuple[SparseReconstruction, NDArray[np.intp]]:
    """Return the solution on all tracks after sub-pixel refinement and bundle adjustment, and the reference views (n,).

    Keyframes that are not supported in the end are left out, one after the other, unless they have been `done`.

    Args:
        solved: poses, accurate to a few pixels.
        measured: all tracks.
        fixed: the camera whose pose is held fixed, or the mask (S,) of those.
        reference: (n,), reference views of points refined before, else -1.
        done: (n, S), the observations refined before.
        keep_plain: as for `refine`.

    Raises:
        ReconstructionRefused: too few points.

    """
    scene, inliers = triangulate_and_adjust(solved.scene, measured.observations, measured.visible, solved.registered,
                                            fixed, AdjustmentOptions(5))
    if inliers.any(1).sum() < MIN_COMMON_TRACKS:
        raise ReconstructionRefused(f"too few points: {inliers.any(1).sum()} of {len(inliers)} tracks agree with the "
                                    "poses")
    aligned, valid, chosen = refine(scene, measured, inliers, reference, done, keep_plain)
    scene, inliers, lens = _adjust_with_lens(scene, aligned, valid, solved.registered, fixed, measured)
    continued = done is not None
    new = solved.registered if done is None else solved.registered & ~done.any(0)
    good = _agreeing(scene, aligned, inliers, measured.visible & new) if continued else inliers
    is_wide = _median_angle(scene, aligned, inliers) >= WIDE_ANGLE
    weak = _weakest(good, measured.visible, new & (three_view_inliers(inliers) < MIN_SUPPORT) if is_wide else new)
    if weak is not None and (is_wide or continued) and solved.registered.sum() > 2:
        supported = solved.registered & (np.arange(len(solved.registered)) != weak)
        held = int(np.argmax(supported)) if isinstance(fixed, int) else fixed
        return refine_solution(replace(solved, registered=supported), measured, held, reference, done, keep_plain)
    return replace(solved, scene=scene, inliers=inliers, observations=aligned, lens=lens), chosen


def first_accepted(solve: Callable[[bool], Result]) -> Result:
    """Return what `solve` finds without patches that have no contrast, or, if that is refused, with them.

    What was tracked on plain surfaces is less exact than what was refined, but the only thing that there is of them.

    Raises:
        ReconstructionRefused: as without them.

    """
    try:
        return solve(False)
    except ReconstructionRefused as refusal:
        with suppress(ReconstructionRefused):
            return solve(True)
        raise refusal


def _adjust_with_lens(start: Scene, observations: Array, valid: Mask, registered: Mask, fixed: int | Mask,
                      measured: Measurements) -> tuple[Scene, Mask, Lens]:
    """Return scene and inliers after bundle adjustment, and what they say of the lens.

    Radial distortion that is not significant is free in the estimate only.
    """
    lens, kept = measured.lens, AdjustmentOptions(20, EXACT)
    estimated = replace(kept, focal_sigma=lens.focal_sigma, radial_sigma=lens.radial_sigma)
    if lens.focal_sigma or lens.applied:
        free = triangulate_and_adjust(start, observations, valid, registered, fixed, estimated)
        updated = lens.updated(free[0], observations, free[1], registered, measured.focal)
        if updated.applied or not lens.radial_sigma:
            return *free, updated
        start = replace(start, focal=free[0].focal, radial=-lens.applied)
        return *triangulate_and_adjust(start, observations, valid, registered, fixed, kept), updated
    plain = triangulate_and_adjust(start, observations, valid, registered, fixed, kept)
    if lens.is_certain:
        return *plain, lens
    free = triangulate_and_adjust(replace(plain[0], radial=lens.radial), observations, valid, registered, fixed,
                                  estimated)
    updated = lens.updated(free[0], observations, free[1], registered, measured.focal)
    return *(free if updated.applied else plain), updated


def check_quality(solved: SparseReconstruction, tracked: Mask, parallax: float, alternatives: int, agreeing: int,
                  continued: bool = False) -> QualityMetrics:
    """Return the quality metrics of a solution; `tracked` (n, S) are the observations that it was to explain.

    A `continued` one has the unit and the points of the local map, and needs no parallax of its own: tracks that came
    into view where the camera turned, and agree in direction, are as good as inliers.

    Raises:
        ReconstructionRefused: a metric is below its threshold.

    """
    inliers, expected = solved.inliers, tracked & solved.registered
    points = int(inliers.any(1).sum())
    if points < MIN_COMMON_TRACKS:
        raise ReconstructionRefused(f"too few points: {points} of {len(inliers)} tracks agree with the poses found")
    residual = np.sqrt((solved.scene.residuals(solved.observations) ** 2).sum(-1)[inliers].mean())
    good = _agreeing(solved.scene, solved.observations, inliers, expected) if continued else inliers & expected
    metrics = QualityMetrics(float(residual), float(good.sum() / expected.sum()),
                             _median_angle(solved.scene, solved.observations, inliers), parallax, points, alternatives,
                             agreeing)
    if not continued and metrics.angle_deg < MIN_ANGLE:
        raise ReconstructionRefused(f"no parallax: the median angle between rays is {metrics.angle_deg:.2f} degrees")
    least = MIN_INLIERS_CONTINUED if continued else MIN_INLIERS
    is_supported = (three_view_inliers(inliers)[expected.any(0)] >= MIN_SUPPORT).all()
    if (continued or agreeing) and metrics.angle_deg >= WIDE_ANGLE and is_supported:
        least = MIN_INLIERS_SUPPORTED
    if metrics.inlier_ratio < least:
        raise ReconstructionRefused(f"no solution: only {metrics.inlier_ratio:.0%} of the observations are inliers")
    return metrics


def _agreeing(scene: Scene, observations: Array, inliers: Mask, expected: Mask) -> Mask:
    """Return which of the `expected` observations (n, S) are inliers, or of points without depth that agree as well."""
    good = inliers & expected
    rows = np.flatnonzero(expected.any(1) & ~inliers.any(1))
    if len(rows):
        good[rows] = agreeing_directions(scene, observations[rows], expected[rows], scene.points[inliers.any(1)])
    return good


def _median_angle(scene: Scene, observations: Array, inliers: Mask) -> float:
    """Return the median, over the points, of the largest angle between the rays of a point, degrees."""
    return float(np.degrees(np.median(triangulate(scene, observations, inliers)[1][inliers.any(1)])))


def three_view_inliers(inliers: Mask) -> NDArray[np.intp]:
    """Return in each keyframe (S,) the number of inliers (n, S) of points that three keyframes see."""
    return inliers[inliers.sum(1) >= 3].sum(0)


def _weakest(good: Mask, tracked: Mask, candidates: Mask) -> int | None:
    """Return the keyframe with the smallest fraction of good observations (n, S) among those with few, if any."""
    fraction = (good & tracked).sum(0) / np.maximum(tracked.sum(0), 1)
    few = candidates & (fraction < MIN_INLIERS_SUPPORTED)
    return int(np.argmin(np.where(few, fraction, np.inf))) if few.any() else None
