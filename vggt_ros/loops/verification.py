"""Geometric verification of loop candidates: first by features and depth, then by a joint reconstruction.

Similar appearance does not make two keyframes views of the same place. Their features must agree on one pose, by the
depth of either keyframe. The reconstructor must then solve a window of keyframes around both. That window must align
with the map on both sides, in pose, depth and scale, its pose must agree with that by the features, and the depth of
one keyframe must agree with that of the other.

How well they must agree depends on the drift that the loop is to correct: where the graph expects much, a measurement
that is less exact is worth having, and what it disagrees by becomes part of its covariance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import AlignmentConfig
from vggt_ros.features.appearance import Features, match
from vggt_ros.features.landmarks import landmarks
from vggt_ros.features.tracks import threshold_scale
from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.geometry.pnp import pnp_ransac
from vggt_ros.geometry.poses import Array, Sim3, inverse, rotation_angle, so3_log
from vggt_ros.pose_graph.plausibility import Drift
from vggt_ros.pose_graph.relative_poses import LoopMeasurement, loop_relative_pose, relative_poses
from vggt_ros.windows.alignment import Alignment, AlignmentRefused, View, align
from vggt_ros.windows.solution import MapKeyframe

_MAX_REPROJECTION_ERROR = 4.0
"""Largest reprojection error of an inlier, px at 640 px."""
_MAX_LOG_DEPTH_RATIO = 0.15
"""Largest difference of the logarithms of two depths that agree."""
_MIN_DEPTH_AGREEMENT = 0.5
"""Least fraction of the pixels seen by both keyframes whose depths agree."""
_MIN_DEPTH_OVERLAP = 0.1
"""Least fraction of the older keyframe's pixels that the newer one sees."""
_MOST_LENIENT = 3.0
"""Factor on the limits of an alignment that no drift exceeds."""
_VIEW_AGAIN = "show the place again, slowly and from where it was seen before"


class LoopRejected(Exception):
    """Verification rejected a loop candidate; the text is the reason."""


@dataclass(frozen=True, eq=False)
class TwoViewGeometry:
    """The relative pose of two keyframes by their features.

    Attributes:
        inliers: how many features agree on it.
        older_newer: 4x4, in the unit of the window that placed the older one.
        older_pixels, newer_pixels: (n, 2), x and y of the matches in the depth images of the keyframes.

    """

    inliers: int
    older_newer: Array
    older_pixels: Array = field(default_factory=lambda: np.zeros((0, 2)))
    newer_pixels: Array = field(default_factory=lambda: np.zeros((0, 2)))


def two_view_geometry(older: MapKeyframe, older_features: Features, newer: MapKeyframe, newer_features: Features,
                      min_matches: int) -> TwoViewGeometry | None:
    """Return the relative pose of two keyframes by their features, or None if it has fewer than `min_matches` inliers.

    It is estimated in both directions, by the depth of the one and of the other, and both rotations have to agree.
    """
    rows, columns = match(older_features, newer_features)
    if len(rows) < min_matches:
        return None
    pixels = (older_features.pixels(older.depth.shape[::-1])[rows],
              newer_features.pixels(newer.depth.shape[::-1])[columns])
    points = [landmarks(keyframe, np.eye(4), 1.0, at) for keyframe, at in zip((older, newer), pixels, strict=True)]
    if min(int(np.isfinite(of_one[:, 2]).sum()) for of_one in points) < min_matches:  # too few with depth
        return None
    found = []
    for of_source, target, target_pixels in ((points[0], newer, pixels[1]), (points[1], older, pixels[0])):
        estimate = _pose_by_points(of_source, target, target_pixels, min_matches)
        if estimate is None:
            return None
        found.append(estimate)
    (older_newer, first), (newer_older, second) = found
    if rotation_angle(older_newer[:3, :3] @ newer_older[:3, :3]) > np.radians(5):
        return None
    return TwoViewGeometry(min(len(first), len(second)), older_newer, *pixels)


