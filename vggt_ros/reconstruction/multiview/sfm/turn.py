"""New keyframes of a camera that only turns: their orientation by the rotation of rays, at the place where it was.

Without parallax there is no depth, points that were known leave the image, and a fast turn blurs it. The keyframes stay
attached to the local map nevertheless: when the camera moves again, the next window is solved together with them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, rotation_angle
from vggt_ros.geometry.ray_rotation import MIN_INLIER_RATIO as USUAL_RATIO
from vggt_ros.geometry.ray_rotation import rotation_between
from vggt_ros.reconstruction.adjustment.sparse_reconstruction import SparseReconstruction
from vggt_ros.reconstruction.adjustment.triangulation import bearings
from vggt_ros.reconstruction.multiview.matching.views import Measurements

MIN_RESIDUAL, MAX_RESIDUAL, RESIDUAL_OF_TURN = 0.003, 0.015, 0.08
"""Largest residual of an inlier of a rotation, radians, which is this fraction of the turn between the two limits: the
hand that turns a camera moves it, too, and rows of a blurred image are shifted by a rolling shutter. But a step
sideways looks like a turn, too, where the scene is about equally far away everywhere; more is left then."""
MIN_INLIERS, MIN_INLIER_RATIO, FAST_TURN = 40, 0.4, 0.07
"""Fewest tracks that agree with a rotation, and of all in a turn of more radians a keyframe: more do not agree by
chance. Slower turns only go on from one, by the usual fraction: a short step sideways may look like them, and in a
turn that begins slowly known points stay in view."""
PARTS, MIN_PARTS, MIN_AGREEING_PARTS = 4, 5, 0.6
"""Of the parts of an image, this many a side, that have tracks: fewest of them, and the fraction in which that fraction
of tracks agrees: what passes through the image explains most of the tracks, but in few parts."""
EARLIER_VIEWS = 3
"""Views before a new one, of which its rotation is measured to the newest that shares enough tracks."""
MAX_POINT_RESIDUAL = 4.0
"""Largest residual of a known point in a turned view, pixels."""
UNCERTAINTY = 4.0
"""How many times more uncertain than usual poses are whose position is assumed."""


def with_turned_views(solved: SparseReconstruction, measured: Measurements) -> SparseReconstruction:
    """Return a solution with those of the views that it lacks to which the camera only turned, in order.

    Each has the position of the registered view before it with which it shares enough tracks. Of its observations,
    those of known points are inliers that agree.
    """
    rotation, translation = solved.scene.rotation.copy(), solved.scene.translation.copy()
    registered, inliers = solved.registered.copy(), solved.inliers.copy()
    observations, visible, focal = measured.observations, measured.visible, measured.focal
    for view in np.flatnonzero(~registered).tolist():
        for before in np.flatnonzero(registered[:view])[::-1][:EARLIER_VIEWS].tolist():
            rows = np.flatnonzero(visible[:, view] & visible[:, before])
            if len(rows) < MIN_INLIERS:
                continue
            size = np.array(measured.views[view].features.gray.shape[::-1])
            turn = _turn(bearings(observations[rows, before], focal[before]),
                         bearings(observations[rows, view], focal[view]), measured.tracks[rows, view] / size,
                         steps=measured.views[view].keyframe.id - measured.views[before].keyframe.id,
                         goes_on=not solved.inliers[:, before].any())
            if turn is not None:
                # The same center: only the rotation is another one.
                rotation[view], translation[view] = turn.T @ rotation[before], turn.T @ translation[before]
                registered[view] = True
            break
    scene = replace(solved.scene, rotation=rotation, translation=translation)
    turned = registered & ~solved.registered
    square = (scene.residuals(observations) ** 2).sum(-1)
    known = np.asarray(solved.inliers.any(1))[:, None]
    good = np.asarray(visible & known & (np.nan_to_num(square, nan=np.inf) < MAX_POINT_RESIDUAL**2))
    inliers[:, turned] = good[:, turned]
    return replace(solved, scene=scene, registered=registered, inliers=inliers)


def _turn(first: Array, second: Array, place: Array, steps: int, goes_on: bool) -> Array | None:
    """Return the rotation `first_second` by the same rays (n, 3) in two views, None if it does not explain them.

    `place` (n, 2), from 0 to 1, is where they are in the image of the second view, which is `steps` keyframes later.
    The turn `goes_on` if the first view was turned already.
    """
    residual, rotation = MAX_RESIDUAL, None
    for _ in range(2):
        found = rotation_between(first, second, residual, MIN_INLIERS, MIN_INLIER_RATIO)
        if found is None or not _is_everywhere(found[2], place):
            return None
        rotation, turned = found[0], rotation_angle(found[0])
        if turned < steps * FAST_TURN and (not goes_on or found[2].mean() < USUAL_RATIO):
            return None
        allowed = float(np.clip(RESIDUAL_OF_TURN * turned, MIN_RESIDUAL, MAX_RESIDUAL))
        if allowed >= residual:
            break
        residual = allowed
    return rotation


def _is_everywhere(agrees: NDArray[np.bool_], place: Array) -> bool:
    """Return whether those of the tracks that agree are in all parts of the image where there are tracks."""
    column, row = np.clip(place * PARTS, 0, PARTS - 1).astype(int).T
    tracks, agreeing = (np.bincount(row * PARTS + column, weights, PARTS**2) for weights in (None, agrees))
    used = tracks >= 3
    fraction = agreeing[used] / tracks[used]
    return bool(used.sum() >= MIN_PARTS and (fraction >= MIN_INLIER_RATIO).mean() >= MIN_AGREEING_PARTS)
