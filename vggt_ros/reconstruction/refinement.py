"""Bundle adjustment of a window that a network has solved (VGGT + BA: Wang et al., VGGT, CVPR 2025, section 4.1).

Corners of every keyframe are projected into the others by the window's own depth and poses and aligned there by patches
that are warped with the same geometry, from coarse to fine: steps so wide that optical flow loses the corners are no
obstacle. Poses, points and, where the camera is not calibrated, the focal length are adjusted robustly, with the
network's poses as a weak prior. The depth of each keyframe is then rescaled to the adjusted points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import resize_intrinsics
from vggt_ros.geometry.poses import Array, inverse, rotation_angle
from vggt_ros.reconstruction.adjustment.bundle import EXACT, PIXEL_SIGMA, ROUGH, AdjustmentOptions, Scene, adjust
from vggt_ros.reconstruction.adjustment.covariance import uncertainty
from vggt_ros.reconstruction.adjustment.patches import PatchOptions, align_patches
from vggt_ros.reconstruction.adjustment.planes import local_planes
from vggt_ros.reconstruction.adjustment.priors import OBSERVATION_SIGMA, DepthPrior, PosePrior
from vggt_ros.reconstruction.adjustment.sparse_reconstruction import SparseReconstruction
from vggt_ros.reconstruction.adjustment.triangulation import triangulate
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.reconstruction.earlier_keyframes import EarlierKeyframes

Gray = NDArray[np.uint8]

CORNERS, COARSE_CORNERS = 140, 40
"""Corners of each keyframe at the finest level, and at the others."""
COARSEST_WIDTH = 100
"""Images are halved down to a width between this and twice as much, pixels."""
MAX_SCATTER = 0.02
"""Relative scatter of inverse depth around a corner beyond which it lies on an edge or on no surface."""
PATCHES = PatchOptions(radius=4, min_correlation=0.8, max_shift=4.5, max_anisotropy=5.0)
MIN_ANGLE = np.radians(1.0)
"""Smallest angle between the rays of a point that counts."""
LOSS_SCALES = (0.5, 0.15)
"""Scales of the Cauchy loss at the finest level, pixels."""
MAX_STEPS = (6, 12)
"""Most steps of an adjustment at the finest level, and at the others. More change poses by less than their errors."""
RELAXATION = 1.6
"""Factor on the steps at the finest level, whose loss is narrow."""
SELECTING = 1e-2
"""Relative decrease of the cost at which the first adjustment at the finest level stops: it selects observations."""
SIGMA_ROTATION, SIGMA_TRANSLATION = 0.006, 0.015
"""How far the network's poses may be off: radians, and fraction of the window's median depth."""
SIGMA_DEPTH = 0.05
"""How far the network's depth of a corner may be off: a hundred corners tell the scale of an image to 0.5 %."""
OVERCONFIDENCE = 8.0
"""True errors over the Hessian's standard deviations: matches of neighboring windows share their errors."""
MIN_POINTS, MIN_OBSERVATIONS = 40, 12
"""Fewest points of a window, and observations of each keyframe, that are trusted more than the network."""
MAX_ROTATION, MAX_TRANSLATION = np.radians(8), 0.3
"""A solution farther than this from the network's (fraction of the median depth) is not believed."""


class NotRefined(Exception):
    """A window cannot be adjusted; the network's answer is kept. The text says why."""


@dataclass(frozen=True, eq=False)
class Refinement:
    """An adjusted window.

    Attributes:
        geometry: of the window, with `step_covariance`.
        focal: adjusted focal length at the size of the images, pixels.
        focal_sigma: its relative standard deviation; 0 where it was given.
        solution: cameras and points (n, 3), with their observations.
        tracked: (n, S), the observations that patches have aligned, inliers or not.

    """

    geometry: WindowGeometry
    focal: float
    focal_sigma: float
    solution: SparseReconstruction
    tracked: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Corners:
    """Corners (n): keyframe, pixels from the principal point (n, 2), inverse depth by the network, slant (n, 2)."""

    view: NDArray[np.intp]
    observed: Array
    rho: Array
    slant: Array
    strongest: NDArray[np.bool_]