def _pose_by_features(source: MapKeyframe, target: MapKeyframe, source_pixels: Array,
                      target_pixels: Array) -> tuple[Array, NDArray[np.int64]] | None:
    """Return the pose `source_target` 4x4 by matches (n, 2), the depth of the source, and the intrinsics of the target.

    With it come the indices of its inliers among the matches with depth. None if there is no pose.
    """
    return _pose_by_points(landmarks(source, np.eye(4), 1.0, source_pixels), target, target_pixels)


def _pose_by_points(points: Array, target: MapKeyframe, target_pixels: Array,
                    least: int = 6) -> tuple[Array, NDArray[np.int64]] | None:
    """Return the same by the points (n, 3) in the frame of the source, NaN where their depth is not known.

    None also with fewer than `least` inliers.
    """
    known = np.isfinite(points[:, 2])
    limit = _MAX_REPROJECTION_ERROR * threshold_scale(target.depth.shape)
    return pnp_ransac(points[known], target_pixels[known], target.intrinsics, limit, least)


def lenient(config: AlignmentConfig, drift: Drift | None, depth: float) -> AlignmentConfig:
    """Return the limits of an alignment, larger by the drift to expect, up to `_MOST_LENIENT` times as large.

    `depth` is the median depth of the keyframe in whose units the drift is. Without a drift, between submaps that
    nothing connects, the limits stay: there the trajectory cannot tell a false loop.
    """
    if drift is None or not depth > 0:
        return config

    def grown(limit: float, by: float) -> float:
        return min(limit + by, _MOST_LENIENT * limit)

    return replace(config, max_rotation=grown(config.max_rotation, float(np.degrees(drift.rotation))),
                   max_translation=grown(config.max_translation, drift.translation / depth),
                   max_scale=grown(config.max_scale, drift.log_scale))


def verify_loop(older: Mapping[int, View], newer: Mapping[int, View], joint: Mapping[int, View],
                two_view: TwoViewGeometry, pair: tuple[int, int], config: AlignmentConfig,
                drift: Drift | None = None) -> LoopMeasurement:
    """Return the relative pose of two keyframes by a joint reconstruction that aligns with the map around both.

    Args:
        older, newer: keyframe id to its view in the map, in the frame and units of the older or newer keyframe of
            `pair`.
        joint: keyframe id to its view in the joint reconstruction.
        two_view: the relative pose by the features.
        pair: ids of the older and the newer keyframe.
        config: limits of an alignment.
        drift: to expect between the two, in units of the older keyframe; None if nothing is known of it.

    Raises:
        LoopRejected: the alignment fails on a side, or features or depth contradict the result.

    """
    limits = lenient(config, drift, older[pair[0]].keyframe.median_depth)
    sides: list[tuple[Mapping[int, View], Alignment]] = []
    for name, known, keyframe in (("older", older, pair[0]), ("newer", newer, pair[1])):
        try:
            alignment = align(known, joint, limits)
        except AlignmentRefused as refusal:
            raise LoopRejected(f"the joint reconstruction does not align with the {name} place: {refusal}; "
                               f"{_VIEW_AGAIN}") from refusal
        if len(alignment.shared) < 2:
            raise LoopRejected(f"only one keyframe of the {name} place was reconstructed; {_VIEW_AGAIN}")
        if keyframe not in joint:
            raise LoopRejected(f"the {name} keyframe itself was not reconstructed; {_VIEW_AGAIN}")
        sides.append((known, alignment))
    first_second, covariance = loop_relative_pose(joint, pair, sides)
    disagreement = _check_features(joint[pair[0]], joint[pair[1]], two_view, config, limits)
    disagreement[3:] *= sides[1][1].reference_window.scale / newer[pair[1]].scale  # to units of the newer keyframe
    _check_depth(older[pair[0]], newer[pair[1]], first_second, limits.max_scale / config.max_scale)
    between = [relative for known, alignment in sides for relative in
               relative_poses({k: joint[k] for k in sorted(known.keys() & joint.keys())}, known, alignment)]
    covariance[:6, :6] += np.outer(disagreement, disagreement)
    return LoopMeasurement(first_second, covariance, tuple(between))


