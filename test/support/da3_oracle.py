"""Exact geometry encoded as raw output of Depth Anything 3 by the package, and decoded by the real decoder."""

from __future__ import annotations

import numpy as np
import torch

from vggt_ros.geometry.poses import pose, so3_exp
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.reconstruction.da3 import network  # noqa: F401 (before the package: it silences it)
from vggt_ros.reconstruction.da3.decoding import Output, decode
from vggt_ros.reconstruction.da3.settings import Da3Config
from vggt_ros.reconstruction.vggt.output.filtering import filter_points
from vggt_ros.synthetic import SceneReconstructor
from vggt_ros.windows.keyframe import Window


class Da3Oracle(SceneReconstructor):
    """Rendered geometry as the network's last layers would put it out: the world is near any of the cameras."""

    name = "da3"

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Return the decoded raw output of the exact geometry; raises as `SceneReconstructor.reconstruct` does."""
        from depth_anything_3.model.utils.transform import (
            extri_intri_to_pose_encoding,
            pose_encoding_to_extri_intri,
        )
        from depth_anything_3.utils.geometry import affine_inverse

        self.depth_width = window.keyframes[0].image.shape[1]
        exact = super().reconstruct(window)
        rng = np.random.default_rng((self.seed, window.id, 1))
        reference = exact.window_camera[rng.integers(len(exact.window_camera))]
        world_window = pose(so3_exp(0.01 * rng.standard_normal(3)), 0.01 * rng.standard_normal(3)) @ \
            np.linalg.inv(reference)
        world_camera = torch.from_numpy(world_window @ exact.window_camera)[None]
        size = exact.depth.shape[1:]
        encoding = extri_intri_to_pose_encoding(world_camera, torch.from_numpy(exact.intrinsics)[None], size)
        encoding[..., 3:7] *= 1.3  # the network does not normalize them
        decoded, intrinsics = pose_encoding_to_extri_intri(encoding, size)
        depth, ranks = filter_points(torch.from_numpy(exact.depth), 1 + torch.from_numpy(exact.confidence).exp(),
                                     Da3Config())
        return decode(Output(affine_inverse(decoded)[0].numpy(), intrinsics[0].numpy(), depth.numpy(), ranks.numpy()),
                      window, exact.report)
