"""Bundle adjustment of the whole map: all keyframes and points at once, from the poses of the pose graph.

The pose graph knows windows by relative poses from keyframe to keyframe only. What it loses is most of the error of a
long path: a scale that drifted where little was in view, and windows that were solved before the readout time or the
distortion of the camera was known. Tracks through all windows, with what is known of the camera now, determine them (as
the full bundle adjustment of ORB-SLAM3 after a loop, Campos et al., TRO 2021, and that of COLMAP).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csgraph, csr_matrix

from vggt_ros.geometry.median import median
from vggt_ros.geometry.poses import Array
from vggt_ros.geometry.sim3 import inverse, scales
from vggt_ros.mapping.submaps.atlas import Atlas
from vggt_ros.mapping.submaps.map_tracks import LoopTracks
from vggt_ros.pose_graph.consistency import Loop
from vggt_ros.reconstruction.adjustment.bundle import ROUGH, AdjustmentOptions
from vggt_ros.reconstruction.adjustment.shared_camera import PARAMETERS, SharedCamera
from vggt_ros.reconstruction.adjustment.sparse_bundle import (
    Lengths,
    Observations,
    SparseScene,
    adjust_sparse,
    in_cameras,
    ray_angles,
    residuals,
    triangulated,
)
from vggt_ros.reconstruction.adjustment.triangulation import MAX_RESIDUAL, MIN_RAY_ANGLE
from vggt_ros.windows.solution import OBSERVED, MapKeyframe

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
"""Oldest keyframes of connected ones, which keep their scale where sources of metric scale do not hold that of all."""
DEPTH_ANGLE, MIN_DEPTHS = np.radians(1.0), 15
"""Smallest angle between the rays, and fewest points, by which the scale of a keyframe's depth is measured."""
LENGTH_SIGMA, POSITION_SIGMA = 0.05, 0.005
"""Standard deviation of the step between two keyframes in a map whose scale is observed, as a fraction of it, and of
the depth of the scene."""


class MapAdjustment:
    """An adjustment of all keyframes whose tracks are known: made of a map, solved on any thread, taken by the map.

    The map may grow meanwhile. Parts that no tracks connect are adjusted each by itself, and stay attached to each
    other as they were.
    """

    def __init__(self, atlas: Atlas) -> None:
        """Copy what is needed from a map, or refer to what does not change."""
        self._parts = [_Part.of(atlas, keyframes) for keyframes in _connected(atlas)]

    def solve(self, check: Callable[[], None] = lambda: None) -> None:
        """Adjust; `check` is called before every step, and may raise an error to end it."""
        for part in self._parts:
            part.adjust(check)

    def take(self, atlas: Atlas) -> str:
        """Take the adjusted poses over into the map, and return what became of that, empty if nothing did."""
        message = "; ".join(part.take(atlas) for part in self._parts)
        if message:
            _LOG.info(message)
        return message


@dataclass(eq=False)
class _Part:
    """Connected keyframes, k of them.

    Attributes:
        keyframes: as the map has them.
        before: (k, 4, 4), their poses in the map, similarities, scale: map units per unit of the keyframe's depth.
        scene, tracked: the images, without points, and what they have observed.
        numbers: (n,), of the observed points.
        loops: tracks across loops between its keyframes.
        metric: whether sources of metric scale hold the scale.
        after: (k, 4, 4), the adjusted poses; None if fewer observations would agree, or none with depth.
        residual_px: median length of the residuals, before and after.
        agreeing: the loops whose images agree with it.
        camera: (5,), by how much the parameters of `SharedCamera` differ from what was known; None if they are exact.

    """

    keyframes: list[MapKeyframe]
    before: Array
    scene: SparseScene
    tracked: Observations
    numbers: NDArray[np.int64]
    loops: list[LoopTracks]
    metric: bool
    after: Array | None = None
    residual_px: list[float] = field(default_factory=list)
    agreeing: list[Loop] = field(default_factory=list)
    camera: Array | None = None

    @staticmethod
    def of(atlas: Atlas, ids: list[int]) -> _Part:
        """Return the part of a map that consists of these keyframes."""
        before = atlas.graph.poses(ids)
        loops = [tracks for tracks in atlas.tracks.across_loops if {*tracks.ends} <= {*ids}]
        return _Part([atlas.keyframes[k] for k in ids], before, *_observed(atlas, ids, before), loops,
                     atlas.metric_of(ids[0]).state == OBSERVED)

    def adjust(self, check: Callable[[], None]) -> None:
        """Adjust, and set `residual_px`, and unless it is refused, `after`, `agreeing` and `camera`."""
        scene, angle = triangulated(self.scene, self.tracked), ray_angles(self.scene, self.tracked)
        first, known, sigmas = _squares(scene, self.tracked), scene.camera, _camera_sigmas(scene.camera)
        chosen = (first < FIRST_RESIDUAL**2) & (angle > MIN_RAY_ANGLE)[self.tracked.point]
        scene, seen = _chosen(scene, self.tracked, chosen)
        lengths = self._lengths()
        scene = adjust_sparse(scene, seen, replace(LONG, tolerance=ROUGH), sigmas, lengths, check)
        scene, seen = _chosen(scene, seen, _squares(scene, seen) < MAX_RESIDUAL**2)
        scene = adjust_sparse(scene, seen, LONG, sigmas, lengths, check)
        last = _squares(triangulated(scene, self.tracked), self.tracked)
        self.residual_px = [float(np.sqrt(np.median(squares))) for squares in (first, last)]
        agree = [int((squares < MAX_RESIDUAL**2).sum()) for squares in (first, last)]
        if agree[1] < agree[0] or not np.isfinite(scene.rotation).all():
            return
        scale = scales(self.before)
        change = _depth_scales(self.keyframes, scene, seen, known.focal) / scale
        if not np.isfinite(change).any():
            return
        oldest = None if self.metric else FIRST
        unit = np.median(change[np.isfinite(change)][:oldest])  # images do not say the scale of the whole
        self.after = np.tile(np.eye(4), (len(change), 1, 1))
        sizes = scale * np.nan_to_num(change / unit, nan=1.0)
        self.after[:, :3, :3] = scene.rotation.swapaxes(1, 2) * sizes[:, None, None]
        centers = scene.centers()
        self.after[:, :3, 3] = centers[0] + (centers - centers[0]) / unit
        of_point = self.numbers[self.tracked.point]
        self.agreeing = [tracks.loop for tracks in self.loops
                         if np.median(last[np.isin(of_point, tracks.points)]) < MAX_RESIDUAL**2]
        self.camera = scene.camera.difference(known) if sigmas.any() else None

    def take(self, atlas: Atlas) -> str:
        """Take the adjusted poses over into the map, and return what became of that.

        What was removed or placed anew meanwhile is left out, and all is moved as the oldest of the others was.
        """
        rows = [row for row, keyframe in enumerate(self.keyframes) if atlas.keyframes.get(keyframe.id) is keyframe]
        ids, count = [self.keyframes[row].id for row in rows], f"{len(rows)} keyframes"
        if self.after is None or not rows:
            return f"{count} were not adjusted at once: fewer observations would agree"
        now = atlas.graph.poses(ids)
        after = now[:1] @ inverse(self.before[rows[:1]]) @ self.after[rows]
        if not atlas.graph.adjust(ids, after, [loop for loop in self.agreeing if loop.accepted]):
            return f"{count} were not adjusted at once: loops contradict it"
        change = np.log(scales(atlas.graph.poses(ids)) / scales(now))
        if self.metric:  # loops may have scaled the whole
            atlas.rescale(float(np.exp(-np.median(change))), atlas.metric, ids[0])
            change -= np.median(change)
        return (f"{count} adjusted at once: reprojection errors from {self.residual_px[0]:.2f} to "
                f"{self.residual_px[1]:.2f} px, scale by up to {np.abs(change).max():.1%}"
                + _camera_text(self.camera))

    def _lengths(self) -> Lengths | None:
        """Return the steps from keyframe to keyframe by sources of metric scale; None if there are no such sources."""
        if not self.metric:
            return None
        length = np.linalg.norm(np.diff(self.scene.centers(), axis=0), axis=1)
        depth = scales(self.before) * np.nan_to_num([one.median_depth for one in self.keyframes], nan=1.0)
        first = np.arange(len(length))
        return Lengths(first, first + 1, length, np.hypot(LENGTH_SIGMA * length, POSITION_SIGMA * depth[:-1]))


