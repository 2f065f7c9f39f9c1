"""Bundle adjustment of the whole map: all keyframes and points at once, from the poses of the pose graph.

The pose graph knows windows by relative poses from keyframe to keyframe only. What it loses is most of the error of a
long path: a scale that drifted where little was in view, and windows that were solved before the readout time or the
distortion of the camera was known. Tracks through all windows, with what is known of the camera now, determine them (as
the full bundle adjustment of ORB-SLAM3 after a loop, Campos et al., TRO 2021, and that of COLMAP).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csgraph, csr_matrix

from vggt_ros.geometry.median import median
from vggt_ros.geometry.poses import Array
from vggt_ros.geometry.sim3 import scales
from vggt_ros.mapping.submaps.atlas import Atlas
from vggt_ros.reconstruction.adjustment.bundle import ROUGH, AdjustmentOptions, Scene
from vggt_ros.reconstruction.adjustment.sparse_bundle import (
    Observations,
    adjust_sparse,
    residuals,
    triangulated,
)
from vggt_ros.reconstruction.adjustment.triangulation import MAX_RESIDUAL, MIN_RAY_ANGLE
from vggt_ros.windows.solution import OBSERVED

_LOG = logging.getLogger(__name__)
MIN_KEYFRAMES = 10
"""Fewest connected keyframes that are adjusted: one local map has more, and is adjusted already."""
MIN_COMMON = 15
"""Points that two keyframes have to see in common to be connected: fewer hold the scale weakly."""
FIRST_RESIDUAL = 8.0
"""Largest residual of an observation to begin with, pixels: where the scale has drifted, all of them are large."""
RADIAL_SIGMA = 0.02
"""Standard deviation of the radial distortion about what windows say of it, if they say that there is any: where there
is none, a free one costs accuracy."""
LONG = AdjustmentOptions(30, 1e-5)
"""Drift along a path changes the cost by little, so the steps must go on for long."""
FIRST = 5
"""Oldest keyframes of connected ones, which keep their scale."""
DEPTH_ANGLE, MIN_DEPTHS = np.radians(1.0), 15
"""Smallest angle between the rays, and fewest points, by which the scale of a keyframe's depth is measured."""


@dataclass(frozen=True, eq=False)
class Adjusted:
    """Keyframes that were adjusted at once.

    Attributes:
        map_keyframe: (k, 4, 4), similarities, scale: map units per unit of the keyframe's depth.
        residual_px: median length of the residuals, before and after.

    """

    map_keyframe: Array
    residual_px: tuple[float, float]


def adjust_map(atlas: Atlas) -> str:
    """Adjust all keyframes of a map whose tracks are known, and return what became of that, empty if nothing did.

    Parts that no tracks connect are adjusted each by itself, and stay attached to each other as they were.
    """
    messages = []
    for keyframes in _connected(atlas):
        found, before = _adjust(atlas, keyframes), scales(atlas.graph.poses(keyframes))
        if found is None:
            messages.append(f"{len(keyframes)} keyframes were not adjusted at once: fewer observations would agree")
        elif not atlas.graph.adjust(keyframes, found.map_keyframe):
            messages.append(f"{len(keyframes)} keyframes were not adjusted at once: loops contradict it")
        else:
            change = np.abs(np.log(scales(atlas.graph.poses(keyframes)) / before)).max()
            messages.append(f"{len(keyframes)} keyframes adjusted at once: reprojection errors from "
                            f"{found.residual_px[0]:.2f} to {found.residual_px[1]:.2f} px, scale by up to {change:.1%}")
    if messages:
        _LOG.info("; ".join(messages))
    return "; ".join(messages)


def _connected(atlas: Atlas) -> list[list[int]]:
    """Return the groups of keyframes that are connected by the points which they see in common.

    None where sources of metric scale hold the scale of every window.
    """
    ids = atlas.graph.ids
    if atlas.tracks.newest is None or not ids or atlas.metric.state == OBSERVED:
        return []
    camera, numbers, _ = atlas.tracks.of(ids)
    points, point = np.unique(numbers, return_inverse=True)
    seen = csr_matrix((np.ones(len(camera), np.int32), (camera, point)), shape=(len(ids), len(points)))
    common = (seen @ seen.T) >= MIN_COMMON
    label = csgraph.connected_components(common, directed=False)[1]
    groups = [[ids[row] for row in np.flatnonzero(label == one)] for one in np.unique(label)]
    return [group for group in groups if len(group) >= MIN_KEYFRAMES]


