"""A reconstructor that knows the answer: it stands in for the real ones where the rest is tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vggt_ros.geometry.camera import Camera, resize_intrinsics
from vggt_ros.geometry.poses import Array, inverse, pose, so3_exp
from vggt_ros.reconstruction.base import ReconstructionRefused, WindowGeometry
from vggt_ros.synthetic.scene import Scene
from vggt_ros.windows.keyframe import Window


@dataclass(frozen=True)
class OracleNoise:
    """What is wrong with the answers, as standard deviations; the default is nothing but an unknown scale.

    Attributes:
        scale: of the logarithm of each window's unit.
        rotation: of each pose but the first, radians.
        translation: of each pose but the first, as a fraction of the window's median depth.
        depth: of the logarithm of each pixel's depth.
        unknown: fraction of pixels without depth.

    """

    scale: float = 0.5
    rotation: float = 0.0
    translation: float = 0.0
    depth: float = 0.0
    unknown: float = 0.0


class SceneReconstructor:
    """Looks up the exact poses of a window's keyframes by their stamps and renders their depth.

    Each window has a unit of its own, as a monocular reconstruction has. The same window always has the same answer.
    """

    name = "oracle"

    def __init__(self, scene: Scene, stamps: Sequence[int], world_camera: Array, noise: OracleNoise | None = None,
                 depth_width: int = 160, seed: int = 0, refuse: Sequence[int] = ()) -> None:
        """Take the truth.

        Args:
            scene: what the cameras look at.
            stamps: of the frames, nanoseconds.
            world_camera: their poses (n, 4, 4), optical axes.
            noise: what is wrong with the answers.
            depth_width: width of the depth maps, pixels.
            seed: of the noise.
            refuse: ids of windows that it refuses to solve.

        """
        self.scene, self.noise, self.depth_width, self.seed = scene, noise or OracleNoise(), depth_width, seed
        self.refuse = frozenset(refuse)
        self._poses = {int(stamp): matrix for stamp, matrix in zip(stamps, world_camera, strict=True)}

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return the camera's own size."""
        return camera.width, camera.height

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Return the exact geometry in a random unit, plus the noise.

        Raises:
            ReconstructionRefused: the window's id is among those to refuse.
            KeyError: a keyframe's stamp is not among the truth's.

        """
        if window.id in self.refuse:
            raise ReconstructionRefused(f"window {window.id} is on the oracle's list")
        rng = np.random.default_rng((self.seed, window.id))
        unit = float(np.exp(self.noise.scale * rng.standard_normal()))
        world_camera = np.array([self._poses[keyframe.stamp] for keyframe in window.keyframes])
        depth, intrinsics = [], []
        for keyframe, matrix in zip(window.keyframes, world_camera, strict=True):
            height, width = keyframe.image.shape[:2]
            shrink = self.depth_width / width
            small = resize_intrinsics(keyframe.intrinsics, shrink, shrink)
            intrinsics.append(small)
            depth.append(self.scene.depth(matrix, small, (self.depth_width, round(height * shrink))))
        maps = np.array(depth)
        median = float(np.nanmedian(maps))
        window_camera = inverse(world_camera[0]) @ world_camera
        for matrix in window_camera[1:]:
            matrix[:] = matrix @ pose(so3_exp(self.noise.rotation * rng.standard_normal(3)),
                                      self.noise.translation * median * rng.standard_normal(3))
        window_camera[:, :3, 3] /= unit
        window_camera[0] = np.eye(4)
        maps *= np.exp(self.noise.depth * rng.standard_normal(maps.shape, np.float32)) / np.float32(unit)
        maps[rng.random(maps.shape, np.float32) < self.noise.unknown] = np.nan
        confidence = np.where(np.isnan(maps), 0, rng.random(maps.shape, np.float32)).astype(np.float32)
        return WindowGeometry(window.ids, window_camera, np.array(intrinsics), maps, confidence,
                              report={"unit_m": unit})