def _check_features(older: View, newer: View, two_view: TwoViewGeometry, config: AlignmentConfig,
                    limits: AlignmentConfig) -> Array:
    """Return by how much features disagree with the relative pose of two keyframes in a joint reconstruction (6,).

    It is a perturbation of the newer keyframe's pose, [rotation, translation], and zero within `config`. The depth and
    the focal length of the joint reconstruction are used: those of the map come from two other windows, and a focal
    length that differs between these moves the pose by the features along the optical axis.

    Raises LoopRejected if they disagree by more than `limits`.
    """
    found = _pose_by_features(older.keyframe, newer.keyframe, two_view.older_pixels, two_view.newer_pixels)
    if found is None:
        raise LoopRejected(f"the features have no pose by the depth of the joint reconstruction; {_VIEW_AGAIN}")
    difference = inverse(inverse(older.camera) @ newer.camera) @ found[0]
    turn = float(np.degrees(rotation_angle(difference[:3, :3])))
    if turn > limits.max_rotation:
        raise LoopRejected(f"the rotation by the features differs by {turn:.1f} deg from that of the joint "
                           f"reconstruction, more than {limits.max_rotation:.1f}, which drift does not explain; "
                           f"{_VIEW_AGAIN}")
    shift = float(np.linalg.norm(difference[:3, 3])) / older.keyframe.median_depth
    if shift > limits.max_translation:
        raise LoopRejected(f"the position by the features differs by {100 * shift:.0f} % of the depth from that of the "
                           f"joint reconstruction, more than {100 * limits.max_translation:.0f} %, which drift does "
                           f"not explain; {_VIEW_AGAIN}")
    if turn <= config.max_rotation and shift <= config.max_translation:
        return np.zeros(6)
    return np.concatenate([so3_log(difference[:3, :3]), difference[:3, 3]])


def _check_depth(older: View, newer: View, first_second: Sim3, leniency: float) -> None:
    """Raise LoopRejected if the depths of two keyframes in the map contradict their relative pose."""
    older_newer = inverse(older.camera) @ first_second.apply_pose(newer.camera)
    agreement, overlap = depth_agreement(older.keyframe, newer.keyframe, older_newer, first_second.scale,
                                         _MAX_LOG_DEPTH_RATIO * leniency)
    if overlap < _MIN_DEPTH_OVERLAP:
        raise LoopRejected(f"the newer keyframe sees only {100 * overlap:.0f} % of the depth of the older one, less "
                           f"than {100 * _MIN_DEPTH_OVERLAP:.0f} %; {_VIEW_AGAIN}")
    if agreement < _MIN_DEPTH_AGREEMENT:
        raise LoopRejected(f"the depths agree in only {100 * agreement:.0f} % of the pixels that both keyframes see, "
                           f"less than {100 * _MIN_DEPTH_AGREEMENT:.0f} %: it may be another place that looks alike")


def depth_agreement(older: MapKeyframe, newer: MapKeyframe, older_newer: Array, scale: float,
                    tolerance: float = _MAX_LOG_DEPTH_RATIO) -> tuple[float, float]:
    """Return in which fraction of the depth that both keyframes see they agree, and its share of the older's pixels.

    `older_newer` 4x4 is in units of the older keyframe's depth, of which `scale` are one unit of the newer's;
    `tolerance` is of the logarithm of the ratio of two depths.
    """
    depth = older.depth.astype(np.float64)[::2, ::2]
    rows, columns = np.nonzero(depth > 0)
    rays = pixel_rays(older.intrinsics, 2 * columns, 2 * rows)
    newer_older = inverse(older_newer)
    points = (rays * depth[rows, columns, None]) @ newer_older[:3, :3].T + newer_older[:3, 3]
    points = points[points[:, 2] > 1e-6]
    pixels = np.rint((points @ newer.intrinsics.T)[:, :2] / points[:, 2:]).astype(int)
    height, width = newer.depth.shape
    inside = (pixels >= 0).all(1) & (pixels < (width, height)).all(1)
    seen = newer.depth[pixels[inside, 1], pixels[inside, 0]].astype(np.float64) * scale
    known = seen > 0
    if not known.any():
        return 0.0, 0.0
    difference = np.abs(np.log(points[inside][known, 2] / seen[known]))
    return float(np.mean(difference < tolerance)), float(known.sum() / max(len(rows), 1))