def _camera_text(difference: Array | None) -> str:
    """Return what the images ask for beside the calibration, for whoever wants to mend it."""
    if difference is None or not difference[:3].any():
        return ""
    return (f"; the images ask for a focal length of {np.exp(difference[0]):.1%} of the calibrated one and a principal "
            f"point ({difference[1]:+.1f}, {difference[2]:+.1f}) px from it")


def _connected(atlas: Atlas) -> list[list[int]]:
    """Return the groups of keyframes that are connected by the points which they see in common."""
    ids = atlas.graph.ids
    if atlas.tracks.newest is None or not ids:
        return []
    image, numbers, _ = atlas.tracks.of(ids)
    points, point = np.unique(numbers, return_inverse=True)
    seen = csr_matrix((np.ones(len(image), np.int32), (image, point)), shape=(len(ids), len(points)))
    common = (seen @ seen.T) >= MIN_COMMON
    label = csgraph.connected_components(common, directed=False)[1]
    groups = [[ids[row] for row in np.flatnonzero(label == one)] for one in np.unique(label)]
    return [group for group in groups if len(group) >= MIN_KEYFRAMES]


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


def _chosen(scene: SparseScene, seen: Observations, chosen: NDArray[np.bool_]) -> tuple[SparseScene, Observations]:
    """Return a scene with only the chosen observations (m,), and the points that have two of them."""
    seen, rows = seen.kept(chosen)
    return replace(scene, points=scene.points[rows]), seen


def _squares(scene: SparseScene, seen: Observations) -> Array:
    """Return the squared residuals (m,); infinite behind the camera."""
    return np.nan_to_num((residuals(scene, seen) ** 2).sum(1), nan=np.inf)


def _depth_scales(keyframes: list[MapKeyframe], scene: SparseScene, seen: Observations, focal: Array) -> Array:
    """Return units of the scene per unit of each keyframe's depth (k,), by its points; NaN where it has too few.

    Depth belongs to the pixels of the image as the camera took it. `focal` (2,) is that of the images by the
    calibration, as the intrinsics of the depth have it.
    """
    angle = ray_angles(scene, seen)
    depth = in_cameras(scene, seen)[:, 2]
    result = np.full(len(keyframes), np.nan)
    for row, stored in enumerate(keyframes):
        mine = np.flatnonzero((seen.image == row) & (angle > DEPTH_ANGLE)[seen.point])
        places = seen.pixels[mine] * np.diag(stored.intrinsics)[:2] / focal + stored.intrinsics[:2, 2]
        x, y = np.clip(np.rint(places), 0, np.array(stored.depth.shape[::-1]) - 1).astype(int).T
        ratios = depth[mine] / stored.depth[y, x].astype(np.float64)
        ratios = ratios[np.isfinite(ratios) & (ratios > 0)]
        if len(ratios) >= MIN_DEPTHS:
            result[row] = median(ratios)
    return result
