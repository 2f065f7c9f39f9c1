"""Decode the output of the network to the geometry of a window; `encode` is the inverse, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, inverse, pose, quaternion_from_matrix
from vggt_ros.reconstruction.base import ReconstructionRefused, WindowGeometry
from vggt_ros.reconstruction.vggt.output.filtering import RANKS, filter_points
from vggt_ros.reconstruction.vggt.output.focal import agreement, doubts, own_or_shared
from vggt_ros.reconstruction.vggt.settings import CONVENTIONS, VggtConfig
from vggt_ros.windows.keyframe import Window

Float = NDArray[np.float32]
_CLEAR = 0.3
"""Share of pixels whose depth has to agree with another image's before a convention counts as the better one."""


@dataclass(frozen=True, eq=False)
class NetworkOutput:
    """The output of the network for S images of H x W.

    Attributes:
        pose_enc: (S, 9), translation 3, quaternion x y z w (not normalized), fov_h, fov_w in radians; the pose is
            camera-from-world, or what `vggt.pose_convention` says.
        depth: (S, H, W), along the optical axis, in the scale of the window.
        depth_conf: confidence (S, H, W), at least 1.

    """

    pose_enc: Float
    depth: Float
    depth_conf: Float

    def filtered(self, settings: VggtConfig) -> FilteredOutput:
        """Return the output with depth filtered according to `settings`."""
        depth, ranks = filter_points(torch.from_numpy(self.depth), torch.from_numpy(self.depth_conf), settings)
        return FilteredOutput(self.pose_enc, depth.numpy(), ranks.numpy())


@dataclass(frozen=True, eq=False)
class FilteredOutput:
    """The filtered output, as copied from the device to the host.

    Attributes:
        pose_enc: as in `NetworkOutput`.
        depth: (S, H, W), NaN where unknown or filtered out.
        ranks: ranks of the confidence, uint8 (S, H, W), from 0 to `RANKS` - 1.
        descriptors: place descriptors (S, D) of unit length, or None.

    """

    pose_enc: Float
    depth: Float
    ranks: NDArray[np.uint8]
    descriptors: Float | None = None


def camera_from_world(pose_enc: NDArray[np.floating], convention: str = CONVENTIONS[0]) -> Array:
    """Return the predicted poses `camera_world` (S, 4, 4); the world is approximately the frame of the first camera."""
    encoded = _encoded_poses(pose_enc)
    return encoded if convention == CONVENTIONS[0] else np.array([inverse(matrix) for matrix in encoded])


