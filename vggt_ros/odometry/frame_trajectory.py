"""The way of every image, hung between the solved keyframes around it.

An image is tracked before the keyframes around it are solved, on landmarks that are corrected later. From keyframe to
keyframe the tracked motion is good; so each image is placed by that motion from the keyframe before it, and from the
one after it, and takes of both what is nearer in time. A solved keyframe has its place also where tracking was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, inverse, pose, so3_exp, so3_log
from vggt_ros.windows.solution import Solution, TrackedFrame


def frame_trajectory(frames: Sequence[TrackedFrame], solution: Solution, submap: int,
               moved: Callable[[TrackedFrame], Array | None]) -> tuple[NDArray[np.int64], Array]:
    """Return stamps (n,) and poses (n, 4, 4) of the images located in a submap, as the map holds them now.

    `moved` gives an image's pose by the keyframe that it was located against alone: for images without a keyframe on
    either side in one uninterrupted stretch of tracking.
    """
    solved = {frame.stamp: solution.map_camera[row] for frame in frames if frame.keyframe is not None
              and (row := solution.index(frame.keyframe)) is not None and solution.submaps[row] == submap}
    placed = solved.copy()
    for stretch in _stretches(frames):
        fixed = [(index, solved[frame.stamp]) for index, frame in enumerate(stretch) if frame.stamp in solved]
        after = np.searchsorted([index for index, _ in fixed], np.arange(len(stretch)))
        for index, frame in enumerate(stretch):
            row = None if frame.reference is None else solution.index(frame.reference)
            if row is None or solution.submaps[row] != submap or frame.stamp in solved:
                continue
            around = [fixed[k] for k in (after[index] - 1, after[index]) if 0 <= k < len(fixed)]
            found = _between(stretch, index, *around) if len(around) == 2 else moved(frame)
            if found is not None:
                placed[frame.stamp] = found
    stamps = sorted(placed)
    return np.array(stamps, np.int64), np.array([placed[stamp] for stamp in stamps]).reshape(-1, 4, 4)


def _stretches(frames: Sequence[TrackedFrame]) -> list[list[TrackedFrame]]:
    """Return the images that were tracked one after the other, without one lost between them."""
    stretches: list[list[TrackedFrame]] = [[]]
    for frame in frames:
        if frame.odom_camera is not None:
            stretches[-1].append(frame)
        elif stretches[-1]:
            stretches.append([])
    return stretches


def _between(stretch: Sequence[TrackedFrame], index: int, before: tuple[int, Array],
             after: tuple[int, Array]) -> Array:
    """Return where an image was, from the solved poses of two around it and the odometry from each to it."""
    ways = []
    for row, map_camera in (before, after):
        odom_from, odom_to = stretch[row].odom_camera, stretch[index].odom_camera
        assert odom_from is not None and odom_to is not None
        ways.append(map_camera @ inverse(odom_from) @ odom_to)
    begin, end = stretch[before[0]].stamp, stretch[after[0]].stamp
    share = (stretch[index].stamp - begin) / max(end - begin, 1)
    turn = so3_log(ways[0][:3, :3].T @ ways[1][:3, :3])
    return pose(ways[0][:3, :3] @ so3_exp(share * turn), (1 - share) * ways[0][:3, 3] + share * ways[1][:3, 3])
