"""One window against what is known of its keyframes: a similarity with a covariance, or a refusal.

A shared keyframe is seen by both sides through the same pixels, hence along the same rays. Scale is the median ratio
of its two depths: symmetric in its noise, where a least-squares scale is biased towards small values. With the scale
fixed, rotation and translation come from the shared poses and from points of the shared depth together, because camera
centers alone do not determine a rotation about the line on which they lie.
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
    robust_sigma,
    rotation_angle,
    skew,
    so3_exp,
    so3_log,
)
from vggt_ros.geometry.sim3 import rotation_vectors, skews
from vggt_ros.windows.solution import MapKeyframe

_SAMPLES = 300
"""Points of a shared keyframe that take part; more add nothing, their errors are alike."""
_INDEPENDENT = 30
"""How many independent errors the depth of one keyframe is taken to hold: errors of neighboring pixels are alike."""
_SIGMA_ROTATION, _SIGMA_CENTER, _SIGMA_POINT = 0.002, 0.004, 0.03
"""Prior errors of a shared pose (radians; fraction of the depth) and of a point (fraction of its depth): the relative
weights of the three kinds of evidence; the covariance is scaled by what is actually seen."""
_REMEASURED = 1.0
"""By how much the unit of a window may be another one than supposed, logarithm: sources of meters may yet change it."""


class AlignmentRefused(Exception):
    """The overlap does not determine the window's place, or contradicts itself; the text says which."""


