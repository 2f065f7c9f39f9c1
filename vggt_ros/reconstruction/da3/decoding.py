"""Decode what the network predicts to the geometry of a window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, inverse, orthonormalize, pose
from vggt_ros.reconstruction.base import ReconstructionRefused, WindowGeometry
from vggt_ros.reconstruction.vggt.output.filtering import RANKS
from vggt_ros.reconstruction.vggt.output.focal import doubts, own_or_shared
from vggt_ros.windows.keyframe import Window

MAX_SPREAD, MAX_ASPECT = 0.3, (0.7, 1.4)
"""Spread of the predicted focal lengths, and fx / fy over that of the camera, beyond which a window is refused: wide,
because nobody has recorded what this network usually has. Smaller deviations make a window more uncertain."""


@dataclass(frozen=True, eq=False)
class Output:
    """What the network predicts for S images of H x W, filtered, on the host.

    Attributes:
        camera_world: poses of the world in the cameras, float32 (S, 3, 4); where the world is depends on the window.
        intrinsics: float32 (S, 3, 3), pixels, with the principal point at (W / 2, H / 2).
        depth: along the optical axis, float32 (S, H, W), NaN where unknown or filtered out; in the unit of the poses.
        ranks: ranks of the confidence, uint8 (S, H, W), from 0 to `RANKS` - 1.

    """

    camera_world: NDArray[np.float32]
    intrinsics: NDArray[np.float32]
    depth: NDArray[np.float32]
    ranks: NDArray[np.uint8]


def poses_in_first(camera_world: NDArray[np.floating]) -> Array:
    """Return `first_camera` (S, 4, 4) of poses `camera_world` (S, 3, 4); the first is exactly the identity."""
    matrices = [pose(orthonormalize(matrix[:, :3]), matrix[:, 3]) for matrix in camera_world.astype(np.float64)]
    first_camera = np.array([matrices[0] @ inverse(matrix) for matrix in matrices])
    first_camera[0] = np.eye(4)
    return first_camera


def decode(output: Output, window: Window, report: dict[str, float]) -> WindowGeometry:
    """Return the geometry of a window, in the frame of its first camera.

    Intrinsics of a calibrated camera are the keyframes'. Else they are the predicted ones, each image's own or their
    median, whichever makes the depths of the images agree better.

    Raises:
        ReconstructionRefused: the network's output is not finite, no pixel has depth, or the predicted focal lengths
            contradict each other.

    """
    if not (np.isfinite(output.camera_world).all() and np.isfinite(output.intrinsics).all()):
        raise ReconstructionRefused("the network's output is not finite")
    if np.isnan(output.depth).all():
        raise ReconstructionRefused("the network predicts no depth in this window")
    window_camera = poses_in_first(output.camera_world)
    predicted = output.intrinsics.astype(np.float64)
    uncertainty, notes = doubts(predicted, window, MAX_SPREAD, MAX_ASPECT, "da3")
    if not all(keyframe.calibrated for keyframe in window.keyframes):
        shared = predicted.copy()
        shared[:, [0, 1], [0, 1]] = np.median(predicted[:, [0, 1], [0, 1]], axis=0)
        predicted = own_or_shared(predicted, shared, window_camera, output.depth)
    intrinsics = np.array([keyframe.intrinsics if keyframe.calibrated else guess
                           for keyframe, guess in zip(window.keyframes, predicted, strict=True)])
    ratio = float(np.median(predicted[:, 0, 0] / intrinsics[:, 0, 0]))
    return WindowGeometry(window.ids, window_camera, intrinsics, output.depth,
                          np.divide(output.ranks, RANKS - 1, dtype=np.float32),
                          report={**report, "focal_predicted_ratio": ratio}, uncertainty=uncertainty, notes=notes)
