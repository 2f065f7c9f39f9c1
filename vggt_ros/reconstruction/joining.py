"""Splitting and joining of windows: one that is too large is solved in parts that share keyframes, which are joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import numpy as np

from vggt_ros.config import AlignmentConfig
from vggt_ros.reconstruction.base import ReconstructionRefused, WindowGeometry
from vggt_ros.windows.alignment import AlignmentRefused, View, align
from vggt_ros.windows.keyframe import Window
from vggt_ros.windows.solution import MapKeyframe


def split(window: Window, overlap: int, max_keyframes: int) -> list[Window]:
    """Return parts of a window, each of at most `max_keyframes` keyframes.

    Consecutive parts share `overlap` keyframes, or `max_keyframes - 1` if that is fewer. `max_keyframes` is at least 2.
    """
    keyframes = window.keyframes
    shared = min(overlap, max_keyframes - 1)
    firsts = range(0, max(len(keyframes) - shared, 1), max_keyframes - shared) \
        if len(keyframes) > max_keyframes else (0,)
    return [Window(window.id, keyframes[first:first + max_keyframes],
                   window.ids[first:first + shared] if first else window.shared) for first in firsts]


def part_size(count: int, overlap: int) -> int:
    """Return the size of each of two parts of a window of `count` (> 2) keyframes, if the parts share `overlap`."""
    return (count + min(overlap, count - 2) + 1) // 2


def join(parts: Sequence[WindowGeometry], config: AlignmentConfig) -> WindowGeometry:
    """Return the parts of a window joined into one, in the frame and scale of the first part.

    Raises:
        ReconstructionRefused: two consecutive parts are inconsistent.

    """
    return reduce(lambda first, second: _join_two(first, second, config), parts)


def _join_two(first: WindowGeometry, second: WindowGeometry, config: AlignmentConfig) -> WindowGeometry:
    try:
        first_second = align(_alignment_views(first), _alignment_views(second), config).reference_window
    except AlignmentRefused as refusal:
        raise ReconstructionRefused(f"the parts of the window are inconsistent: {refusal}") from refusal
    added = [row for row, keyframe in enumerate(second.keyframe_ids) if keyframe not in first.keyframe_ids]
    descriptors = None if first.descriptors is None or second.descriptors is None else \
        np.concatenate((first.descriptors, second.descriptors[added]))
    return replace(
        first,
        keyframe_ids=first.keyframe_ids + tuple(second.keyframe_ids[row] for row in added),
        window_camera=np.array([*first.window_camera, *(first_second.apply_pose(second.window_camera[row])
                                                        for row in added)]),
        intrinsics=np.concatenate((first.intrinsics, second.intrinsics[added])),
        depth=np.concatenate((first.depth, second.depth[added] * np.float32(first_second.scale))),
        confidence=np.concatenate((first.confidence, second.confidence[added])),
        descriptors=descriptors)


def _alignment_views(geometry: WindowGeometry) -> dict[int, View]:
    """Return the views to align by keyframe id; depth is divided by its median, so that float16 can hold any scale."""
    median_depth = float(np.nanmedian(geometry.depth))
    color = np.zeros((0, 0, 3), np.uint8)
    return {keyframe: View(geometry.window_camera[row], MapKeyframe(
        keyframe, 0, geometry.intrinsics[row], (geometry.depth[row] / median_depth).astype(np.float16),
        np.rint(255 * geometry.confidence[row]).astype(np.uint8), color), median_depth)
        for row, keyframe in enumerate(geometry.keyframe_ids)}
