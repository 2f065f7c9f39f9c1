"""Ground truth as a network would say it: true poses and sensor depth with the errors of VGGT-1B, as raw output.

The errors are those that recorded runs of the real network show: from one image to the next, rotations are off by 0.26
degrees and positions by 1 % of the depth, focal lengths differ by 0.9 % from image to image and scales of depth by
0.5 %; all focal lengths of a scene may be off by 4 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import Camera
from vggt_ros.geometry.poses import Array, inverse, pose, so3_exp
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.reconstruction.vggt.model.image_size import network_size
from vggt_ros.reconstruction.vggt.output.decoding import decode, encode
from vggt_ros.reconstruction.vggt.settings import VggtConfig
from vggt_ros.windows.keyframe import Window


@dataclass(frozen=True)
class NetworkErrors:
    """Standard deviations of what a network says of a window.

    Attributes:
        scale: of the logarithm of the window's unit.
        rotation: of each pose, radians, from a smooth curve over the window and from image to image.
        center: of each camera center, fraction of the window's median depth, in the same two parts.
        focal: of the logarithm of the focal length of all images, and from image to image.
        depth: of the logarithm of the depth of an image, and of each pixel.

    """

    scale: float = 0.4
    rotation: tuple[float, float] = (0.003, 0.003)
    center: tuple[float, float] = (0.006, 0.006)
    focal: tuple[float, float] = (0.02, 0.008)
    depth: tuple[float, float] = (0.005, 0.01)


class ErringReconstructor:
    """Says of each window what is true, with the errors of a network, through the real decoding."""

    name = "vggt"

    def __init__(self, poses: Mapping[int, Array], depth: Mapping[int, NDArray[np.float32]], matrix: Array,
                 errors: NetworkErrors, seed: int, settings: VggtConfig) -> None:
        """Take the truth.

        Args:
            poses: stamp to the true pose `world_camera` 4x4.
            depth: stamp to the depth (H, W) at the size of the keyframes, meters, NaN where unknown.
            matrix: true intrinsics (3, 3) at that size.
            errors: what is wrong.
            seed: of the errors.
            settings: of the decoding.

        """
        self._poses, self._depth, self._matrix, self._errors = poses, depth, matrix, errors
        self._seed, self._settings = seed, settings

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return the network's size."""
        return network_size(camera, self._settings.width)

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Return the truth with errors; the same window has the same ones."""
        rng = np.random.default_rng((self._seed, window.id))
        count, errors = len(window.keyframes), self._errors
        world_camera = np.array([self._poses[keyframe.stamp] for keyframe in window.keyframes])
        depth = np.array([self._depth[keyframe.stamp] for keyframe in window.keyframes])
        median = float(np.nanmedian(depth))
        turns = np.hstack([_smooth(count, 3, rng), rng.standard_normal((count, 3))]) * np.repeat(errors.rotation, 3)
        shifts = np.hstack([_smooth(count, 3, rng), rng.standard_normal((count, 3))]) * np.repeat(errors.center, 3)
        moved = np.array([pose(so3_exp(t[:3] + t[3:]), np.zeros(3)) for t in turns])
        erring = world_camera @ moved
        erring[:, :3, 3] += median * (shifts[:, :3] + shifts[:, 3:])
        window_camera = inverse(erring[0]) @ erring
        unit = float(np.exp(errors.scale * rng.standard_normal()))
        window_camera[:, :3, 3] /= unit
        window_camera[0] = np.eye(4)
        common, single = errors.depth
        depth = depth * np.exp(common * rng.standard_normal((count, 1, 1)) +
                               single * rng.standard_normal(depth.shape)) / unit
        focal = np.exp(errors.focal[0] * rng.standard_normal() + errors.focal[1] * rng.standard_normal(count))
        matrices = np.tile(self._matrix, (count, 1, 1))
        matrices[:, [0, 1], [0, 1]] *= focal[:, None]
        exact = WindowGeometry(window.ids, window_camera, matrices, depth.astype(np.float32),
                               np.where(np.isnan(depth), 0, 0.5).astype(np.float32))
        return decode(encode(exact).filtered(self._settings), window)


def _smooth(count: int, columns: int, rng: np.random.Generator) -> Array:
    """Return curves (count, columns) of standard deviation 1 that bend once or twice over a window."""
    at = np.linspace(0, np.pi, count)[:, None]
    waves = np.concatenate([np.cos(at), np.cos(2 * at)], 1)
    return waves @ rng.standard_normal((2, columns))
