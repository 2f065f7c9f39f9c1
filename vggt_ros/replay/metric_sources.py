"""Feeds the metric data of a recording to the pipeline in the order in which they would arrive live."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import Rectifier
from vggt_ros.geometry.poses import Array
from vggt_ros.scale.depth_source import rectified_depth
from vggt_ros.sequences.sequence import Sequence, Truth
from vggt_ros.slam import Slam

_LOOK_AHEAD = 100_000_000
"""Odometry and IMU samples up to so much later, nanoseconds, have arrived when the window of an image is solved."""
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class MetricData:
    """The data of a recording from which metric scale is taken; by default none.

    Attributes:
        odometry: stamps (n,) and camera poses (n, 4, 4) of another odometry.
        depth: whether to use the sequence's depth images.
        imu: stamps (n,) and samples (n, 6), rad/s and m/s^2, of an IMU in the camera's position and axes.

    """

    odometry: Truth | None = None
    depth: bool = False
    imu: tuple[NDArray[np.int64], Array] | None = None


class MetricSources:
    """Another odometry, an IMU and the depth images of a sequence, as sources of metric scale."""

    def __init__(self, slam: Slam, sequence: Sequence, rectify: Rectifier, data: MetricData) -> None:
        """Feed `slam` with `data`, whose depth images are those of `sequence`."""
        self._poses = _Queue(() if data.odometry is None else zip(*data.odometry, strict=True), slam.odometry.add)
        self._samples = _Queue(() if data.imu is None else zip(*data.imu, strict=True),
                               lambda stamp, sample: slam.imu.add(stamp, sample[:3], sample[3:]))
        self._depths = _Queue(sequence.depths() if data.depth else (),
                              lambda stamp, depth: slam.depth.add(stamp, rectified_depth(depth, rectify)))

    def feed(self, stamp: int) -> None:
        """Pass on all data that have arrived when the image of `stamp`, nanoseconds, is tracked."""
        self._poses.feed(stamp + _LOOK_AHEAD)
        self._samples.feed(stamp + _LOOK_AHEAD)
        self._depths.feed(stamp)


class _Queue(Generic[_T]):
    """Entries in order of their stamps, each passed to `consume` when it is due."""

    def __init__(self, entries: Iterable[tuple[int, _T]], consume: Callable[[int, _T], None]) -> None:
        self._entries, self._consume = iter(entries), consume
        self._next = next(self._entries, None)

    def feed(self, until: int) -> None:
        """Pass on the entries with stamps of at most `until`."""
        while self._next is not None and self._next[0] <= until:
            self._consume(int(self._next[0]), self._next[1])
            self._next = next(self._entries, None)
