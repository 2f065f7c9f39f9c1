"""A reconstructor with exact geometry plus noise: it replaces the real ones where other parts are tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from vggt_ros.geometry.camera import Camera, resize_intrinsics
from vggt_ros.geometry.poses import Array, inverse, pose, so3_exp
from vggt_ros.reconstruction.base import ReconstructionRefused, WindowGeometry
from vggt_ros.synthetic.scene import Float, Scene
from vggt_ros.windows.keyframe import Window


@dataclass(frozen=True)
class OracleNoise:
    """Standard deviations of the errors; by default only the scale of a window is unknown.

    Attributes:
        scale: of the logarithm of each window's scale.
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

    Each window has a scale of its own, as a monocular reconstruction has. The same window always has the same result.
    """

    name = "oracle"
    carries = "never"
    carried: tuple[object, ...] = ()

    def __init__(self, scene: Scene, stamps: Sequence[int], world_camera: Array, noise: OracleNoise | None = None,
                 depth_width: int = 160, seed: int = 0, refuse: Sequence[int] = ()) -> None:
        """Take the ground truth.

        Args:
            scene: the scene.
            stamps: of the frames, nanoseconds.
            world_camera: their poses (n, 4, 4), optical axes.
            noise: errors of the results.
            depth_width: width of the depth maps, pixels.
            seed: of the noise.
            refuse: ids of windows that it rejects.

        """
        self.scene, self.noise, self.depth_width, self.seed = scene, noise or OracleNoise(), depth_width, seed
        self.refuse = frozenset(refuse)
        self._poses = {int(stamp): matrix for stamp, matrix in zip(stamps, world_camera, strict=True)}

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return the camera's own size."""
        return camera.width, camera.height

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Return the exact geometry at a random scale, plus the noise.

        Raises:
            ReconstructionRefused: the window's id is among those to refuse.
            KeyError: a keyframe's stamp is not among the truth's.

        """
        if window.id in self.refuse:
            raise ReconstructionRefused(f"window {window.id} is among those to refuse")
        rng = np.random.default_rng((self.seed, window.id))
        window_scale = float(np.exp(self.noise.scale * rng.standard_normal()))
        world_camera = np.array([self._poses[keyframe.stamp] for keyframe in window.keyframes])
        depth, intrinsics = [], []
        for keyframe, matrix in zip(window.keyframes, world_camera, strict=True):
            height, width = keyframe.image.shape[:2]
            factor = self.depth_width / width
            small = resize_intrinsics(keyframe.intrinsics, factor, factor)
            intrinsics.append(small)
            depth.append(_depth(self.scene, matrix.tobytes(), small.tobytes(),
                                (self.depth_width, round(height * factor))))
        depth_maps = np.array(depth)
        median = float(np.nanmedian(depth_maps))
        window_camera = inverse(world_camera[0]) @ world_camera
        for matrix in window_camera[1:]:
            matrix[:] = matrix @ pose(so3_exp(self.noise.rotation * rng.standard_normal(3)),
                                      self.noise.translation * median * rng.standard_normal(3))
        window_camera[:, :3, 3] /= window_scale
        window_camera[0] = np.eye(4)
        depth_maps *= np.exp(self.noise.depth * rng.standard_normal(depth_maps.shape, np.float32)) \
            / np.float32(window_scale)
        depth_maps[rng.random(depth_maps.shape, np.float32) < self.noise.unknown] = np.nan
        confidence = np.where(np.isnan(depth_maps), 0, rng.random(depth_maps.shape, np.float32)).astype(np.float32)
        return WindowGeometry(window.ids, window_camera, np.array(intrinsics), depth_maps, confidence,
                              report={"unit_m": window_scale})


@lru_cache(maxsize=256)  # a keyframe is in several windows, and a sequence is often reconstructed more than once
def _depth(scene: Scene, world_camera: bytes, intrinsics: bytes, size: tuple[int, int]) -> Float:
    """Return the depth of a scene from a pose, given as the bytes of its matrices."""
    return scene.depth(np.frombuffer(world_camera).reshape(4, 4), np.frombuffer(intrinsics).reshape(3, 3), size)
