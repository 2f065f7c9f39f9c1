"""Keyframes of the window before are adjusted again with a window, so that the two do not drift apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.median import median
from vggt_ros.geometry.poses import Array, inverse
from vggt_ros.reconstruction.base import WindowGeometry

EARLIER = 5
"""Most keyframes that are added to a window."""
_MAX_PIXELS = 20_000
"""About so many pixels tell the ratio of two scales."""


@dataclass(frozen=True, eq=False)
class EarlierKeyframes:
    """Keyframes (k) of the window before in the frame and unit of a window; attributes as in `WindowGeometry`."""

    keyframe_ids: tuple[int, ...]
    window_camera: Array
    intrinsics: Array
    depth: NDArray[np.float32]


def earlier_keyframes(geometry: WindowGeometry, before: WindowGeometry) -> EarlierKeyframes | None:
    """Return the newest keyframes of the window before that a window does not have, in the frame of that window.

    They keep their poses relative to the oldest keyframe that both have; the scale between the two windows is the
    median ratio of the depths of those that both have. None if there are none, or if the sizes differ.
    """
    ids = geometry.keyframe_ids
    shared = [k for k in ids if k in before.keyframe_ids]
    rows = [row for row, k in enumerate(before.keyframe_ids) if k not in ids][-EARLIER:]
    if not shared or not rows or before.depth.shape[1:] != geometry.depth.shape[1:]:
        return None
    here, there = [ids.index(k) for k in shared], [before.keyframe_ids.index(k) for k in shared]
    depth, depth_before = geometry.depth[here].ravel(), before.depth[there].ravel()
    known = np.flatnonzero((depth > 0) & (depth_before > 0))
    if not len(known):
        return None
    known = known[::1 + len(known) // _MAX_PIXELS]
    scale = median(depth[known] / depth_before[known])
    before_camera = before.window_camera.copy()
    before_camera[:, :3, 3] *= scale
    window_before = geometry.window_camera[here[0]] @ inverse(before_camera[there[0]])
    return EarlierKeyframes(tuple(before.keyframe_ids[row] for row in rows), window_before @ before_camera[rows],
                            before.intrinsics[rows], before.depth[rows] * np.float32(scale))