@dataclass(frozen=True, eq=False)
class View:
    """A keyframe as one side sees it: camera pose 4x4 and depth (h, w), NaN where unknown, in that side's units."""

    camera: Array
    keyframe: MapKeyframe
    scale: float = 1.0
    """Units of this side in a unit of `kept.depth`."""

    def depth(self) -> NDArray[np.float32]:
        """Return the depth (h, w) in this side's units."""
        return self.keyframe.depth.astype(np.float32) * np.float32(self.scale)


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where a window lies.

    Attributes:
        reference_window: the similarity.
        covariance: float64 (7, 7) of its perturbation on the right, [rotation, translation, log scale], in the
            window's frame and units (radians, window units, natural logarithm).
        shared: ids of the keyframes behind it.
        depth: median depth of their points, window units.

    """

    reference_window: Sim3
    covariance: Array
    shared: tuple[int, ...]
    depth: float


@dataclass(frozen=True, eq=False)
class _Overlap:
    """A shared keyframe: both poses, and common points (n, 3) in both cameras with their weights (n,)."""

    reference_camera: Array
    window_camera: Array
    reference_points: Array
    window_points: Array
    weights: Array
    log_ratio: Array


def align(reference: Mapping[int, View], window: Mapping[int, View], config: AlignmentConfig) -> Alignment:
    """Return where `window` lies in the frame of `reference`; both are keyframe id to View.

    Raises:
        AlignmentRefused: no shared keyframe, too little common depth, or shared keyframes that contradict each other.

    """
    shared = tuple(sorted(reference.keys() & window.keys()))
    if not shared:
        raise AlignmentRefused("no keyframe of the window is known")
    overlaps = {k: overlap for k in shared
                if (overlap := _common_points(reference[k], window[k], config.min_pixels)) is not None}
    if not overlaps:
        raise AlignmentRefused(f"no shared keyframe has {config.min_pixels} pixels of depth on both sides "
                               f"({len(shared)} shared)")
    ratios = np.concatenate([overlap.log_ratio for overlap in overlaps.values()])
    log_scale, scatter = float(np.median(ratios)), robust_sigma(ratios)
    if scatter > config.max_scale:
        raise AlignmentRefused(f"the depths of the shared keyframes differ by {100 * scatter:.0f} % after the best "
                               f"scale, more than {100 * config.max_scale:.0f} %")
    medians = np.array([np.median(overlap.log_ratio) for overlap in overlaps.values()])
    variance_scale = (scatter**2 / _INDEPENDENT + float(np.mean((medians - log_scale) ** 2)) + 1e-6) / len(overlaps)
    found = _solve(list(overlaps.values()), float(np.exp(log_scale)))
    _check_agreement(overlaps, found, config)
    return Alignment(found, _covariance(list(overlaps.values()), found, variance_scale), tuple(overlaps),
                     float(np.median([np.median(overlap.window_points[:, 2]) for overlap in overlaps.values()])))


def guess_alignment(reference: Mapping[int, View], window: Mapping[int, View], config: AlignmentConfig
            ) -> tuple[int, Sim3, Array] | None:
    """Return where a window may lie of which `align` refused to say it, or None if no keyframe of it is known.

    A keyframe that both sides know is one camera, whatever else they say: the place is that by the first such one with
    depth, and how far it may be off is what `config` has as limits. Returned are the keyframe's id, `reference_window`,
    and the covariance (7, 7) as in `Alignment`.
    """
    depths = {
        k: (reference[k].keyframe.median_depth * reference[k].scale, window[k].keyframe.median_depth * window[k].scale)
        for k in window
        if k in reference
    }
    shared = next((k for k, both in depths.items() if np.isfinite(both).all()), None)
    if shared is None:
        return None
    known, own, (there, depth) = reference[shared], window[shared], depths[shared]
    found = Sim3.from_pose(known.camera, there / depth)
    sigmas = np.array([np.radians(config.max_rotation)] * 3 + [config.max_translation * depth] * 3 + [_REMEASURED])
    return shared, found @ Sim3.from_pose(own.camera).inverse(), np.diag(sigmas**2)


def _common_points(reference: View, window: View, min_pixels: int) -> _Overlap | None:
    """Return points that both sides know, or None if there are fewer than `min_pixels`."""
    depth_reference, depth_window = reference.depth(), window.depth()
    if depth_reference.shape != depth_window.shape:
        raise ValueError(f"depth of keyframe {reference.keyframe.id}: {depth_reference.shape} and {depth_window.shape}")
    known = (depth_reference > 0) & (depth_window > 0)
    if known.sum() < min_pixels:
        return None
    weights = np.minimum(reference.keyframe.confidence, window.keyframe.confidence).astype(np.float32) / 255
    known &= weights >= np.median(weights[known])
    rows, columns = np.nonzero(known)
    log_ratio = np.log(depth_reference[known].astype(np.float64) / depth_window[known])
    chosen = np.linspace(0, len(rows) - 1, min(_SAMPLES, len(rows))).astype(int)
    rows, columns = rows[chosen], columns[chosen]
    rays = pixel_rays(window.keyframe.intrinsics, columns, rows)
    return _Overlap(reference.camera, window.camera, rays * depth_reference[rows, columns, None],
                    rays * depth_window[rows, columns, None], weights[rows, columns].astype(np.float64), log_ratio)


def _solve(overlaps: list[_Overlap], scale: float) -> Sim3:
    """Return the similarity of a given scale by robust Gauss-Newton.

    The residuals, each over its prior sigma, are those of the shared rotations, centers and points. The perturbation
    is on the right: [rotation, translation] in the window's frame and units.
    """
    cameras = np.array([o.window_camera for o in overlaps])
    known = np.array([o.reference_camera for o in overlaps])
    depths = np.array([np.median(o.reference_points[:, 2]) for o in overlaps])
    # Centers and points: both are points of the window that should meet their twins.
    source = np.concatenate([cameras[:, :3, 3], *(o.window_points @ o.window_camera[:3, :3].T + o.window_camera[:3, 3]
                                                  for o in overlaps)])
    target = np.concatenate([known[:, :3, 3], *(o.reference_points @ o.reference_camera[:3, :3].T
                                                + o.reference_camera[:3, 3] for o in overlaps)])
    sigma = np.concatenate([_SIGMA_CENTER * depths, *(_SIGMA_POINT * o.reference_points[:, 2] for o in overlaps)])
    share = np.concatenate([np.ones(len(overlaps)), *(o.weights * (_INDEPENDENT / o.weights.sum()) for o in overlaps)])
    levers = skews(source)
    turned = np.swapaxes(cameras[:, :3, :3], 1, 2) / _SIGMA_ROTATION
    jacobian = np.empty((len(source), 3, 6))
    rotation = mean_rotation(known[:, :3, :3] @ np.swapaxes(cameras[:, :3, :3], 1, 2))
    translation = np.mean(known[:, :3, 3] - scale * cameras[:, :3, 3] @ rotation.T, axis=0)
    for _ in range(10):
        # Rotation: Log(R_reference' R R_window).
        turns = rotation_vectors(np.swapaxes(known[:, :3, :3], 1, 2) @ rotation @ cameras[:, :3, :3]) / _SIGMA_ROTATION
        weight = 1 / (1 + (turns**2).sum(1) / 9.0) ** 2  # Geman-McClure at 3 sigma
        information, gradient = np.zeros((6, 6)), np.zeros(6)
        information[:3, :3] = np.einsum("n,nki,nkj->ij", weight, turned, turned)
        gradient[:3] = np.einsum("n,nki,nk->i", weight, turned, turns)
        shifts = (scale * source @ rotation.T + translation - target) / sigma[:, None]
        weight = share / (1 + (shifts**2).sum(1) / 9.0) ** 2
        jacobian[:, :, :3] = -(scale / sigma)[:, None, None] * (rotation @ levers)
        jacobian[:, :, 3:] = (scale / sigma)[:, None, None] * rotation
        weighted = (weight[:, None, None] * jacobian).reshape(-1, 6).T
        information += weighted @ jacobian.reshape(-1, 6)
        gradient += weighted @ shifts.ravel()
        step = np.asarray(-np.linalg.solve(information, gradient), np.float64)
        translation = translation + scale * rotation @ step[3:]
        rotation = orthonormalize(rotation @ so3_exp(step[:3]))
        if np.abs(step).max() < 1e-7:
            break
    return Sim3(scale, rotation, translation)


def _covariance(overlaps: list[_Overlap], found: Sim3, variance_scale: float) -> Array:
    """Return the covariance (7, 7) of an alignment.

    All points of a keyframe share the error of its pose, so the shared poses are what is independent, not the points.
    The level of their errors is the prior one, corrected by how far they disagree.
    """
    information, squares = np.zeros((6, 6)), 0.0
    for o in overlaps:
        placed = found.apply_pose(o.window_camera)
        sigma_center = _SIGMA_CENTER * float(np.median(o.window_points[:, 2]))
        turn = so3_log(o.reference_camera[:3, :3].T @ placed[:3, :3]) / _SIGMA_ROTATION
        shift = (o.reference_camera[:3, 3] - placed[:3, 3]) / (found.scale * sigma_center)
        squares += float(turn @ turn + shift @ shift)
        center = np.hstack([-skew(o.window_camera[:3, 3]), np.eye(3)]) / sigma_center
        information[:3, :3] += np.eye(3) / _SIGMA_ROTATION**2
        information += center.T @ center
    covariance = np.zeros((7, 7))
    covariance[:6, :6] = np.linalg.inv(information) * (6 + squares) / (6 * len(overlaps))
    covariance[6, 6] = variance_scale
    # An error of scale moves the cameras against the center of the points about which the scale was taken: there, scale
    # and translation are independent.
    lever = np.eye(7)
    lever[3:6, 6] = -np.mean([o.window_camera[:3, :3] @ np.median(o.window_points, axis=0) + o.window_camera[:3, 3]
                              for o in overlaps], axis=0)
    return lever @ covariance @ lever.T


def _check_agreement(overlaps: Mapping[int, _Overlap], found: Sim3, config: AlignmentConfig) -> None:
    """Refuse an alignment from which a shared pose is farther than the settings allow."""
    for keyframe, o in overlaps.items():
        placed = found.apply_pose(o.window_camera)
        turn = np.degrees(rotation_angle(o.reference_camera[:3, :3].T @ placed[:3, :3]))
        depth = float(np.median(o.reference_points[:, 2]))
        shift = float(np.linalg.norm(o.reference_camera[:3, 3] - placed[:3, 3])) / depth
        if turn > config.max_rotation:
            raise AlignmentRefused(f"keyframe {keyframe} is turned by {turn:.1f} deg against the map, more than "
                                   f"{config.max_rotation:.1f}")
        if shift > config.max_translation:
            raise AlignmentRefused(f"keyframe {keyframe} is off by {100 * shift:.0f} % of its depth against the map, "
                                   f"more than {100 * config.max_translation:.0f} %")
