"""Windows in parts: a window too large to be solved at once is solved in parts that share keyframes, and joined."""

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


def split(window: Window, overlap: int, most: int) -> list[Window]:
    """Return windows of at most `most` keyframes, at least 2, that share `overlap` with the one before, or fewer if
    `most` leaves no other choice.
    """
    keyframes = window.keyframes
    shared = min(overlap, most - 1)
    firsts = range(0, max(len(keyframes) - shared, 1), most - shared) if len(keyframes) > most else (0,)
    return [Window(window.id, keyframes[first:first + most],
                   window.ids[first:first + shared] if first else window.shared) for first in firsts]


def smaller(count: int, overlap: int) -> int:
    """Return how many keyframes each of two parts has that share `overlap` and make up a window of `count`, above 2."""
    return (count + min(overlap, count - 2) + 1) // 2


def join(parts: Sequence[WindowGeometry], config: AlignmentConfig) -> WindowGeometry:
    """Return the parts of a window as one, in the unit and world of the first.

    Raises:
        ReconstructionRefused: two parts contradict each other.

    """
    return reduce(lambda first, second: _joined(first, second, config), parts)


def _joined(first: WindowGeometry, second: WindowGeometry, config: AlignmentConfig) -> WindowGeometry:
    try:
        first_second = align(_views(first), _views(second), config).reference_window
    except AlignmentRefused as refusal:
        raise ReconstructionRefused(f"the parts of the window do not fit each other: {refusal}") from refusal
    new = [row for row, keyframe in enumerate(second.keyframe_ids) if keyframe not in first.keyframe_ids]
    descriptors = None if first.descriptors is None or second.descriptors is None else \
        np.concatenate((first.descriptors, second.descriptors[new]))
    return replace(
        first,
        keyframe_ids=first.keyframe_ids + tuple(second.keyframe_ids[row] for row in new),
        window_camera=np.array([*first.window_camera, *(first_second.apply_pose(second.window_camera[row])
                                                        for row in new)]),
        intrinsics=np.concatenate((first.intrinsics, second.intrinsics[new])),
        depth=np.concatenate((first.depth, second.depth[new] * np.float32(first_second.scale))),
        confidence=np.concatenate((first.confidence, second.confidence[new])),
        descriptors=descriptors)


def _views(geometry: WindowGeometry) -> dict[int, View]:
    """Return keyframe id to what alignment compares; depth in medians, so that float16 holds any unit."""
    unit = float(np.nanmedian(geometry.depth))
    color = np.zeros((0, 0, 3), np.uint8)
    return {keyframe: View(geometry.window_camera[row], MapKeyframe(
        keyframe, 0, geometry.intrinsics[row], (geometry.depth[row] / unit).astype(np.float16),
        np.rint(255 * geometry.confidence[row]).astype(np.uint8), color), unit)
        for row, keyframe in enumerate(geometry.keyframe_ids)}
