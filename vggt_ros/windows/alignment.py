"""Alignment of a window to the map by their shared keyframes: a similarity with a covariance, or a rejection.

A shared keyframe has a depth map on both sides, for the same pixels and hence along the same rays. Scale comes from the
ratio of the two depths (`overlap_scale.py`). With the scale fixed, rotation and translation are estimated from the
shared poses together with points of the shared depth. Camera centers alone do not determine the rotation about the line
on which they lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import AlignmentConfig
from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.geometry.poses import (
    Array,
    Sim3,
    mean_rotation,
    orthonormalize,
    rotation_angle,
    skew,
    so3_exp,
    so3_log,
)
from vggt_ros.geometry.sim3 import rotation_vectors, skews
from vggt_ros.windows.overlap_scale import EFFECTIVE_SAMPLES, scale_by_depth, with_distances
from vggt_ros.windows.solution import MapKeyframe

_MAX_POINTS = 300
"""Most points of a shared keyframe that are used; more add no information, since their errors are correlated."""
_SIGMA_ROTATION, _SIGMA_CENTER, _SIGMA_POINT = 0.002, 0.004, 0.03
"""Prior sigmas of a shared rotation (radians), of a shared center (fraction of the depth) and of a point (fraction of
its depth). They are the relative weights of the three kinds of residuals; the covariance is scaled by the disagreement
that is observed."""
_SIGMA_LOG_SCALE = 1.0
"""Sigma of a window's log scale in `guess_alignment`: sources of metric scale may still change it by much."""


WEAK_SCALE = 0.1
"""Standard deviation of the logarithm of the scale of a window beyond which it is weakly held: after a turn in front of
a wall, or where it was assumed."""
_UNCERTAINTY_LIMITS = 0.25, 4.0
"""How much less or more uncertain than usual a window's own covariances may make it."""


class AlignmentRefused(Exception):
    """The overlap does not determine the window's pose and scale, or contradicts itself; the text says which."""


@dataclass(frozen=True, eq=False)
class View:
    """A keyframe on one side, window or map: camera pose 4x4 and depth (h, w) in that side's units, or NaN."""

    camera: Array
    keyframe: MapKeyframe
    scale: float = 1.0
    """Units of this side per unit of `keyframe.depth`."""
    uncertainty: float = 1.0
    """How many times more uncertain than usual the camera is."""
    step_covariance: Array | None = None
    """That of `camera` (6, 6) in the frame of the keyframe before, as in `WindowGeometry`; None if not known."""

    def depth(self) -> NDArray[np.float32]:
        """Return the depth (h, w) in this side's units."""
        return self.keyframe.depth.astype(np.float32) * np.float32(self.scale)


@dataclass(frozen=True, eq=False)
class Alignment:
    """Pose and scale of a window in a reference frame.

    Attributes:
        reference_window: the similarity.
        covariance: float64 (7, 7) of its perturbation on the right, [rotation, translation, log scale], in the
            window's frame and units (radians, window units, natural logarithm).
        shared: ids of the keyframes that it was computed from.
        depth: median depth of their points, window units.

    """

    reference_window: Sim3
    covariance: Array
    shared: tuple[int, ...]
    depth: float


@dataclass(frozen=True, eq=False)
class _Overlap:
    """A shared keyframe: both poses, common points (n, 3) in both camera frames, and weights (n,).

    `log_ratio` (m,) is the logarithm of reference depth over window depth, of all pixels that are used for scale.
    """

    reference_camera: Array
    window_camera: Array
    reference_points: Array
    window_points: Array
    weights: Array
    log_ratio: Array


