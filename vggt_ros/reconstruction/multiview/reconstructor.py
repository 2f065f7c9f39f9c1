"""`Multiview`: from the images of a window to poses and dense depth, or a refusal with its reason."""

from __future__ import annotations

import time
from dataclasses import asdict

import cv2
import numpy as np
import pycolmap
from numpy.typing import NDArray

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera, resize_intrinsics
from vggt_ros.geometry.poses import inverse, pose
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.reconstruction.multiview import depth as dense
from vggt_ros.reconstruction.multiview.brightness import balanced_images
from vggt_ros.reconstruction.multiview.poses import SparseReconstruction
from vggt_ros.reconstruction.multiview.rolling_shutter import ReadoutEstimator, shift_per_second
from vggt_ros.reconstruction.multiview.selection import solve_window
from vggt_ros.reconstruction.multiview.settings import MultiviewConfig
from vggt_ros.reconstruction.multiview.tracks import detect, track
from vggt_ros.windows.keyframe import Window

Array = NDArray[np.float64]


UNCALIBRATED_SIGMA = 0.2
"""Relative standard deviation of an assumed focal length."""


class Multiview:
    """Structure from motion on one window at a time; only the estimated readout time is kept between windows."""

    name = "multiview"
    on_cpu = True
    adjusted = True

    def __init__(self, config: Config) -> None:
        """Use the settings of the group `multiview`, and the seed."""
        self._settings = config.of(MultiviewConfig)
        self._seed = config.seed
        self._readout = ReadoutEstimator(self._settings.readout)
        pycolmap.logging.minloglevel = pycolmap.logging.Level.ERROR.value

    @property
    def readout(self) -> float:
        """Rolling-shutter readout time from the first to the last row, seconds, as configured or estimated so far."""
        return self._readout.seconds

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return (width, height) of the camera, reduced to `multiview.width` on the longer side if it is larger."""
        return camera.size_within(self._settings.width)

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Solve a window; keyframes that cannot be registered are left out.

        Raises:
            ReconstructionRefused: too few tracks, too little parallax, or no solution with enough inliers.

        """
        times = [time.perf_counter()]
        features = [detect(image, self._settings.corners) for image in balanced_images(window.keyframes)]
        tracks = track(features, window.keyframes)
        times.append(time.perf_counter())
        intrinsics = np.array([keyframe.intrinsics for keyframe in window.keyframes])
        visible = ~np.isnan(tracks[..., 0])
        observations = np.nan_to_num(tracks - intrinsics[:, :2, 2])
        focal = np.stack([intrinsics[:, 0, 0], intrinsics[:, 1, 1]], 1)
        calibrated = all(keyframe.calibrated for keyframe in window.keyframes)
        grays = [feature.gray for feature in features]
        shift_rate = shift_per_second(tracks, window.keyframes)
        solved, metrics = solve_window(
            grays, intrinsics[:, :2, 2], observations, visible, self.readout * shift_rate, focal,
            self._settings.focal_sigma if calibrated else UNCALIBRATED_SIGMA, self._seed)
        self._readout.update(solved, visible, shift_rate)
        times.append(time.perf_counter())

        kept = np.flatnonzero(solved.registered)
        intrinsics[:, 0, 0], intrinsics[:, 1, 1] = solved.scene.focal.T
        window_camera, points = _in_first_camera(solved, kept)
        small_grays, small_intrinsics = _downscale([grays[s] for s in kept], intrinsics[kept],
                                                   self._settings.depth_width)
        depth, sigma = dense.dense_depth(small_grays, small_intrinsics, window_camera, points, solved.inliers[:, kept])
        times.append(time.perf_counter())
        seconds = np.diff(times)
        report = {**asdict(metrics), "known_depth": np.isfinite(depth).mean(), "focal_px": intrinsics[0, 0, 0],
                  "readout_s": self.readout,
                  "track_s": seconds[0], "solve_s": seconds[1], "depth_s": seconds[2]}
        return WindowGeometry(tuple(window.ids[s] for s in kept), window_camera, small_intrinsics, depth,
                              dense.rank(sigma), report={name: float(value) for name, value in report.items()})


def _in_first_camera(solved: SparseReconstruction, kept: NDArray[np.intp]) -> tuple[Array, Array]:
    """Return `window_camera` (S, 4, 4) and points (n, 3): the first kept camera is the identity, the median depth 1."""
    scene = solved.scene
    first = pose(scene.rotation[kept[0]], scene.translation[kept[0]])
    window_camera = np.array([first @ inverse(pose(scene.rotation[s], scene.translation[s])) for s in kept])
    points = scene.points @ first[:3, :3].T + first[:3, 3]
    median_depth = float(np.median(scene.in_cameras()[..., 2][solved.inliers]))
    window_camera[:, :3, 3] /= median_depth
    window_camera[0] = np.eye(4)
    return window_camera, points / median_depth


def _downscale(grays: list[NDArray[np.uint8]], intrinsics: Array, width: int) -> tuple[NDArray[np.uint8], Array]:
    """Return images downscaled to `width`, and their intrinsics."""
    height, full = grays[0].shape
    size = (min(width, full), round(height * min(width, full) / full))
    small = np.array([cv2.resize(gray, size, interpolation=cv2.INTER_AREA) for gray in grays])
    return small, np.array([resize_intrinsics(matrix, size[0] / full, size[1] / height) for matrix in intrinsics])
