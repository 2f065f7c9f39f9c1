"""An image of the pipeline, and its pose as it was tracked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.windows.keyframe import Window


@dataclass(frozen=True, eq=False)
class Frame:
    """An input image of the pipeline: rectified, at the reconstructor's working size.

    Attributes:
        stamp: nanoseconds, exactly the message's.
        image: RGB uint8 (H, W, 3), or gray uint8 (H, W) where `color` has it in RGB.
        intrinsics: float64 (3, 3) for this size.
        calibrated: False if `intrinsics` are only assumed.
        excluded: mask, bool (h, w) of any size, of the part of the image that is left out; None: nothing is.
        color: makes the image in RGB, which only keyframes need; None if `image` is.

    """

    stamp: int
    image: NDArray[np.uint8]
    intrinsics: Array
    calibrated: bool = True
    excluded: NDArray[np.bool_] | None = None
    color: Callable[[], NDArray[np.uint8]] | None = None

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """The image in RGB, uint8 (H, W, 3); made anew each time where `image` is gray."""
        return self.image if self.color is None else self.color()


@dataclass(frozen=True, eq=False)
class TrackedFrame:
    """The pose of one frame, as tracked when the frame came.

    Attributes:
        stamp: the frame's, nanoseconds.
        state: `INITIALIZING` (nothing solved yet), `TRACKING`, `DEGRADED` (tracked with less information than usual:
            `reason` says what is missing, and the covariance is larger), `RELOCALIZING` (the frame was searched for in
            the map, but not found) or `LOST` (the image has too few features for a search, or the map has no keyframe
            near the pose prior). In `INITIALIZING`, `RELOCALIZING` and `LOST` the poses are None.
        map_camera: 4x4 pose of the camera in the map, with all corrections of the map.
        odom_camera: 4x4 pose in the odometry frame, continuous when the map is corrected.
        map_odom: 4x4 pose of the odometry frame in the map, which takes the corrections of the map.
        covariance: float64 (6, 6) of `map_camera`, perturbed on the right, [rotation, translation], in radians and map
            units.
        motion_covariance: float64 (6, 6) of the motion in the odometry frame since the image before, perturbed
            likewise; None if that one had no pose.
        reference: id of the solved keyframe that the pose was measured against.
        reference_camera: 4x4 pose in that keyframe's frame, in units of its window.
        inliers: number of landmarks that agree with the pose.
        keyframe: id, if the frame became a keyframe.
        window: the window that the keyframe completed, for `Slam.step`.
        reason: why the state is `DEGRADED`, in words.

    """

    stamp: int
    state: str
    map_camera: Array | None = None
    odom_camera: Array | None = None
    map_odom: Array = field(default_factory=lambda: np.eye(4))
    covariance: Array | None = None
    motion_covariance: Array | None = None
    reference: int | None = None
    reference_camera: Array | None = None
    inliers: int = 0
    keyframe: int | None = None
    window: Window | None = None
    reason: str = ""