def align(reference: Mapping[int, View], window: Mapping[int, View], config: AlignmentConfig,
          same_unit: bool = False, scale_sigma: float = 0.0, same_depth: bool = False) -> Alignment:
    """Return the alignment of `window` in the frame of `reference`; both are keyframe id to View.

    Where no shared keyframe has depth, since the camera only turned, a window that has the `same_unit` as the one
    before is aligned by the poses alone. What is new in a window may have another scale than the shared keyframes:
    `scale_sigma` is the standard deviation of its logarithm, about the center of the newest shared camera. Where the
    shared keyframes see the `same_depth`, as images that were found in another map, the errors of it are one error, and
    the distances between the cameras take part in the scale. In the overlap of windows they add drift: a window begins
    with the poses of the one before.

    Raises:
        AlignmentRefused: no shared keyframe, too little common depth, or shared keyframes that contradict each other.

    """
    shared = tuple(sorted(reference.keys() & window.keys()))
    if not shared:
        raise AlignmentRefused("the window shares no keyframe with the map")
    overlaps = {k: overlap for k in shared
                if (overlap := _common_points(reference[k], window[k], config.min_pixels)) is not None}
    if not overlaps and same_unit:
        overlaps = {k: _turned(reference[k], window[k], known_depth(window)) for k in shared}
    if not overlaps:
        raise AlignmentRefused(f"no shared keyframe has {config.min_pixels} pixels with depth in both the window and "
                               f"the map (alignment.min_pixels; {len(shared)} shared)")
    log_scale, variance_scale, scatter = scale_by_depth([o.log_ratio for o in overlaps.values()], same_depth)
    if scatter > config.max_scale:
        raise AlignmentRefused(f"the depths of the shared keyframes differ by {100 * scatter:.0f} % after the best "
                               f"scale, more than {100 * config.max_scale:.0f} % (alignment.max_scale)")
    depth = float(np.median([np.median(o.window_points[:, 2]) for o in overlaps.values()]))
    uncertainty = _uncertainty(window)
    if same_depth:
        log_scale, variance_scale = with_distances(
            log_scale, variance_scale, np.array([o.reference_camera for o in overlaps.values()]),
            np.array([o.window_camera for o in overlaps.values()]), uncertainty * _SIGMA_CENTER * depth,
            config.max_translation * depth)
    reference_window = _solve(list(overlaps.values()), float(np.exp(log_scale)))
    _check_agreement(overlaps, reference_window, config)
    covariance = _covariance(list(overlaps.values()), reference_window, variance_scale,
                             1 if same_depth else len(overlaps))
    covariance[:6, :6] *= uncertainty**2
    by_scale = np.array([0.0, 0.0, 0.0, *-window[max(overlaps)].camera[:3, 3], 1.0])
    covariance += scale_sigma**2 * np.outer(by_scale, by_scale)
    return Alignment(reference_window, covariance, tuple(overlaps), depth)


def guess_alignment(reference: Mapping[int, View], window: Mapping[int, View],
                    config: AlignmentConfig) -> tuple[int, Sim3, Array] | None:
    """Return a rough alignment of a window that `align` rejected, or None if there is no shared keyframe with depth.

    A shared keyframe is the same camera on both sides, even if the rest of the window contradicts the map. The window
    takes the pose of the first shared keyframe with depth; the sigmas are the limits of `config`. Returned are the
    keyframe's id, `reference_window`, and the covariance (7, 7) as in `Alignment`.
    """
    depths = {k: (reference[k].keyframe.median_depth * reference[k].scale,
                  window[k].keyframe.median_depth * window[k].scale) for k in window if k in reference}
    shared = next((k for k, pair in depths.items() if np.isfinite(pair).all()), None)
    if shared is None:
        return None
    reference_view, window_view, (reference_depth, window_depth) = reference[shared], window[shared], depths[shared]
    reference_camera = Sim3.from_pose(reference_view.camera, reference_depth / window_depth)
    sigmas = np.array([np.radians(config.max_rotation)] * 3 + [config.max_translation * window_depth] * 3
                      + [_SIGMA_LOG_SCALE])
    return shared, reference_camera @ Sim3.from_pose(window_view.camera).inverse(), np.diag(sigmas**2)


