"""The trajectory of all images, interpolated between the solved keyframes by the tracked motion.

An image is tracked before the keyframes around it are solved, on landmarks that are corrected later. Between two
keyframes the tracked motion is accurate. Each image is therefore predicted by this motion from the solved keyframe
before it and from the one after it, and the two predictions are interpolated in time. A solved keyframe has its solved
pose even where tracking was lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, inverse, pose, so3_exp, so3_log
from vggt_ros.windows.frame import TrackedFrame
from vggt_ros.windows.solution import Solution


def frame_trajectory(frames: Sequence[TrackedFrame], solution: Solution,
                     submap: int) -> tuple[NDArray[np.int64], Array]:
    """Return stamps (n,), rising, and poses (n, 4, 4) of the images located in a submap, by the newest solution.

    Images that do not have solved keyframes on both sides within one uninterrupted segment of tracking have the pose by
    their reference keyframe alone. Of two images with the same stamp, after a jump of time, the later one is taken.
    """
    solved = {index: solution.map_camera[row] for index, frame in enumerate(frames) if frame.keyframe is not None
              and (row := solution.index(frame.keyframe)) is not None and solution.submaps[row] == submap}
    poses = {index: map_camera for index, frame in enumerate(frames)
             if frame.odom_camera is None and _is_in(frame, solution, submap)
             and (map_camera := pose_by_reference(frame, solution)) is not None} | solved
    for segment in _tracked_segments(frames):
        known = [index for index in segment if index in solved]
        for index, after in zip(segment, np.searchsorted(known, segment).tolist(), strict=True):
            if not _is_in(frames[index], solution, submap) or index in solved:
                continue
            neighbors = [(known[k], solved[known[k]]) for k in (after - 1, after) if 0 <= k < len(known)]
            map_camera = _interpolate(frames, index, *neighbors) if len(neighbors) == 2 else pose_by_reference(
                frames[index], solution)
            if map_camera is not None:
                poses[index] = map_camera
    order = sorted(poses)
    stamps = np.array([frames[index].stamp for index in order], np.int64)
    return in_time(stamps, np.array([poses[index] for index in order]).reshape(-1, 4, 4))


def in_time(stamps: NDArray[np.int64], poses: Array) -> tuple[NDArray[np.int64], Array]:
    """Return stamps (n,) and poses (n, 4, 4) sorted by time, of those with the same stamp the last one."""
    rising, rows = np.unique(stamps[::-1], return_index=True)
    return rising, poses[::-1][rows]


def pose_by_reference(frame: TrackedFrame, solution: Solution) -> Array | None:
    """Return the pose 4x4 of an image in a solution by its reference keyframe alone; None if it is unknown."""
    row = None if frame.reference is None else solution.index(frame.reference)
    if row is None or frame.reference_camera is None:
        return None
    return solution.similarity(row).apply_pose(frame.reference_camera)


def pose_in_reference(map_camera: Array, reference: int, solution: Solution) -> Array:
    """Return a pose 4x4 of a solution in the frame and units of a solved keyframe, which `pose_by_reference` takes."""
    row = solution.row(reference)
    reference_camera = inverse(solution.map_camera[row]) @ map_camera
    reference_camera[:3, 3] /= solution.scale[row]
    return reference_camera


def _is_in(frame: TrackedFrame, solution: Solution, submap: int) -> bool:
    """Return whether the reference keyframe of an image is in a submap."""
    row = None if frame.reference is None else solution.index(frame.reference)
    return row is not None and bool(solution.submaps[row] == submap)


def _tracked_segments(frames: Sequence[TrackedFrame]) -> list[list[int]]:
    """Return the indices of consecutive images that were tracked without a loss, or a jump of time, between them."""
    segments: list[list[int]] = [[]]
    for index, frame in enumerate(frames):
        if segments[-1] and (frame.odom_camera is None or frame.stamp <= frames[segments[-1][-1]].stamp):
            segments.append([])
        if frame.odom_camera is not None:
            segments[-1].append(index)
    return segments


def _interpolate(frames: Sequence[TrackedFrame], index: int, before: tuple[int, Array],
                 after: tuple[int, Array]) -> Array:
    """Return the pose of an image, interpolated between its predictions from two solved images around it.

    A prediction is the solved pose composed with the odometry from there to the image.
    """
    predictions = []
    for row, map_camera in (before, after):
        odom_from, odom_to = frames[row].odom_camera, frames[index].odom_camera
        assert odom_from is not None and odom_to is not None
        predictions.append(map_camera @ inverse(odom_from) @ odom_to)
    begin, end = frames[before[0]].stamp, frames[after[0]].stamp
    fraction = (frames[index].stamp - begin) / max(end - begin, 1)
    rotation = so3_log(predictions[0][:3, :3].T @ predictions[1][:3, :3])
    return pose(predictions[0][:3, :3] @ so3_exp(fraction * rotation),
                (1 - fraction) * predictions[0][:3, 3] + fraction * predictions[1][:3, 3])