def refine_window(geometry: WindowGeometry, grays: list[Gray], focal: float | None = None,
                  focal_sigma: float = 0.0, earlier: EarlierKeyframes | None = None) -> Refinement:
    """Return a window adjusted to its images.

    Args:
        geometry: what the network says.
        grays: its images (H, W), of one size, which may be larger than the depth, and those of `earlier`.
        focal: expected focal length at the size of the images; None: as the geometry has it, each keyframe its own.
        focal_sigma: relative standard deviation of that; 0 for a calibrated camera.
        earlier: keyframes that were adjusted before, with another window, in the frame of this one. Their poses are
            good already, and are adjusted at the finest level only.

    Raises:
        NotRefined: few corners, few matches or no parallax, or a solution that is far from the network's.

    """
    focal_sigma *= PIXEL_SIGMA / OBSERVATION_SIGMA  # `adjust` weighs it against observations that are less exact
    height, width = grays[0].shape
    small_height, small_width = geometry.depth.shape[1:]
    own, parts = len(geometry.depth), (geometry,) if earlier is None else (geometry, earlier)
    matrices = np.array([resize_intrinsics(k, width / small_width, height / small_height)
                         for part in parts for k in part.intrinsics])
    if focal is not None:
        matrices[:, 0, 0] = matrices[:, 1, 1] = focal
    cameras = np.array([inverse(camera) for part in parts for camera in part.window_camera])
    centers = matrices[:, :2, 2]
    corners = _find_corners([depth for part in parts for depth in part.depth], grays, centers)
    if len(corners.view) < MIN_POINTS:
        raise NotRefined(f"{len(corners.view)} corners with depth, fewer than {MIN_POINTS}")
    scene = Scene(cameras[:, :3, :3].copy(), cameras[:, :3, 3].copy(), np.zeros((len(corners.view), 3)),
                  np.stack([matrices[:, 0, 0], matrices[:, 1, 1]], 1))
    depth_unit = float(np.median(1 / corners.rho))
    prior = PosePrior(scene.rotation, scene.translation, SIGMA_ROTATION, SIGMA_TRANSLATION * depth_unit)
    ratio = np.ones(len(grays))
    scene = replace(scene, points=_unproject(scene, corners, ratio))
    pyramid = _pyramid(grays)
    for level in range(len(pyramid) - 1, -1, -1):
        views = len(grays) if level == 0 else own
        rows = np.flatnonzero((corners.strongest | (level == 0)) & (corners.view < views))
        part, matched, tracked, used = _adjust_level(scene.first(views), pyramid[level][:views], level, rows, corners,
                                                     centers, prior.first(views), focal_sigma)
        scene = _with_first(scene, part)
        ratio[:views] = _depth_ratios(part, corners, rows, used)
        left = np.setdiff1d(np.arange(len(corners.view)), rows[used.any(1)])
        points = scene.points.copy()
        points[left] = _unproject(scene, corners, ratio)[left]
        scene = replace(scene, points=points)
    angle = triangulate(scene, matched, used)[1]
    _check(scene, cameras, used, angle, depth_unit)
    residual = float(np.sqrt((scene.residuals(matched) ** 2).sum(-1)[used].mean()))
    seen = used.any(1)
    part = replace(scene, points=scene.points[seen])
    depth = DepthPrior(corners.view[seen], 1 / corners.rho[seen], SIGMA_DEPTH)
    options = AdjustmentOptions(loss_scale=LOSS_SCALES[-1], focal_sigma=focal_sigma)
    covariance, sigma = uncertainty(part, matched[seen], used[seen], options, (prior, depth))
    scale = scene.focal[0, 0] / matrices[0, 0, 0]
    window_camera = np.tile(np.eye(4), (own, 1, 1))
    window_camera[:, :3, :3] = scene.rotation[:own].swapaxes(1, 2)
    window_camera[:, :3, 3] = scene.centers()[:own]
    window_camera[0] = np.eye(4)
    intrinsics = geometry.intrinsics.copy()
    intrinsics[:, [0, 1], [0, 1]] = scene.focal[:own] * [small_width / width, small_height / height]
    report = {"refined_points": float(seen.sum()), "refined_residual_px": residual,
              "refined_angle_deg": float(np.degrees(np.median(angle[seen]))), "refined_focal_ratio": float(scale)}
    refined = replace(geometry, window_camera=window_camera, intrinsics=intrinsics,
                      depth=geometry.depth * ratio[:own].astype(np.float32)[:, None, None],
                      step_covariance=OVERCONFIDENCE**2 * covariance[:own - 1], report={**geometry.report, **report})
    solution = SparseReconstruction(scene, np.ones(len(grays), bool), used, matched, (0, 1))
    return Refinement(refined, float(scene.focal[0, 0]), OVERCONFIDENCE * sigma, solution, tracked)