def _common_points(reference: View, window: View, min_pixels: int) -> _Overlap | None:
    """Return the points that have depth on both sides, or None if there are fewer than `min_pixels`."""
    depth_reference, depth_window = reference.depth(), window.depth()
    if depth_reference.shape != depth_window.shape:
        raise ValueError(f"depth of keyframe {reference.keyframe.id}: {depth_reference.shape} and {depth_window.shape}")
    known = (depth_reference > 0) & (depth_window > 0)
    if known.sum() < min_pixels:
        return None
    weights = np.minimum(reference.keyframe.confidence, window.keyframe.confidence).astype(np.float32) / 255
    if not weights[known].any():  # of no confidence at all: nothing is better than the rest
        weights = np.ones_like(weights)
    known &= weights >= np.median(weights[known])
    rows, columns = np.nonzero(known)
    log_ratio = np.log(depth_reference[known].astype(np.float64) / depth_window[known])
    chosen = np.linspace(0, len(rows) - 1, min(_MAX_POINTS, len(rows))).astype(int)
    rows, columns = rows[chosen], columns[chosen]
    rays = pixel_rays(window.keyframe.intrinsics, columns, rows)
    return _Overlap(reference.camera, window.camera, rays * depth_reference[rows, columns, None],
                    rays * depth_window[rows, columns, None], weights[rows, columns].astype(np.float64), log_ratio)


def known_depth(window: Mapping[int, View]) -> float:
    """Return the median depth of a window; 1, the usual unit, if none is known."""
    depths = [view.keyframe.median_depth * view.scale for view in window.values()]
    return float(np.nanmedian(depths)) if np.isfinite(depths).any() else 1.0


def _turned(reference: View, window: View, depth: float) -> _Overlap:
    """Return the overlap of a keyframe without depth in two windows of the same unit: a point straight ahead."""
    point, scale = np.array([[0.0, 0.0, depth]]), reference.scale / window.scale
    return _Overlap(reference.camera, window.camera, scale * point, point, np.ones(1), np.log([scale]))


def _solve(overlaps: list[_Overlap], scale: float) -> Sim3:
    """Return the similarity of a given scale by robust Gauss-Newton.

    The residuals, each divided by its prior sigma, are those of the shared rotations, centers and points. The
    perturbation is on the right: [rotation, translation] in the window's frame and units.
    """
    window = np.array([o.window_camera for o in overlaps])
    reference = np.array([o.reference_camera for o in overlaps])
    depths = np.array([np.median(o.reference_points[:, 2]) for o in overlaps])
    # Camera centers and points of the window (source), and the same ones of the reference (target).
    source = np.concatenate([window[:, :3, 3], *(o.window_points @ o.window_camera[:3, :3].T + o.window_camera[:3, 3]
                                                 for o in overlaps)])
    target = np.concatenate([reference[:, :3, 3], *(o.reference_points @ o.reference_camera[:3, :3].T
                                                    + o.reference_camera[:3, 3] for o in overlaps)])
    sigma = np.concatenate([_SIGMA_CENTER * depths, *(_SIGMA_POINT * o.reference_points[:, 2] for o in overlaps)])
    point_weight = np.concatenate([np.ones(len(overlaps)), *(o.weights * (EFFECTIVE_SAMPLES / o.weights.sum())
                                                             for o in overlaps)])
    source_skews = skews(source)
    rotation_jacobian = np.swapaxes(window[:, :3, :3], 1, 2) / _SIGMA_ROTATION
    jacobian = np.empty((len(source), 3, 6))
    rotation = mean_rotation(reference[:, :3, :3] @ np.swapaxes(window[:, :3, :3], 1, 2))
    translation = np.mean(reference[:, :3, 3] - scale * window[:, :3, 3] @ rotation.T, axis=0)
    for _ in range(10):
        # Rotation residuals: Log(R_reference' R R_window).
        rotation_residual = rotation_vectors(np.swapaxes(reference[:, :3, :3], 1, 2) @ rotation
                                             @ window[:, :3, :3]) / _SIGMA_ROTATION
        weight = 1 / (1 + (rotation_residual**2).sum(1) / 9.0) ** 2  # Geman-McClure at 3 sigma
        information, gradient = np.zeros((6, 6)), np.zeros(6)
        information[:3, :3] = np.einsum("n,nki,nkj->ij", weight, rotation_jacobian, rotation_jacobian)
        gradient[:3] = np.einsum("n,nki,nk->i", weight, rotation_jacobian, rotation_residual)
        point_residual = (scale * source @ rotation.T + translation - target) / sigma[:, None]
        weight = point_weight / (1 + (point_residual**2).sum(1) / 9.0) ** 2
        jacobian[:, :, :3] = -(scale / sigma)[:, None, None] * (rotation @ source_skews)
        jacobian[:, :, 3:] = (scale / sigma)[:, None, None] * rotation
        weighted = (weight[:, None, None] * jacobian).reshape(-1, 6).T
        information += weighted @ jacobian.reshape(-1, 6)
        gradient += weighted @ point_residual.ravel()
        step = np.asarray(-np.linalg.solve(information, gradient), np.float64)
        translation = translation + scale * rotation @ step[3:]
        rotation = orthonormalize(rotation @ so3_exp(step[:3]))
        if np.abs(step).max() < 1e-7:
            break
    return Sim3(scale, rotation, translation)