def _adjust(atlas: Atlas, keyframes: list[int]) -> Adjusted | None:
    """Return connected keyframes adjusted at once; None if fewer observations agree than before, or none with depth."""
    before = atlas.graph.poses(keyframes)
    scale = scales(before)
    scene, tracked = _observed(atlas, keyframes, before)
    scene, angle = triangulated(scene, tracked)
    first = _squares(scene, tracked)
    scene, seen = _part(scene, tracked, (first < FIRST_RESIDUAL**2) & (angle > MIN_RAY_ANGLE)[tracked.point])
    options = replace(LONG, radial_sigma=RADIAL_SIGMA if scene.radial else 0.0)
    scene = adjust_sparse(scene, seen, replace(options, tolerance=ROUGH))
    scene, seen = _part(scene, seen, _squares(scene, seen) < MAX_RESIDUAL**2)
    scene = adjust_sparse(scene, seen, options)
    last = _squares(triangulated(scene, tracked)[0], tracked)
    if (last < MAX_RESIDUAL**2).sum() < (first < MAX_RESIDUAL**2).sum() or not np.isfinite(scene.rotation).all():
        return None
    change = _depth_scales(atlas, keyframes, scene, seen) / scale
    if not np.isfinite(change).any():
        return None
    unit = np.median(change[np.isfinite(change)][:FIRST])  # images do not say the scale of the whole
    after = np.tile(np.eye(4), (len(keyframes), 1, 1))
    after[:, :3, :3] = scene.rotation.swapaxes(1, 2) * (scale * np.nan_to_num(change / unit, nan=1.0))[:, None, None]
    centers = scene.centers()
    after[:, :3, 3] = centers[0] + (centers - centers[0]) / unit
    return Adjusted(after, (float(np.sqrt(np.median(first))), float(np.sqrt(np.median(last)))))


def _observed(atlas: Atlas, keyframes: list[int], map_keyframe: Array) -> tuple[Scene, Observations]:
    """Return the scene of keyframes at their poses (k, 4, 4) in the map, without points, and their observations."""
    camera, numbers, values = atlas.tracks.of(keyframes)
    lens = atlas.tracks.newest
    assert lens is not None
    order = np.argsort(numbers, kind="stable")
    pixels = (values[:, :2] - lens.readout * values[:, 2:]).astype(np.float64)
    seen = Observations(camera[order], np.unique(numbers[order], return_inverse=True)[1], pixels[order])
    seen, _ = seen.kept(np.ones(len(order), bool))
    rotation = (map_keyframe[:, :3, :3] / scales(map_keyframe)[:, None, None]).swapaxes(1, 2)
    translation = -(rotation @ map_keyframe[:, :3, 3:])[..., 0]
    focal = np.tile(lens.focal, (len(keyframes), 1))
    return Scene(rotation, translation, np.zeros((0, 3)), focal, lens.radial), seen


def _part(scene: Scene, seen: Observations, chosen: NDArray[np.bool_]) -> tuple[Scene, Observations]:
    """Return a scene with only the chosen observations (m,), and the points that have two of them."""
    seen, rows = seen.kept(chosen)
    return replace(scene, points=scene.points[rows]), seen


def _squares(scene: Scene, seen: Observations) -> Array:
    """Return the squared residuals (m,); infinite behind the camera."""
    return np.nan_to_num((residuals(scene, seen) ** 2).sum(1), nan=np.inf)


def _depth_scales(atlas: Atlas, keyframes: list[int], scene: Scene, seen: Observations) -> Array:
    """Return units of the scene per unit of each keyframe's depth (k,), by its points; NaN where it has too few."""
    _, angle = triangulated(scene, seen)
    depth = np.einsum("mi,mi->m", scene.rotation[seen.camera, 2], scene.points[seen.point])
    depth += scene.translation[seen.camera, 2]
    result = np.full(len(keyframes), np.nan)
    for row, keyframe in enumerate(keyframes):
        mine = np.flatnonzero((seen.camera == row) & (angle > DEPTH_ANGLE)[seen.point])
        stored = atlas.keyframes[keyframe]
        focal = np.diag(stored.intrinsics)[:2]
        places = seen.pixels[mine] * focal / scene.focal[row] + stored.intrinsics[:2, 2]
        x, y = np.clip(np.rint(places), 0, np.array(stored.depth.shape[::-1]) - 1).astype(int).T
        ratios = depth[mine] / stored.depth[y, x].astype(np.float64)
        ratios = ratios[np.isfinite(ratios) & (ratios > 0)]
        if len(ratios) >= MIN_DEPTHS:
            result[row] = median(ratios)
    return result
