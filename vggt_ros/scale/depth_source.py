"""Metric scale from a depth image registered to the camera: its meters over the map's depth of the same pixels."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import Rectifier, nearest_pixels, rectify_depth, resize_intrinsics
from vggt_ros.geometry.poses import robust_sigma
from vggt_ros.scale.ratios import Ratios
from vggt_ros.windows.solution import MapKeyframe, Solution

TOLERANCE = 20_000_000
"""A depth image belongs to the image whose stamp is at most this far away, nanoseconds."""
_WIDTH = 208
"""Width at which depth is compared."""
_LEAST = 200
"""Pixels known to both that a keyframe must have."""
_INDEPENDENT = 30
"""How many independent errors the depth of one keyframe is taken to hold: errors of neighboring pixels are alike."""
_SIGMA = 0.015
"""Sigma that all pixels of one keyframe share: its place in the window, and the sensor's own."""
_COMMON = 0.008
"""Sigma of what all keyframes have in common: the calibration of sensor and camera."""
_MEMORY = 400
"""Depth images that may wait for their keyframe to be solved."""


class DepthSource:
    """Compares the depth of solved keyframes with a sensor's."""

    name = "depth"
    remark = ""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, NDArray[np.float32]]] = deque(maxlen=_MEMORY)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._waiting.clear()
        self._compared: dict[int, tuple[float, float]] = {}  # keyframe to log ratio in its window's units, and sigma

    def add(self, stamp: int, depth: NDArray[np.float32]) -> None:
        """Take depth (h, w) in meters, NaN where unknown, of the rectified image at `stamp` (ns); from any thread.

        Its size may be any with the image's aspect; small is enough.
        """
        with self._lock:
            self._waiting.append((stamp, depth))

    def ratios(self, solution: Solution, rows: NDArray[np.int64], inside: bool = False) -> Ratios:
        """Return a ratio for each keyframe that has depth of the sensor."""
        with self._lock:
            waiting = list(self._waiting)
        stamps = np.array([stamp for stamp, _ in waiting], np.int64)
        log, sigma, when, windows = [], [], [], []
        for row in rows.tolist():
            keyframe, stamp = int(solution.ids[row]), int(solution.stamps[row])
            if keyframe not in self._compared and len(stamps):
                nearest = int(np.argmin(np.abs(stamps - stamp)))
                if abs(int(stamps[nearest]) - stamp) <= TOLERANCE:
                    found = compare(waiting[nearest][1], solution.keyframes[keyframe])
                    self._compared[keyframe] = found or (float("nan"), float("nan"))
            if np.isfinite((compared := self._compared.get(keyframe, (float("nan"),) * 2))[0]):
                log.append(compared[0] - float(np.log(solution.scale[row])))
                sigma.append(compared[1])
                when.append(stamp)
                windows.append(int(solution.windows[row]))
        return Ratios(np.array(log), np.array(sigma), np.array(when, np.int64), np.array(windows, np.int64), _COMMON)


def compare(sensor: NDArray[np.float32], kept: MapKeyframe) -> tuple[float, float] | None:
    """Return the logarithm of the sensor's meters in a unit of a keyframe's window, and its sigma.

    None if too few pixels are known to both. The less confident half of ours is left out.
    """
    height, width = kept.depth.shape
    rows, columns = nearest_pixels(sensor.shape[0], height), nearest_pixels(sensor.shape[1], width)
    true, ours = sensor[np.ix_(rows, columns)], kept.depth.astype(np.float32)
    both = (true > 0) & np.isfinite(true) & (ours > 0)
    if both.sum() < _LEAST:
        return None
    both &= kept.confidence >= np.median(kept.confidence[both])
    ratio = np.log(true[both].astype(np.float64) / ours[both])
    return float(np.median(ratio)), float(np.hypot(robust_sigma(ratio) / np.sqrt(_INDEPENDENT), _SIGMA))


def rectified_depth(sensor: NDArray[np.float32], rectify: Rectifier) -> NDArray[np.float32]:
    """Return a sensor's depth (H, W), registered to the camera, as its rectified images see it, small."""
    factor = min(1.0, _WIDTH / rectify.size[0])
    width, height = (max(1, round(factor * side)) for side in rectify.size)
    intrinsics = resize_intrinsics(rectify.intrinsics, width / rectify.size[0], height / rectify.size[1])
    return rectify_depth(sensor, rectify.camera, intrinsics, (height, width))