def _with_first(scene: Scene, part: Scene) -> Scene:
    """Return a scene whose first cameras, and all points, are those of `part`; focal lengths keep their ratios."""
    count = len(part.rotation)
    focal = scene.focal * (part.focal[0, 0] / scene.focal[0, 0])
    return Scene(np.concatenate([part.rotation, scene.rotation[count:]]),
                 np.concatenate([part.translation, scene.translation[count:]]), part.points, focal)


def _find_corners(depths: list[NDArray[np.float32]], grays: list[Gray], centers: Array) -> _Corners:
    """Return corners of every image, with principal points (S, 2), where the depth is known and smooth."""
    height, width = grays[0].shape
    shrink = np.array([depths[0].shape[1] / width, depths[0].shape[0] / height])
    spacing = 0.5 * np.sqrt(height * width / CORNERS)
    views, observed, rhos, slants, strongest = [], [], [], [], []
    for view, gray in enumerate(grays):
        found = cv2.goodFeaturesToTrack(gray, 2 * CORNERS, 0.001, spacing, blockSize=5)
        if found is None:
            continue
        at = found.reshape(-1, 2).astype(np.float64)
        rho, slant, scatter = local_planes(depths[view], (at + 0.5) * shrink - 0.5)
        good = np.flatnonzero(np.nan_to_num(scatter, nan=np.inf) < MAX_SCATTER)[:CORNERS]
        views.append(np.full(len(good), view))
        observed.append(at[good] - centers[view])
        rhos.append(rho[good])
        slants.append(slant[good] * shrink)
        strongest.append(np.arange(len(good)) < COARSE_CORNERS)
    if not views:
        raise NotRefined("no corners in its images")
    return _Corners(*(np.concatenate(values) for values in (views, observed, rhos, slants, strongest)))


def _pyramid(grays: list[Gray]) -> list[list[Gray]]:
    """Return the images at full size, half of it, and so on."""
    pyramid = [grays]
    while pyramid[-1][0].shape[1] >= 2 * COARSEST_WIDTH:
        pyramid.append([np.asarray(cv2.pyrDown(gray), np.uint8) for gray in pyramid[-1]])
    return pyramid


def _unproject(scene: Scene, corners: _Corners, ratio: Array) -> Array:
    """Return the points (n, 3) of corners by the network's depth, times a `ratio` (S,) of each keyframe."""
    view = corners.view
    rays = np.concatenate([corners.observed / scene.focal[view], np.ones((len(view), 1))], 1)
    local = rays / corners.rho[:, None] * ratio[view, None] - scene.translation[view]
    return np.einsum("nji,nj->ni", scene.rotation[view], local)


