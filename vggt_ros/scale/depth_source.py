"""Metric scale from a depth image registered to the camera: its depth over the map's depth of the same pixels."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import Rectifier, nearest_pixels, rectify_depth, resize_intrinsics
from vggt_ros.geometry.poses import robust_sigma
from vggt_ros.scale.ratios import ScaleRatios
from vggt_ros.windows.solution import MapKeyframe, Solution

STAMP_TOLERANCE = 20_000_000
"""Largest difference of the stamps of a depth image and its camera image, nanoseconds."""
_WIDTH = 208
"""Width at which depth is compared, pixels."""
_MIN_PIXELS = 200
"""Fewest pixels with depth on both sides."""
_INDEPENDENT_ERRORS = 30
"""Independent errors in the depth of one keyframe: errors of neighboring pixels are correlated."""
_KEYFRAME_SIGMA = 0.015
"""Sigma of the error that all pixels of a keyframe share: its scale inside the window, and the sensor's own error."""
_COMMON_SIGMA = 0.008
"""Sigma of the error that all keyframes share: the calibration of sensor and camera."""
_BUFFER_SIZE = 400
"""Most depth images that wait for their keyframe to be solved."""


class DepthSource:
    """Compares the depth of solved keyframes with a sensor's depth."""

    name = "depth"
    remark = ""

    def __init__(self) -> None:
        """Begin without measurements."""
        self._lock = threading.Lock()
        self._buffer: deque[tuple[int, NDArray[np.float32]]] = deque(maxlen=_BUFFER_SIZE)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._buffer.clear()
        self._measured: dict[int, tuple[float, float]] = {}  # keyframe to log ratio, meters in a window unit; sigma

    def add(self, stamp: int, depth: NDArray[np.float32]) -> None:
        """Take depth (h, w) in meters, NaN where unknown, of the rectified image at `stamp` (ns); from any thread.

        It may have any size with the aspect ratio of the image; a small one is enough.
        """
        with self._lock:
            self._buffer.append((stamp, depth))

    def ratios(self, solution: Solution, rows: NDArray[np.int64], per_window: bool = False) -> ScaleRatios:
        """Return a ratio for each keyframe that has a depth image."""
        with self._lock:
            buffered = list(self._buffer)
        stamps = np.array([stamp for stamp, _ in buffered], np.int64)
        log, sigma, ratio_stamps, windows = [], [], [], []
        for row in rows.tolist():
            keyframe, stamp = int(solution.ids[row]), int(solution.stamps[row])
            if keyframe not in self._measured and len(stamps):
                nearest = int(np.argmin(np.abs(stamps - stamp)))
                if abs(int(stamps[nearest]) - stamp) <= STAMP_TOLERANCE:
                    found = depth_ratio(buffered[nearest][1], solution.keyframes[keyframe])
                    self._measured[keyframe] = found or (float("nan"), float("nan"))
            if np.isfinite((measured := self._measured.get(keyframe, (float("nan"),) * 2))[0]):
                log.append(measured[0] - float(np.log(solution.scale[row])))
                sigma.append(measured[1])
                ratio_stamps.append(stamp)
                windows.append(int(solution.windows[row]))
        return ScaleRatios(np.array(log), np.array(sigma), np.array(ratio_stamps, np.int64),
                           np.array(windows, np.int64), _COMMON_SIGMA)


def depth_ratio(sensor: NDArray[np.float32], keyframe: MapKeyframe) -> tuple[float, float] | None:
    """Return the logarithm of the meters in a unit of a keyframe's window, and its sigma.

    None if too few pixels have depth on both sides. The less confident half of the keyframe's depth is left out.
    """
    height, width = keyframe.depth.shape
    rows, columns = nearest_pixels(sensor.shape[0], height), nearest_pixels(sensor.shape[1], width)
    sensor_depth, map_depth = sensor[np.ix_(rows, columns)], keyframe.depth.astype(np.float32)
    both = (sensor_depth > 0) & np.isfinite(sensor_depth) & (map_depth > 0)
    if both.sum() < _MIN_PIXELS:
        return None
    both &= keyframe.confidence >= np.median(keyframe.confidence[both])
    ratio = np.log(sensor_depth[both].astype(np.float64) / map_depth[both])
    return float(np.median(ratio)), float(np.hypot(robust_sigma(ratio) / np.sqrt(_INDEPENDENT_ERRORS), _KEYFRAME_SIGMA))


def rectified_depth(sensor: NDArray[np.float32], rectify: Rectifier) -> NDArray[np.float32]:
    """Return a depth image (H, W), registered to the camera, resampled to a small rectified image."""
    factor = min(1.0, _WIDTH / rectify.size[0])
    width, height = (max(1, round(factor * side)) for side in rectify.size)
    intrinsics = resize_intrinsics(rectify.intrinsics, width / rectify.size[0], height / rectify.size[1])
    return rectify_depth(sensor, rectify.camera, intrinsics, (height, width))
