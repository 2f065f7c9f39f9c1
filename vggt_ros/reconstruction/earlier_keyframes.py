"""Keyframes of the window before are adjusted again with a window, so that the two do not drift apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vggt_ros.geometry.poses import inverse
from vggt_ros.reconstruction.base import WindowGeometry

EARLIER = 5
"""Most keyframes that are added to a window."""


def append_earlier(geometry: WindowGeometry, before: WindowGeometry) -> WindowGeometry:
    """Return a window with the newest keyframes of the one before that it does not have, at the end.

    They keep their poses relative to the oldest keyframe that both have; the scale between the two windows is the
    median ratio of the depths of those that both have. If that is none, or the sizes differ, nothing is added.
    """
    ids = geometry.keyframe_ids
    shared = [k for k in ids if k in before.keyframe_ids]
    rows = [row for row, k in enumerate(before.keyframe_ids) if k not in ids][-EARLIER:]
    if not shared or not rows or before.depth.shape[1:] != geometry.depth.shape[1:]:
        return geometry
    here, there = [ids.index(k) for k in shared], [before.keyframe_ids.index(k) for k in shared]
    known = (geometry.depth[here] > 0) & (before.depth[there] > 0)
    if not known.any():
        return geometry
    scale = float(np.exp(np.median(np.log(geometry.depth[here][known] / before.depth[there][known]))))
    before_camera = before.window_camera.copy()
    before_camera[:, :3, 3] *= scale
    window_before = geometry.window_camera[here[0]] @ inverse(before_camera[there[0]])
    return replace(
        geometry, keyframe_ids=ids + tuple(before.keyframe_ids[row] for row in rows),
        window_camera=np.concatenate([geometry.window_camera, window_before @ before_camera[rows]]),
        intrinsics=np.concatenate([geometry.intrinsics, before.intrinsics[rows]]),
        depth=np.concatenate([geometry.depth, before.depth[rows] * np.float32(scale)]),
        confidence=np.concatenate([geometry.confidence, before.confidence[rows]]), descriptors=None)


def first_keyframes(geometry: WindowGeometry, count: int) -> WindowGeometry:
    """Return a window of the first keyframes of another one."""
    steps = geometry.step_covariance
    return replace(geometry, keyframe_ids=geometry.keyframe_ids[:count], window_camera=geometry.window_camera[:count],
                   intrinsics=geometry.intrinsics[:count], depth=geometry.depth[:count],
                   confidence=geometry.confidence[:count],
                   step_covariance=None if steps is None else steps[:count - 1])