def _encoded_poses(pose_enc: NDArray[np.floating]) -> Array:
    """Return the poses (S, 4, 4) as they are encoded."""
    x, y, z, w = (pose_enc[:, 3:7].astype(np.float64) / np.linalg.norm(pose_enc[:, 3:7], axis=1, keepdims=True)).T
    rotation = np.array([[1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                         [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                         [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])
    return np.array([pose(r, t) for r, t in zip(rotation.transpose(2, 0, 1), pose_enc[:, :3].astype(np.float64))])


def predicted_intrinsics(pose_enc: NDArray[np.floating], height: int, width: int) -> Array:
    """Return the predicted intrinsics (S, 3, 3) in pixels, with the principal point at (W / 2, H / 2) as published."""
    matrices = np.tile(np.array([[1, 0, width / 2], [0, 1, height / 2], [0, 0, 1]]), (len(pose_enc), 1, 1))
    matrices[:, 0, 0] = width / 2 / np.tan(pose_enc[:, 8].astype(np.float64) / 2)
    matrices[:, 1, 1] = height / 2 / np.tan(pose_enc[:, 7].astype(np.float64) / 2)
    return matrices


def unproject(depth: NDArray[np.floating], world_camera: NDArray[np.floating],
              intrinsics: NDArray[np.floating]) -> Array:
    """Return world points (S, H, W, 3) of depth (S, H, W) at integer pixel coordinates."""
    rows, columns = np.indices(depth.shape[1:])
    pixels = np.stack((columns, rows, np.ones_like(rows)), axis=-1)
    points = np.einsum("sij,hwj->shwi", np.linalg.inv(intrinsics), pixels) * depth[..., None]
    return np.einsum("sij,shwj->shwi", world_camera[:, :3, :3], points) + world_camera[:, None, None, :3, 3]


def decode(output: FilteredOutput, window: Window, focal: tuple[float, float] | None = None,
           report: dict[str, float] | None = None, convention: str = CONVENTIONS[0]) -> WindowGeometry:
    """Return the geometry of a window, in the frame of its first camera.

    Args:
        output: the filtered output of the network for the images of the window.
        window: the window; its intrinsics are used where they are calibrated.
        focal: fx and fy, pixels, that take the place of the predicted ones in a camera that is not calibrated if depth
            agrees better with them; None for the predicted ones.
        report: statistics to include in the report of the geometry.
        convention: what the encoded poses are, as `vggt.pose_convention`.

    Raises:
        ReconstructionRefused: the network's output is not finite, no pixel has depth, or the predicted focal lengths
            contradict each other.

    """
    if not np.isfinite(output.pose_enc).all():
        raise ReconstructionRefused("the network's output is not finite")
    if np.isnan(output.depth).all():
        raise ReconstructionRefused("the network predicts no depth in this window")
    camera_window = camera_from_world(output.pose_enc, convention)
    # The predicted pose of the first camera is only approximately the identity; ours is exactly the identity.
    window_camera = camera_window[0] @ np.linalg.inv(camera_window)
    window_camera[0] = np.eye(4)
    predicted = predicted_intrinsics(output.pose_enc, *output.depth.shape[1:])
    uncertainty, notes = doubts(predicted, window)
    if focal is not None and not all(keyframe.calibrated for keyframe in window.keyframes):
        shared = predicted.copy()
        shared[:, 0, 0], shared[:, 1, 1] = focal
        predicted = own_or_shared(predicted, shared, window_camera, output.depth)
    intrinsics = np.array([keyframe.intrinsics if keyframe.calibrated else guess
                           for keyframe, guess in zip(window.keyframes, predicted)])
    notes = (*notes, *_other_convention(window_camera, camera_window, intrinsics, output.depth, convention))
    ratio = float(np.median(predicted[:, 0, 0] / intrinsics[:, 0, 0]))
    return WindowGeometry(window.ids, window_camera, intrinsics, output.depth,
                          np.divide(output.ranks, RANKS - 1, dtype=np.float32), output.descriptors,
                          report={**(report or {}), "focal_predicted_ratio": ratio},
                          uncertainty=uncertainty, notes=notes)


def _other_convention(window_camera: Array, camera_window: Array, intrinsics: Array, depth: Float,
                      convention: str) -> tuple[str, ...]:
    """Return a note if the depths of the images agree much better by the other convention of poses."""
    other = inverse(camera_window[0]) @ camera_window
    fit = agreement(intrinsics, other, depth)
    if fit < _CLEAR or fit < 2 * agreement(intrinsics, window_camera, depth):
        return ()
    name = next(one for one in CONVENTIONS if one != convention)
    return (f"the depths of its images agree better if the predicted poses are {name}: see vggt.pose_convention",)


def encode(geometry: WindowGeometry, raw_first: Array | None = None, lengths: Sequence[float] = (1.0,),
           convention: str = CONVENTIONS[0]) -> NetworkOutput:
    """Return the network output that decodes to `geometry`, for tests.

    Args:
        geometry: the geometry to encode; unknown depth is NaN.
        raw_first: the pose `camera_world` of the first camera, near the identity; None for the identity.
        lengths: norms of the quaternions, used cyclically; the network does not normalize them.
        convention: what the encoded poses are, as `vggt.pose_convention`.

    """
    world_camera = geometry.window_camera if raw_first is None else inverse(raw_first) @ geometry.window_camera
    encoded = world_camera if convention != CONVENTIONS[0] else np.array([inverse(matrix) for matrix in world_camera])
    height, width = geometry.depth.shape[1:]
    fov = 2 * np.arctan(np.array([height, width]) / 2 / geometry.intrinsics[:, [1, 0], [1, 0]])
    quaternions = np.array([length * quaternion_from_matrix(matrix[:3, :3]) for matrix, length
                            in zip(encoded, np.resize(lengths, len(encoded)))])
    pose_enc = np.concatenate((encoded[:, :3, 3], quaternions, fov), axis=1).astype(np.float32)
    return NetworkOutput(pose_enc, geometry.depth, 1 + np.exp(4 * geometry.confidence))
