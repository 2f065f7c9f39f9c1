"""What a recording knows of metric scale, given to the pipeline as it would come live: not before its time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vggt_ros.camera import Rectifier
from vggt_ros.geometry import Array
from vggt_ros.pipeline import Slam
from vggt_ros.scale_depth import rectified_depth
from vggt_ros.sequences import Sequence, Truth

_AHEAD = 100_000_000
"""So much of odometry and IMU, nanoseconds, is there when an image is tracked; a window is solved later still."""


class MetricSources:
    """Another odometry, an IMU and the depth images of a sequence."""

    def __init__(self, slam: Slam, sequence: Sequence, rectify: Rectifier, odometry: Truth | None = None,
                 sensor_depth: bool = False, imu: tuple[NDArray[np.int64], Array] | None = None) -> None:
        """Feed `slam` with `odometry`, stamps (n,) and camera poses (n, 4, 4), and with the `sequence`'s depth.

        The `imu` has stamps (n,) and samples (n, 6), rad/s and m/s^2 in the camera's frame.
        """
        self._slam, self._rectify = slam, rectify
        poses: Iterator[tuple[int, Array]] = iter(()) if odometry is None else \
            zip((int(stamp) for stamp in odometry[0]), odometry[1], strict=True)
        self._poses = poses
        samples: Iterator[tuple[int, Array]] = iter(()) if imu is None else \
            zip((int(stamp) for stamp in imu[0]), imu[1], strict=True)
        self._samples = samples
        self._depths = sequence.depths() if sensor_depth else iter(())
        self._pose, self._depth = next(self._poses, None), next(self._depths, None)
        self._sample = next(self._samples, None)

    def feed(self, stamp: int) -> None:
        """Hand over what is known at the time `stamp`, nanoseconds."""
        while self._pose is not None and self._pose[0] <= stamp + _AHEAD:
            self._slam.odometry.add(*self._pose)
            self._pose = next(self._poses, None)
        while self._sample is not None and self._sample[0] <= stamp + _AHEAD:
            self._slam.imu.add(self._sample[0], self._sample[1][:3], self._sample[1][3:])
            self._sample = next(self._samples, None)
        while self._depth is not None and self._depth[0] <= stamp:
            self._slam.depth.add(self._depth[0], rectified_depth(self._depth[1], self._rectify))
            self._depth = next(self._depths, None)
