"""From the network's output to a window's geometry, and back for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vggt_ros.config import VggtConfig
from vggt_ros.geometry.poses import Array, pose, quaternion_from_matrix
from vggt_ros.reconstruction.base import ReconstructionRefused, WindowGeometry
from vggt_ros.reconstruction.vggt.filtering import RANKS, filter_points
from vggt_ros.windows.keyframe import Window

Float = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class RawWindow:
    """What the network says of S images of H x W.

    Attributes:
        pose_enc: (S, 9), camera-from-world translation 3, quaternion x y z w (not normalized), fov_h, fov_w in radians.
        depth: (S, H, W), along the optical axis, units of the window.
        depth_conf: (S, H, W), at least 1.

    """

    pose_enc: Float
    depth: Float
    depth_conf: Float

    def filtered(self, settings: VggtConfig) -> FilteredWindow:
        """Return what is left of it by `settings`."""
        depth, ranks = filter_points(torch.from_numpy(self.depth), torch.from_numpy(self.depth_conf), settings)
        return FilteredWindow(self.pose_enc, depth.numpy(), ranks.numpy())


@dataclass(frozen=True, eq=False)
class FilteredWindow:
    """What is copied from the device.

    Attributes:
        pose_enc: as in `RawWindow`.
        depth: (S, H, W), NaN where unknown or left out.
        ranks: of the confidence, uint8 (S, H, W), from 0 to `RANKS` - 1.
        descriptors: (S, D), unit length, or None.

    """

    pose_enc: Float
    depth: Float
    ranks: NDArray[np.uint8]
    descriptors: Float | None = None


def camera_from_world(pose_enc: NDArray[np.floating]) -> Array:
    """Return camera poses (S, 4, 4) as the network means them: world to camera, the world about the first camera."""
    x, y, z, w = (pose_enc[:, 3:7].astype(np.float64) / np.linalg.norm(pose_enc[:, 3:7], axis=1, keepdims=True)).T
    rotation = np.array([[1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                         [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                         [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])
    return np.array([pose(r, t) for r, t in zip(rotation.transpose(2, 0, 1), pose_enc[:, :3].astype(np.float64))])


def predicted_intrinsics(pose_enc: NDArray[np.floating], height: int, width: int) -> Array:
    """Return intrinsics (S, 3, 3) in pixels, the principal point at (W / 2, H / 2) as published."""
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


def decode(output: FilteredWindow, window: Window, focal: tuple[float, float] | None = None,
           report: dict[str, float] | None = None) -> WindowGeometry:
    """Return the geometry of a window, its first camera exactly at the origin.

    Args:
        output: what the network says of the window's images.
        window: whose intrinsics are used where they are calibrated.
        focal: fx and fy for cameras that are not calibrated, pixels; None: those that the network predicts.
        report: figures to be handed on.

    Raises:
        ReconstructionRefused: the network's output is not finite, or no pixel has depth.

    """
    if not np.isfinite(output.pose_enc).all():
        raise ReconstructionRefused("the network's output is not finite")
    if np.isnan(output.depth).all():
        raise ReconstructionRefused("the network knows no depth in this window")
    camera_window = camera_from_world(output.pose_enc)
    # The network puts its world only about the first camera; ours is exactly there.
    window_camera = camera_window[0] @ np.linalg.inv(camera_window)
    window_camera[0] = np.eye(4)
    predicted = predicted_intrinsics(output.pose_enc, *output.depth.shape[1:])
    if focal is not None:
        predicted[:, 0, 0], predicted[:, 1, 1] = focal
    intrinsics = np.array([keyframe.intrinsics if keyframe.calibrated else guess
                           for keyframe, guess in zip(window.keyframes, predicted)])
    ratio = float(np.median(predicted[:, 0, 0] / intrinsics[:, 0, 0]))
    return WindowGeometry(window.ids, window_camera, intrinsics, output.depth,
                          np.divide(output.ranks, RANKS - 1, dtype=np.float32), output.descriptors,
                          report={**(report or {}), "focal_predicted_ratio": ratio})


def encode(geometry: WindowGeometry, raw_first: Array | None = None, lengths: Sequence[float] = (1.0,)) -> RawWindow:
    """Return the raw output that decodes to `geometry`, for tests.

    Args:
        geometry: what is to come out; unknown depth becomes not a number.
        raw_first: the pose `camera_from_world` of the first camera, about the identity; None: exactly it.
        lengths: of the quaternions, in turn, which the network does not normalize.

    """
    camera_world = np.linalg.inv(geometry.window_camera) @ (np.eye(4) if raw_first is None else raw_first)
    height, width = geometry.depth.shape[1:]
    fov = 2 * np.arctan(np.array([height, width]) / 2 / geometry.intrinsics[:, [1, 0], [1, 0]])
    quaternions = np.array([length * quaternion_from_matrix(matrix[:3, :3]) for matrix, length
                            in zip(camera_world, np.resize(lengths, len(camera_world)))])
    pose_enc = np.concatenate((camera_world[:, :3, 3], quaternions, fov), axis=1).astype(np.float32)
    return RawWindow(pose_enc, geometry.depth, 1 + np.exp(4 * geometry.confidence))
