"""Whether the frame of the images can be an optical one (REP-103: x right, y down, z forward).

With the frame of the camera's body instead (x forward), the robot seems to fly up when it drives forward.
"""

from __future__ import annotations

import numpy as np

from vggt_ros.geometry.poses import BODY_OPTICAL, Array
from vggt_ros.scale.ground_plane import ground_distance
from vggt_ros.windows.solution import Solution

_MAX_TILT = np.cos(np.radians(45.0))
"""Cosine of the largest angle between gravity and the z axis of the base that is not a contradiction."""
_CHECKED, _REQUIRED = 8, 6
"""Keyframes in which the ground is looked for, and in how many of them it has to be found."""
_MAX_SPREAD = 0.25
"""Largest standard deviation of the logarithm of its distance: a wall passes by, the ground stays."""
_BODY_NAMES = ("base_link", "base_footprint", "odom", "map", "world")


class OpticalFrameCheck:
    """Compares the frame of the images with its name, with gravity, and with the ground."""

    def __init__(self) -> None:
        """Check nothing yet."""
        self._frame = self._by_name = self._by_gravity = self._by_ground = ""
        self._distances: list[tuple[bool, float]] = []
        self._newest = -1

    @property
    def problem(self) -> str:
        """Why the frame is not an optical one, with the cure; empty if nothing is known against it."""
        return self._by_gravity or self._by_ground or self._by_name

    def check_name(self, frame: str) -> None:
        """Look at the name of the frame of the images."""
        if frame == self._frame:
            return
        self._frame = frame
        if "optical" not in frame and (frame.endswith("_link") or frame in _BODY_NAMES):
            self._by_name = self._line("by its name, not an optical frame")

    def check_gravity(self, start: Array, up: Array) -> None:
        """Compare `up` (3,), opposite to gravity in the camera's frame, with the pose 4x4 of the camera in `map`."""
        if float((start[:3, :3] @ up)[2]) < _MAX_TILT:
            self._by_gravity = self._line("by gravity, not an optical frame, or its transform on the robot is wrong")

    def check_ground(self, solution: Solution, base_camera: Array) -> None:
        """Look for the ground in new keyframes; on the worker's thread.

        Only where TF says that the camera looks up or down, or lies on its side. If the axes were those of a body, the
        ground would be visible where these say, and only there.
        """
        up = base_camera[2, :3]
        if -up[1] > _MAX_TILT or len(self._distances) >= _CHECKED:
            return
        up_by_body = (base_camera[:3, :3] @ BODY_OPTICAL[:3, :3])[2]
        for row in np.flatnonzero(solution.ids > self._newest).tolist():
            keyframe = solution.keyframes[int(solution.ids[row])]
            by_tf, by_body = ground_distance(keyframe, up), ground_distance(keyframe, up_by_body)
            distance = by_body[0] * float(solution.scale[row]) if by_body is not None else float("nan")
            self._distances.append((by_tf is not None, distance))
            self._newest = keyframe.id
            if len(self._distances) == _CHECKED:
                self._judge()
                return

    def _judge(self) -> None:
        found = np.log([distance for _, distance in self._distances if distance > 0])
        if not any(by_tf for by_tf, _ in self._distances) and len(found) >= _REQUIRED and found.std() < _MAX_SPREAD:
            self._by_ground = self._line("by the ground in the images, not an optical frame")

    def _line(self, reason: str) -> str:
        return (f"{self._frame}, the frame_id of the images, is, {reason} (REP-103: x right, y down, z forward): let "
                "the driver use its optical frame, or publish one and set it as frame_id")
