"""Bring a window that was solved by itself into the frame and unit of the local map, as a start for solving both.

After a turn on the spot, the newest points of the local map have hardly any parallax, and their depth may be off by
half. New keyframes that are registered by such points end up wrong, while the window by itself, in which the camera
moves again, is right. Its unit then comes from the points that both know well: each counts by the angle between its
rays, in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, mean_rotation
from vggt_ros.reconstruction.adjustment.sparse_reconstruction import SparseReconstruction
from vggt_ros.reconstruction.adjustment.triangulation import triangulate
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.reconstruction.multiview.matching.views import Measurements, View
from vggt_ros.reconstruction.multiview.sfm.local_map import LocalMap

Mask = NDArray[np.bool_]

SAME_POINT = 1.5
"""Largest distance of two points in a shared image, pixels, that are the same."""
MIN_SHARED_POINTS = 15
"""Fewest points that both know, for the unit."""


@dataclass(frozen=True, eq=False)
class StartPoses:
    """Poses `camera_world` (S, 3, 3) and (S, 3) of S views, where `known` (S,).

    Their unit is assumed if nothing measures it: see `joined_poses`.
    """

    rotation: Array
    translation: Array
    known: Mask
    unit_assumed: bool = False


def joined_poses(local: LocalMap, alone: tuple[Measurements, SparseReconstruction],
                 views: Sequence[View]) -> StartPoses:
    """Return the poses of `views` as a window by itself has them, in the frame and unit of a local map.

    If the newest view of the local map has no points, since the camera only turned there, the scene is taken to be as
    far away as before the turn.

    Args:
        local: solved views.
        alone: measurements and solution of the window by itself.
        views: those of the local map, and the new ones after them.

    Raises:
        ReconstructionRefused: they share no registered view, or too few points.

    """
    measured, solved = alone
    column = {view.keyframe.id: s for s, view in enumerate(measured.views) if solved.registered[s]}
    shared = [(s, column[k]) for s, k in enumerate(local.ids) if k in column]
    scene = solved.scene
    if not shared:
        raise ReconstructionRefused("the window by itself shares no solved keyframe with the local map")
    unit_assumed = int((~np.isnan(local.tracks[:, -1, 0])).sum()) < MIN_SHARED_POINTS
    scale = _assumed_unit(local, solved) if unit_assumed else _unit(local, measured, solved, shared)
    rotation = mean_rotation(np.array([local.scene.rotation[s].T @ scene.rotation[own] for s, own in shared]))
    centers = scale * scene.centers() @ rotation.T
    ours = [own for _, own in shared]
    centers += (local.scene.centers()[[s for s, _ in shared]] - centers[ours]).mean(0)
    known = np.array([view.keyframe.id in column for view in views])
    rotations, translations = np.tile(np.eye(3), (len(views), 1, 1)), np.zeros((len(views), 3))
    for row, view in enumerate(views):
        if known[row]:
            own = column[view.keyframe.id]
            rotations[row] = scene.rotation[own] @ rotation.T
            translations[row] = -rotations[row] @ centers[own]
    return StartPoses(rotations, translations, known, unit_assumed)


def _assumed_unit(local: LocalMap, solved: SparseReconstruction) -> float:
    """Return the unit in which the points of a window are as far away as those of a local map."""
    return local.distance / float(np.median(solved.scene.in_cameras()[..., 2][solved.inliers]))


def _unit(local: LocalMap, measured: Measurements, solved: SparseReconstruction,
          shared: list[tuple[int, int]]) -> float:
    """Return the unit of a window by itself in that of the local map, by the points in shared (S of local, own) views.

    Depths are compared in the views that both have: the weighted median of their ratios.
    """
    seen = ~np.isnan(local.tracks[..., 0])
    observations = np.where(seen[..., None], local.scene.residuals(np.zeros_like(local.tracks)), 0.0)
    known_angle = triangulate(local.scene, observations, seen)[1]
    own_angle = triangulate(solved.scene, solved.observations, solved.inliers)[1]
    known_depth, own_depth = local.scene.in_cameras()[..., 2], solved.scene.in_cameras()[..., 2]
    ratios, weights = [np.zeros(0)], [np.zeros(0)]
    for s, own in shared:
        ours, theirs = np.flatnonzero(solved.inliers[:, own]), np.flatnonzero(seen[:, s])
        if not len(ours) or not len(theirs):
            continue
        distance = np.linalg.norm(measured.tracks[ours, own][:, None] - local.tracks[theirs, s][None], axis=2)
        nearest = distance.argmin(1)
        same = np.flatnonzero(distance[np.arange(len(ours)), nearest] < SAME_POINT)
        one, other = ours[same], theirs[nearest[same]]
        good = (own_depth[one, own] > 0) & (known_depth[other, s] > 0)
        one, other = one[good], other[good]
        ratios.append(np.log(known_depth[other, s] / own_depth[one, own]))
        weights.append(1 / (np.maximum(known_angle[other], 1e-4) ** -2 + np.maximum(own_angle[one], 1e-4) ** -2))
    ratio, weight = np.concatenate(ratios), np.concatenate(weights)
    if len(ratio) < MIN_SHARED_POINTS:
        raise ReconstructionRefused(f"the window by itself and the local map share {len(ratio)} points only")
    order = np.argsort(ratio)
    middle = np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2)
    return float(np.exp(ratio[order][min(int(middle), len(order) - 1)]))
