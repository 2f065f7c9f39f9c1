"""Metric scale from the camera's height over the ground: its meters over the distance of the map's ground plane."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.scale.ground_plane import ground_distance
from vggt_ros.scale.ratios import ScaleRatios
from vggt_ros.windows.solution import Solution

_KEYFRAME_SIGMA = 0.025
"""Sigma of the height at one keyframe: the camera sways, the ground is not flat."""
_COMMON_SIGMA = 0.008
"""Sigma of the error that all keyframes share: how well the height was measured."""


class HeightSource:
    """Fits the ground plane below every solved keyframe.

    Attributes:
        height: of the camera's center over the ground, meters; 0: not known.
        up: unit vector (3,) in the world frame of the map, the first camera's optical frame; by default that camera
            is level.
        up_camera: unit vector (3,) that is up for the camera while the robot is level; None if the camera moves on the
            robot. By default the camera is level.

    """

    name = "camera height"
    remark = ""

    def __init__(self, height: float = 0.0) -> None:
        """Take the camera's height, meters; 0: not known."""
        self.height = height
        self.up: Array = np.array([0.0, -1.0, 0.0])
        self.up_camera: Array | None = self.up
        self.clear()

    def clear(self) -> None:
        """Forget all planes."""
        self._planes: dict[int, tuple[float, float]] = {}

    def ratios(self, solution: Solution, rows: NDArray[np.int64], per_window: bool = False) -> ScaleRatios:
        """Return a ratio for each keyframe in which the ground is visible."""
        if self.height <= 0:
            return ScaleRatios.join([])
        log, sigma, stamps, windows = [], [], [], []
        for row in rows.tolist():
            keyframe = int(solution.ids[row])
            if keyframe not in self._planes:
                up = solution.map_camera[row, :3, :3].T @ self.up
                self._planes[keyframe] = (ground_distance(solution.keyframes[keyframe], up)
                                          or (float("nan"), float("nan")))
            distance, relative_sigma = self._planes[keyframe]
            if np.isfinite(distance):
                log.append(float(np.log(self.height / (distance * solution.scale[row]))))
                sigma.append(float(np.hypot(_KEYFRAME_SIGMA, relative_sigma)))
                stamps.append(int(solution.stamps[row]))
                windows.append(int(solution.windows[row]))
        return ScaleRatios(np.array(log), np.array(sigma), np.array(stamps, np.int64), np.array(windows, np.int64),
                           _COMMON_SIGMA)