def _covariance(overlaps: list[_Overlap], reference_window: Sim3, variance_scale: float, independent: int) -> Array:
    """Return the covariance (7, 7) of an alignment by so many independent keyframes.

    All points of a keyframe share the error of its pose, so the shared poses are the independent measurements, not the
    points. The error level is the prior one, corrected by the disagreement of the shared poses.
    """
    information, squared_residuals = np.zeros((6, 6)), 0.0
    for o in overlaps:
        predicted = reference_window.apply_pose(o.window_camera)
        sigma_center = _SIGMA_CENTER * float(np.median(o.window_points[:, 2]))
        rotation_residual = so3_log(o.reference_camera[:3, :3].T @ predicted[:3, :3]) / _SIGMA_ROTATION
        center_residual = (o.reference_camera[:3, 3] - predicted[:3, 3]) / (reference_window.scale * sigma_center)
        squared_residuals += float(rotation_residual @ rotation_residual + center_residual @ center_residual)
        center = np.hstack([-skew(o.window_camera[:3, 3]), np.eye(3)]) / sigma_center
        information[:3, :3] += np.eye(3) / _SIGMA_ROTATION**2
        information += center.T @ center
    covariance = np.zeros((7, 7))
    covariance[:6, :6] = np.linalg.inv(information) * (6 + squared_residuals) / (6 * independent)
    covariance[6, 6] = variance_scale
    # Scale is estimated about the centroid of the points: there, scale and translation are independent, and a scale
    # error moves the cameras relative to that centroid.
    coupling = np.eye(7)
    coupling[3:6, 6] = -np.mean([o.window_camera[:3, :3] @ np.median(o.window_points, axis=0) + o.window_camera[:3, 3]
                                 for o in overlaps], axis=0)
    return coupling @ covariance @ coupling.T


def _uncertainty(window: Mapping[int, View]) -> float:
    """Return how many times more uncertain than usual the cameras of a window are: by its covariances, if known."""
    sigmas = [np.sqrt(np.trace(view.step_covariance[:3, :3]) / 3) for view in window.values()
              if view.step_covariance is not None]
    if sigmas:
        return float(np.clip(np.median(sigmas) / _SIGMA_ROTATION, *_UNCERTAINTY_LIMITS))
    return max(view.uncertainty for view in window.values())


def _check_agreement(overlaps: Mapping[int, _Overlap], reference_window: Sim3, config: AlignmentConfig) -> None:
    """Raise AlignmentRefused if a shared pose disagrees with the alignment by more than the settings allow."""
    for keyframe, o in overlaps.items():
        predicted = reference_window.apply_pose(o.window_camera)
        rotation_error = np.degrees(rotation_angle(o.reference_camera[:3, :3].T @ predicted[:3, :3]))
        depth = float(np.median(o.reference_points[:, 2]))
        center_error = float(np.linalg.norm(o.reference_camera[:3, 3] - predicted[:3, 3])) / depth
        if rotation_error > config.max_rotation:
            raise AlignmentRefused(f"keyframe {keyframe} is rotated by {rotation_error:.1f} deg against the map, more "
                                   f"than {config.max_rotation:.1f} (alignment.max_rotation)")
        if center_error > config.max_translation:
            raise AlignmentRefused(f"keyframe {keyframe} is off by {100 * center_error:.0f} % of its depth against the "
                                   f"map, more than {100 * config.max_translation:.0f} % (alignment.max_translation)")
