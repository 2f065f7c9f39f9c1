"""Which keyframes the depth of another one is found by: such that each part of the image is seen by some of them.

The best ones by the mean over the image may all miss the same part of it: what comes into view when the camera turns is
seen by the keyframes beside it only, whose parallax is small. So each neighbor is chosen for what it adds to those
before it. What a part of the image gains from another neighbor that sees it becomes less with each that does. The sum
of that is submodular: the greedy choice is nearly the best one (Nemhauser et al., An analysis of approximations for
maximizing submodular set functions, 1978; for stereo: Hornung et al., Image selection for improved multi-view stereo,
CVPR 2008).
"""

from __future__ import annotations

import numpy as np

from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.geometry.complementary import complementary
from vggt_ros.geometry.poses import Array, inverse

PARTS = 6, 8
"""Rows and columns of the parts into which the image is divided."""
_ENOUGH = 0.1
"""Sum of the qualities of the neighbors of a part of the image, each at most 1, that is worth twice what is added."""
_MIN_PARALLAX = 0.5
"""Least parallax of a neighbor, pixels, where it says something about depth."""
_LEAST_GAIN = 1e-6
"""A neighbor that adds less adds nothing."""


class DenseNeighbors:
    """The other keyframes of a window as neighbors of one of them."""

    def __init__(self, index: int, depth: Array, intrinsics: Array, window_camera: Array,
                 shape: tuple[int, int]) -> None:
        """Project the middles of the parts of the image of keyframe `index`, at their depths, into all others.

        Args:
            index: the keyframe.
            depth: typical depth of each part of the image, (rows, columns) of `PARTS`.
            intrinsics: (S, 3, 3) for images of this size.
            window_camera: (S, 4, 4).
            shape: height and width of the images.

        """
        (height, width), (rows, columns) = shape, PARTS
        y, x = np.meshgrid((np.arange(rows) + 0.5) * height / rows - 0.5,
                           (np.arange(columns) + 0.5) * width / columns - 0.5, indexing="ij")
        rays = pixel_rays(intrinsics[index], x.ravel(), y.ravel()).T
        own_others = inverse(window_camera[index]) @ window_camera
        from_center = rays * depth.ravel() - own_others[:, :3, 3:]  # (S, 3, parts)
        image = intrinsics @ (own_others[:, :3, :3].transpose(0, 2, 1) @ from_center)
        focal = np.diag(intrinsics[index])[:2, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            at = image[:, :2] / image[:, 2:]
            motion = (from_center[:, :2] / from_center[:, 2:] - rays[:2]) * focal
            self._seen = (image[:, 2] > 0) & (from_center[:, 2] > 0) & (at >= 0).all(1) & (
                at <= np.array([[width - 1], [height - 1]])).all(1)
            self._parallax = np.where(self._seen, np.hypot(motion[:, 0], motion[:, 1]), 0)

    def best(self, count: int, parallax: float) -> list[int]:
        """Return at most `count` keyframes, the best first; parallax near `parallax` pixels is preferred."""
        usable = self._parallax > _MIN_PARALLAX
        quality = np.exp(-0.5 * np.log(np.where(usable, self._parallax, 1) / parallax) ** 2) * usable
        # From the end: the newer one of two that are as good.
        return [len(quality) - 1 - row for row in complementary(quality[::-1], count, _ENOUGH, _LEAST_GAIN)]
