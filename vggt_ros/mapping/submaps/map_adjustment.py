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
from vggt_ros.pose_graph.consistency import Loop
from vggt_ros.reconstruction.adjustment.bundle import ROUGH, AdjustmentOptions
from vggt_ros.reconstruction.adjustment.shared_camera import PARAMETERS, SharedCamera
from vggt_ros.reconstruction.adjustment.sparse_bundle import (
    Observations,
    SparseScene,
    adjust_sparse,
    in_cameras,
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
FOCAL_SIGMA, CENTER_SIGMA, RADIAL_SIGMA, READOUT_SIGMA = 0.01, 0.01, 0.02, 0.005
"""Standard deviations of the focal length (relative), the principal point (of the image's focal length), the radial
distortion, and the readout time (seconds) about what is known, where that is not exact."""
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
        loops: those whose images agree with it.
        camera: (5,), by how much the parameters of `SharedCamera` differ from what was known; None if they are exact.

    """

    map_keyframe: Array
    residual_px: tuple[float, float]
    loops: tuple[Loop, ...]
    camera: Array | None


def adjust_map(atlas: Atlas) -> str:
    """Adjust all keyframes of a map whose tracks are known, and return what became of that, empty if nothing did.

    Parts that no tracks connect are adjusted each by itself, and stay attached to each other as they were.
    """
    messages = []
    for keyframes in _connected(atlas):
        found, before = _adjust(atlas, keyframes), scales(atlas.graph.poses(keyframes))
        if found is None:
            messages.append(f"{len(keyframes)} keyframes were not adjusted at once: fewer observations would agree")
        elif not atlas.graph.adjust(keyframes, found.map_keyframe, found.loops):
            messages.append(f"{len(keyframes)} keyframes were not adjusted at once: loops contradict it")
        else:
            change = np.abs(np.log(scales(atlas.graph.poses(keyframes)) / before)).max()
            messages.append(f"{len(keyframes)} keyframes adjusted at once: reprojection errors from "
                            f"{found.residual_px[0]:.2f} to {found.residual_px[1]:.2f} px, scale by up to {change:.1%}"
                            + _camera_text(found.camera))
    if messages:
        _LOG.info("; ".join(messages))
    return "; ".join(messages)


def _camera_text(difference: Array | None) -> str:
    """Return what the images ask for beside the calibration, for whoever wants to mend it."""
    if difference is None or not difference[:3].any():
        return ""
    return (f"; the images ask for a focal length of {np.exp(difference[0]):.1%} of the calibrated one and a principal "
            f"point ({difference[1]:+.1f}, {difference[2]:+.1f}) px from it")


def _connected(atlas: Atlas) -> list[list[int]]:
    """Return the groups of keyframes that are connected by the points which they see in common.

    None where sources of metric scale hold the scale of every window.
    """
    ids = atlas.graph.ids
    if atlas.tracks.newest is None or not ids or atlas.metric.state == OBSERVED:
        return []
    image, numbers, _ = atlas.tracks.of(ids)
    points, point = np.unique(numbers, return_inverse=True)
    seen = csr_matrix((np.ones(len(image), np.int32), (image, point)), shape=(len(ids), len(points)))
    common = (seen @ seen.T) >= MIN_COMMON
    label = csgraph.connected_components(common, directed=False)[1]
    groups = [[ids[row] for row in np.flatnonzero(label == one)] for one in np.unique(label)]
    return [group for group in groups if len(group) >= MIN_KEYFRAMES]


def _adjust(atlas: Atlas, keyframes: list[int]) -> Adjusted | None:
    """Return connected keyframes adjusted at once; None if fewer observations agree than before, or none with depth."""
    before = atlas.graph.poses(keyframes)
    scale = scales(before)
    scene, tracked, numbers = _observed(atlas, keyframes, before)
    scene, angle = triangulated(scene, tracked)
    first, known, sigmas = _squares(scene, tracked), scene.camera, _camera_sigmas(scene.camera)
    scene, seen = _part(scene, tracked, (first < FIRST_RESIDUAL**2) & (angle > MIN_RAY_ANGLE)[tracked.point])
    scene = adjust_sparse(scene, seen, replace(LONG, tolerance=ROUGH), sigmas)
    scene, seen = _part(scene, seen, _squares(scene, seen) < MAX_RESIDUAL**2)
    scene = adjust_sparse(scene, seen, LONG, sigmas)
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
    of_point = numbers[tracked.point]
    loops = tuple(tracks.loop for tracks in atlas.tracks.across_loops if {*tracks.ends} <= {*keyframes}
                  and np.median(last[np.isin(of_point, tracks.points)]) < MAX_RESIDUAL**2)
    residual = float(np.sqrt(np.median(first))), float(np.sqrt(np.median(last)))
    return Adjusted(after, residual, loops, scene.camera.difference(known) if sigmas.any() else None)


def _observed(atlas: Atlas, keyframes: list[int],
              map_keyframe: Array) -> tuple[SparseScene, Observations, NDArray[np.int64]]:
    """Return the scene of keyframes at their poses (k, 4, 4) in the map, without points, and their observations.

    With them come the numbers of the observed points (n,).
    """
    image, numbers, values = atlas.tracks.of(keyframes)
    lens = atlas.tracks.newest
    assert lens is not None
    order = np.argsort(numbers, kind="stable")
    pixels, shift_rate = np.split(values[order].astype(np.float64), 2, axis=1)
    numbers, point = np.unique(numbers[order], return_inverse=True)
    seen, rows = Observations(image[order], point, pixels, shift_rate).kept(np.ones(len(order), bool))
    rotation = (map_keyframe[:, :3, :3] / scales(map_keyframe)[:, None, None]).swapaxes(1, 2)
    translation = -(rotation @ map_keyframe[:, :3, 3:])[..., 0]
    camera = SharedCamera(lens.focal, np.zeros(2), lens.radial, lens.readout)
    return SparseScene(rotation, translation, np.zeros((0, 3)), camera), seen, numbers[rows]


def _camera_sigmas(camera: SharedCamera) -> Array:
    """Return the standard deviations (5,) of what is known of the camera; 0 for what is taken as exact.

    A calibration that leaves no distortion is: there, whatever else the images show comes from other errors of theirs.
    """
    sigmas = np.zeros(PARAMETERS)
    if camera.radial:
        sigmas[:4] = FOCAL_SIGMA, *(CENTER_SIGMA * camera.focal), RADIAL_SIGMA
    sigmas[4] = READOUT_SIGMA if camera.readout else 0.0
    return sigmas


def _part(scene: SparseScene, seen: Observations, chosen: NDArray[np.bool_]) -> tuple[SparseScene, Observations]:
    """Return a scene with only the chosen observations (m,), and the points that have two of them."""
    seen, rows = seen.kept(chosen)
    return replace(scene, points=scene.points[rows]), seen


def _squares(scene: SparseScene, seen: Observations) -> Array:
    """Return the squared residuals (m,); infinite behind the camera."""
    return np.nan_to_num((residuals(scene, seen) ** 2).sum(1), nan=np.inf)


def _depth_scales(atlas: Atlas, keyframes: list[int], scene: SparseScene, seen: Observations) -> Array:
    """Return units of the scene per unit of each keyframe's depth (k,), by its points; NaN where it has too few."""
    _, angle = triangulated(scene, seen)
    depth = in_cameras(scene, seen)[:, 2]
    result, pixels = np.full(len(keyframes), np.nan), scene.camera.pinhole(seen.pixels, seen.shift_rate)
    for row, keyframe in enumerate(keyframes):
        mine = np.flatnonzero((seen.image == row) & (angle > DEPTH_ANGLE)[seen.point])
        stored = atlas.keyframes[keyframe]
        focal = np.diag(stored.intrinsics)[:2]
        places = pixels[mine] * focal / scene.camera.focal + stored.intrinsics[:2, 2]
        x, y = np.clip(np.rint(places), 0, np.array(stored.depth.shape[::-1]) - 1).astype(int).T
        ratios = depth[mine] / stored.depth[y, x].astype(np.float64)
        ratios = ratios[np.isfinite(ratios) & (ratios > 0)]
        if len(ratios) >= MIN_DEPTHS:
            result[row] = median(ratios)
    return result
