"""Poses that are known before a window is solved, which the network can be given.

The network replaces what it knows of the cameras by the given poses and intrinsics, of all images or of none. Those of
shared keyframes are known from the window before, those of new keyframes only from tracking, relative to the shared
ones. A window without shared keyframes, such as one around a loop, gets none: what it finds stays independent.
"""

from __future__ import annotations

import numpy as np

from vggt_ros.geometry.poses import Array, inverse
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.windows.keyframe import Window

_SMALLEST = 1e-9
"""Distances below it are none."""


class PosesUnknown(Exception):
    """Not all poses of a window are known; the text says which are not."""


def known_poses(window: Window, before: WindowGeometry | None) -> Array:
    """Return poses `first_camera` (S, 4, 4) of all keyframes of a window, in the unit of the window before.

    The tracker's motion from the newest shared keyframe to a new one is scaled by what the shared ones moved in the
    window before, over what they moved in the map.

    Args:
        window: the window.
        before: the geometry of the window that it continues, None if there is none.

    Raises:
        PosesUnknown: no window before, a camera without calibration, or a keyframe that was not tracked.

    """
    if before is None or not window.shared:
        raise PosesUnknown("there is no window before")
    if not all(keyframe.calibrated for keyframe in window.keyframes):
        raise PosesUnknown("the camera is not calibrated")
    solved = dict(zip(before.keyframe_ids, before.window_camera, strict=True))
    tracked = {keyframe.id: keyframe.map_camera for keyframe in window.keyframes if keyframe.map_camera is not None}
    both = [keyframe for keyframe in window.ids if keyframe in solved and keyframe in tracked]
    if len(both) < 2:
        raise PosesUnknown(f"{len(both)} of its keyframes were solved and tracked before, two are needed")
    oldest, newest = both[0], both[-1]
    in_map = float(np.linalg.norm(tracked[newest][:3, 3] - tracked[oldest][:3, 3]))
    in_window = float(np.linalg.norm(solved[newest][:3, 3] - solved[oldest][:3, 3]))
    if min(in_map, in_window) < _SMALLEST:
        raise PosesUnknown("its shared keyframes have not moved")
    poses = []
    for keyframe in window.ids:
        if keyframe in solved:
            poses.append(solved[keyframe])
            continue
        if keyframe not in tracked:
            raise PosesUnknown(f"keyframe {keyframe} was not tracked")
        newest_camera = inverse(tracked[newest]) @ tracked[keyframe]
        newest_camera[:3, 3] *= in_window / in_map
        poses.append(solved[newest] @ newest_camera)
    return inverse(poses[0]) @ np.array(poses)


def in_network_units(first_camera: Array) -> Array:
    """Return poses `camera_first` (S, 4, 4), scaled so that the median distance of cameras from the first one is 1.

    The median is the lower one of two, and counts the first camera, as in the package.
    """
    distances = np.sort(np.linalg.norm(first_camera[:, :3, 3], axis=1))
    unit = max(float(distances[(len(distances) - 1) // 2]), _SMALLEST)
    camera_first = np.array([inverse(matrix) for matrix in first_camera])
    camera_first[:, :3, 3] /= unit
    return camera_first