def _adjust_level(scene: Scene, grays: list[Gray], level: int, rows: NDArray[np.intp], corners: _Corners,
                  centers: Array, prior: PosePrior, focal_sigma: float
                  ) -> tuple[Scene, Array, NDArray[np.bool_], NDArray[np.bool_]]:
    """Match the corners `rows` (k,) at a level of the pyramid and adjust.

    Return the scene, observations (k, S, 2), which views were matched (k, S), and the inliers (k, S) of these.
    The finest level alone gates by residuals and ends with a narrow loss: coarse ones only lead to it.
    """
    shrink, views = 0.5**level, len(grays)
    centers = centers[:views]
    part = replace(scene, points=scene.points[rows])
    small = replace(part, focal=part.focal * shrink)
    view = corners.view[rows]
    matched, tracked = align_patches(grays, small, centers * shrink, view, corners.observed[rows] * shrink,
                                     slant=corners.slant[rows] / shrink, options=PATCHES)
    matched /= shrink
    points, angle = triangulate(part, matched, tracked)
    used = tracked & ((tracked.sum(1) >= 2) & (angle > MIN_ANGLE))[:, None]
    part = replace(part, points=points)
    for loss in LOSS_SCALES if level == 0 else (0.7 / shrink,):
        if used.any(1).sum() < MIN_POINTS // (1 if level == 0 else 2):
            raise NotRefined(f"{used.any(1).sum()} points are seen by two or more of {views} keyframes from different "
                             f"places, fewer than {MIN_POINTS}")
        seen = used.any(1)
        depth = DepthPrior(view[seen], 1 / corners.rho[rows][seen], SIGMA_DEPTH)
        tolerance = ROUGH if level else EXACT if loss == LOSS_SCALES[-1] else SELECTING
        options = AdjustmentOptions(MAX_STEPS[min(level, 1)], tolerance, loss, focal_sigma,
                                    relaxation=1.0 if level else RELAXATION)
        adjusted = adjust(replace(part, points=part.points[seen]), matched[seen], used[seen], options, 0,
                          (prior, depth))
        points = part.points.copy()
        points[seen] = adjusted.points
        part = replace(adjusted, points=points)
        square = np.nan_to_num((part.residuals(matched) ** 2).sum(-1), nan=np.inf)
        used &= square < (4 * loss) ** 2
        used &= (used.sum(1) >= 2)[:, None]
    points = scene.points.copy()
    points[rows] = part.points
    return replace(part, points=points), matched, tracked, used


def _depth_ratios(scene: Scene, corners: _Corners, rows: NDArray[np.intp], used: NDArray[np.bool_]) -> Array:
    """Return for each keyframe (S,) the adjusted over the network's depth of its corners (median)."""
    local = scene.in_cameras()[rows, corners.view[rows]][:, 2] * corners.rho[rows]
    good = used.any(1) & (local > 0)
    overall = float(np.median(local[good])) if good.any() else 1.0
    ratio = np.full(len(scene.rotation), overall)
    for view in range(len(ratio)):
        own = good & (corners.view[rows] == view)
        if own.sum() >= MIN_OBSERVATIONS // 2:
            ratio[view] = np.median(local[own])
    return ratio


def _check(scene: Scene, cameras: Array, used: NDArray[np.bool_], angle: Array, unit: float) -> None:
    """Raise NotRefined if a solution rests on too little, or is far from the network's cameras (S, 4, 4)."""
    points, few = int(used.any(1).sum()), int((used.sum(0) < MIN_OBSERVATIONS).sum())
    if points < MIN_POINTS:
        raise NotRefined(f"{points} points are left, fewer than {MIN_POINTS}")
    if few > len(cameras) // 4:
        raise NotRefined(f"{few} of {len(cameras)} keyframes have fewer than {MIN_OBSERVATIONS} matches")
    if (median := float(np.degrees(np.median(angle[used.any(1)])))) < 1.5 * np.degrees(MIN_ANGLE):
        raise NotRefined(f"the rays of a point meet at {median:.1f} degrees (median)")
    turn = max(rotation_angle(a @ b[:3, :3].T) for a, b in zip(scene.rotation, cameras, strict=True))
    shift = np.linalg.norm(scene.centers() - np.array([inverse(c)[:3, 3] for c in cameras]), axis=1).max() / unit
    if turn > MAX_ROTATION or shift > MAX_TRANSLATION:
        raise NotRefined(f"the adjusted poses are {np.degrees(turn):.1f} degrees and {100 * shift:.0f} % of the depth "
                         "from the network's")
