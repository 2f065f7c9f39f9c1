"""What a recording knows of metric scale, given to the pipeline as it would come live: not before its time."""

from __future__ import annotations

from collections.abc import Iterator

from vggt_ros.camera import Rectifier
from vggt_ros.geometry import Array
from vggt_ros.pipeline import Slam
from vggt_ros.scale_depth import rectified_depth
from vggt_ros.sequences import Sequence, Truth

_AHEAD = 100_000_000
"""So much of the odometry, nanoseconds, is there when an image is tracked; a window is solved later still."""


class MetricSources:
    """Another odometry and the depth images of a sequence."""

    def __init__(self, slam: Slam, sequence: Sequence, rectify: Rectifier, odometry: Truth | None = None,
                 sensor_depth: bool = False) -> None:
        """Feed `slam` with `odometry`, stamps (n,) and camera poses (n, 4, 4), and with the `sequence`'s depth."""
        self._slam, self._rectify = slam, rectify
        poses: Iterator[tuple[int, Array]] = iter(()) if odometry is None else \
            zip((int(stamp) for stamp in odometry[0]), odometry[1], strict=True)
        self._poses = poses
        self._depths = sequence.depths() if sensor_depth else iter(())
        self._pose, self._depth = next(self._poses, None), next(self._depths, None)

    def feed(self, stamp: int) -> None:
        """Hand over what is known at the time `stamp`, nanoseconds."""
        while self._pose is not None and self._pose[0] <= stamp + _AHEAD:
            self._slam.odometry.add(*self._pose)
            self._pose = next(self._poses, None)
        while self._depth is not None and self._depth[0] <= stamp:
            self._slam.depth.add(self._depth[0], rectified_depth(self._depth[1], self._rectify))
            self._depth = next(self._depths, None)
