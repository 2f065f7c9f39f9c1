"""What a recording knows of metric scale, given to the pipeline as it would come live: not before its time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import Rectifier
from vggt_ros.geometry.poses import Array
from vggt_ros.scale.depth_source import rectified_depth
from vggt_ros.sequences.sequence import Sequence, Truth
from vggt_ros.slam import Slam

_AHEAD = 100_000_000
"""So much of odometry and IMU, nanoseconds, is there when an image is tracked; a window is solved later still."""
_T = TypeVar("_T")


class MetricSources:
    """Another odometry, an IMU and the depth images of a sequence."""

    def __init__(self, slam: Slam, sequence: Sequence, rectify: Rectifier, odometry: Truth | None = None,
                 sensor_depth: bool = False, imu: tuple[NDArray[np.int64], Array] | None = None) -> None:
        """Feed `slam` with `odometry`, stamps (n,) and camera poses (n, 4, 4), and with the `sequence`'s depth.

        The `imu` has stamps (n,) and samples (n, 6), rad/s and m/s^2 in the camera's frame.
        """
        self._poses = _Queue(() if odometry is None else zip(*odometry, strict=True), slam.odometry.add)
        self._samples = _Queue(() if imu is None else zip(*imu, strict=True),
                               lambda stamp, sample: slam.imu.add(stamp, sample[:3], sample[3:]))
        self._depths = _Queue(sequence.depths() if sensor_depth else (),
                              lambda stamp, depth: slam.depth.add(stamp, rectified_depth(depth, rectify)))

    def feed(self, stamp: int) -> None:
        """Hand over what is known at the time `stamp`, nanoseconds."""
        self._poses.feed(stamp + _AHEAD)
        self._samples.feed(stamp + _AHEAD)
        self._depths.feed(stamp)


class _Queue(Generic[_T]):
    """Things in order of their stamps, which are handed to `take` when they are due."""

    def __init__(self, things: Iterable[tuple[int, _T]], take: Callable[[int, _T], None]) -> None:
        self._things, self._take = iter(things), take
        self._next = next(self._things, None)

    def feed(self, until: int) -> None:
        """Hand over what has a stamp of at most `until`."""
        while self._next is not None and self._next[0] <= until:
            self._take(int(self._next[0]), self._next[1])
            self._next = next(self._things, None)
