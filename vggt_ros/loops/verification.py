"""Do two keyframes show the same place? First by their features and depth, then by reconstructing both together.

What looks alike is not the same place yet. Features must agree on one pose by the depth of either keyframe; the same
reconstructor as everywhere must be able to solve a window of keyframes around both; that window must fit to the map on
both sides, in pose, depth and scale, say the same as the features do, and put the depth of one keyframe on that of the
other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vggt_ros.config import AlignmentConfig
from vggt_ros.features.appearance import Features, match
from vggt_ros.features.landmarks import landmarks
from vggt_ros.features.tracks import REFERENCE_WIDTH
from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.geometry.pnp import pnp_ransac
from vggt_ros.geometry.poses import Array, Sim3, inverse, rotation_angle
from vggt_ros.pose_graph.relative_poses import LoopMeasurement, loop_relative_pose, relative_poses
from vggt_ros.windows.alignment import Alignment, AlignmentRefused, View, align
from vggt_ros.windows.solution import MapKeyframe

_INLIER = 4.0
"""Largest reprojection error of a match, px at 640 px width."""
_ALIKE = 0.15
"""Largest difference of the logarithms of two depths that agree."""
_MIN_ALIKE = 0.5
"""Least fraction of the pixels that both keyframes see whose depths agree."""
_MIN_SEEN = 0.1
"""Least fraction of one keyframe's pixels that the other one sees."""


class LoopRefused(Exception):
    """Two keyframes do not show the same place as far as can be told; the text says why."""


@dataclass(frozen=True, eq=False)
class TwoViewGeometry:
    """The same place in two keyframes by their features: how many agree, and the pose `older_newer` 4x4.

    The unit is that of the window that placed the older one.
    """

    inliers: int
    older_newer: Array


def two_view_geometry(older: MapKeyframe, older_features: Features, newer: MapKeyframe, newer_features: Features,
          min_matches: int) -> TwoViewGeometry | None:
    """Return how two keyframes lie to each other by their features, or None if fewer than `min_matches` agree.

    Asked both ways, by the depth of the one and of the other, which have to agree.
    """
    rows, columns = match(older_features, newer_features)
    if len(rows) < min_matches:
        return None
    pixels = (older_features.pixels(older.depth.shape[::-1])[rows],
              newer_features.pixels(newer.depth.shape[::-1])[columns])
    found = []
    for here, there, at, seen_at in ((older, newer, *pixels), (newer, older, *pixels[::-1])):
        points = landmarks(here, np.eye(4), 1.0, at)
        known = np.isfinite(points[:, 2])
        limit = _INLIER * there.depth.shape[1] / REFERENCE_WIDTH
        agreed = pnp_ransac(points[known], seen_at[known], there.intrinsics, limit)
        if agreed is None or len(agreed[1]) < min_matches:
            return None
        found.append(agreed)
    (older_newer, first), (newer_older, second) = found
    if rotation_angle(older_newer[:3, :3] @ newer_older[:3, :3]) > np.radians(5):
        return None
    return TwoViewGeometry(min(len(first), len(second)), older_newer)


def verify_loop(older: Mapping[int, View], newer: Mapping[int, View], joint: Mapping[int, View], seen: TwoViewGeometry,
           pair: tuple[int, int], config: AlignmentConfig) -> LoopMeasurement:
    """Return how two keyframes lie to each other, by a joint reconstruction that must fit to the map around both.

    Args:
        older, newer: keyframe id to what the map knows of it, in the frame and units of the older or newer keyframe of
            `pair`.
        joint: keyframe id to what the joint reconstruction says.
        seen: what the features say.
        pair: ids of the older and the newer keyframe.
        config: when an overlap is believed.

    Raises:
        LoopRefused: it does not fit, or not all of it says the same.

    """
    sides: list[tuple[Mapping[int, View], Alignment]] = []
    for name, known, keyframe in (("older", older, pair[0]), ("newer", newer, pair[1])):
        try:
            side = align(known, joint, config)
        except AlignmentRefused as refusal:
            raise LoopRefused(f"the {name} place: {refusal}") from refusal
        if len(side.shared) < 2:
            raise LoopRefused(f"the {name} place: a single keyframe of it was reconstructed")
        if keyframe not in joint:
            raise LoopRefused(f"the {name} place: the keyframe itself was not reconstructed")
        sides.append((known, side))
    first_second, covariance = loop_relative_pose(joint, pair, sides)
    _check(older[pair[0]], newer[pair[1]], first_second, seen, config)
    between = [step for known, side in sides
               for step in relative_poses({k: joint[k] for k in sorted(known.keys() & joint.keys())}, known, side)]
    return LoopMeasurement(first_second, covariance, tuple(between))


def _check(older: View, newer: View, first_second: Sim3, seen: TwoViewGeometry, config: AlignmentConfig) -> None:
    """Refuse a relation that features or depth contradict."""
    older_newer = inverse(older.camera) @ first_second.apply_pose(newer.camera)
    turn = np.degrees(rotation_angle(older_newer[:3, :3].T @ seen.older_newer[:3, :3]))
    if turn > config.max_rotation:
        raise LoopRefused(f"the features see the other place turned by {turn:.1f} deg more")
    shift = float(np.linalg.norm(older_newer[:3, 3] - seen.older_newer[:3, 3])) / older.keyframe.median_depth
    if shift > config.max_translation:
        raise LoopRefused(f"the features see the other place {100 * shift:.0f} % of its depth elsewhere")
    alike, common = depth_agreement(older.keyframe, newer.keyframe, older_newer, first_second.scale)
    if common < _MIN_SEEN:
        raise LoopRefused(f"the two places have only {100 * common:.0f} % of their depth in common")
    if alike < _MIN_ALIKE:
        raise LoopRefused(f"only {100 * alike:.0f} % of the depth that both places see agrees")


def depth_agreement(older: MapKeyframe, newer: MapKeyframe, older_newer: Array, scale: float) -> tuple[float, float]:
    """Return which fraction of the depth that both keyframes see agrees, and how much of the older one that is.

    `older_newer` 4x4 is in units of the older keyframe's depth, of which `scale` are one unit of the newer's.
    """
    depth = older.depth.astype(np.float64)[::2, ::2]
    rows, columns = np.nonzero(depth > 0)
    rays = pixel_rays(older.intrinsics, 2 * columns, 2 * rows)
    camera = inverse(older_newer)
    points = (rays * depth[rows, columns, None]) @ camera[:3, :3].T + camera[:3, 3]
    points = points[points[:, 2] > 1e-6]
    at = np.rint((points @ newer.intrinsics.T)[:, :2] / points[:, 2:]).astype(int)
    height, width = newer.depth.shape
    inside = (at >= 0).all(1) & (at < (width, height)).all(1)
    there = newer.depth[at[inside, 1], at[inside, 0]].astype(np.float64) * scale
    known = there > 0
    if not known.any():
        return 0.0, 0.0
    off = np.abs(np.log(points[inside][known, 2] / there[known]))
    return float(np.mean(off < _ALIKE)), float(known.sum() / max(len(rows), 1))
