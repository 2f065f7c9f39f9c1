"""Exact geometry encoded as raw output of the VGGT network, and decoded by the real decoder."""

from __future__ import annotations

import numpy as np

from vggt_ros.geometry.poses import pose, so3_exp
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.reconstruction.vggt.output.decoding import decode, encode
from vggt_ros.reconstruction.vggt.settings import VggtConfig
from vggt_ros.synthetic.oracle import SceneReconstructor
from vggt_ros.windows.keyframe import Window


class VggtOracle(SceneReconstructor):
    """Rendered geometry with the properties of the network's output: an unknown scale, a first camera only near the
    origin, quaternions that are not normalized.

    Attributes:
        settings: of the decoding.
        first_rotation, first_translation: sigmas of the first camera's pose, radians and median depths.

    """

    name = "vggt"
    settings = VggtConfig()
    first_rotation = 0.01
    first_translation = 0.01

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Return the decoded raw output of the exact geometry; raises as `SceneReconstructor.reconstruct` does."""
        self.depth_width = window.keyframes[0].image.shape[1]
        exact = super().reconstruct(window)
        rng = np.random.default_rng((self.seed, window.id, 1))
        median = float(np.nanmedian(exact.depth))
        first = pose(so3_exp(self.first_rotation * rng.standard_normal(3)),
                     self.first_translation * median * rng.standard_normal(3))
        convention = self.settings.pose_convention
        raw = encode(exact, first, (0.7, 1.3, 1.0), convention)
        return decode(raw.filtered(self.settings), window, report=exact.report, convention=convention)
