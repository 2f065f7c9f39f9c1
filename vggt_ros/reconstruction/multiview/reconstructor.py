"""`Multiview`: the images of a window to poses and depth, or a refusal with its reason."""

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
from vggt_ros.reconstruction.multiview.poses import Solved
from vggt_ros.reconstruction.multiview.rolling_shutter import Readout, skew
from vggt_ros.reconstruction.multiview.selection import find
from vggt_ros.reconstruction.multiview.tracks import detect, track
from vggt_ros.windows.keyframe import Window

Array = NDArray[np.float64]


UNCALIBRATED_SIGMA = 0.2
"""How far, as a fraction, an assumed focal length may be off."""


class Multiview:
    """Structure from motion on one window at a time; all that is carried over is the camera's readout time."""

    name = "multiview"

    def __init__(self, config: Config) -> None:
        """Take the settings of the group `multiview`, and the seed."""
        self._settings = config.multiview
        self._seed = config.seed
        self._readout = Readout(config.multiview.readout)
        pycolmap.logging.minloglevel = pycolmap.logging.Level.ERROR.value

    @property
    def readout(self) -> float:
        """Seconds from the first to the last row of the camera's shutter, as given or as estimated so far."""
        return self._readout.seconds

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return the camera's size, reduced to `multiview.width` on the longer side if it is larger."""
        return camera.size_within(self._settings.width)

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Solve a window; keyframes that cannot be placed are left out.

        Raises:
            ReconstructionRefused: too few tracks, no parallax, or no solution that explains the tracks.

        """
        clock = [time.perf_counter()]
        features = [detect(keyframe.image, self._settings.corners) for keyframe in window.keyframes]
        tracks = track(features, window.keyframes)
        clock.append(time.perf_counter())
        matrices = np.array([keyframe.intrinsics for keyframe in window.keyframes])
        seen = ~np.isnan(tracks[..., 0])
        observed = np.nan_to_num(tracks - matrices[:, :2, 2])
        focal = np.stack([matrices[:, 0, 0], matrices[:, 1, 1]], 1)
        calibrated = all(keyframe.calibrated for keyframe in window.keyframes)
        grays = [feature.gray for feature in features]
        shift = skew(tracks, window.keyframes)
        solved, judgment = find(grays, matrices[:, :2, 2], observed, seen, self.readout * shift, focal,
                                self._settings.focal_sigma if calibrated else UNCALIBRATED_SIGMA, self._seed)
        self._readout.learn(solved, seen, shift)
        clock.append(time.perf_counter())

        kept = np.flatnonzero(solved.placed)
        matrices[:, 0, 0], matrices[:, 1, 1] = solved.scene.focal.T
        window_camera, points = _in_first_camera(solved, kept)
        reduced, small = _reduce([grays[s] for s in kept], matrices[kept], self._settings.depth_width)
        depth, sigma = dense.dense_depth(reduced, small, window_camera, points, solved.seen[:, kept])
        clock.append(time.perf_counter())
        seconds = np.diff(clock)
        report = {**asdict(judgment), "known_depth": np.isfinite(depth).mean(), "focal_px": matrices[0, 0, 0],
                  "readout_s": self.readout,
                  "track_s": seconds[0], "solve_s": seconds[1], "depth_s": seconds[2]}
        return WindowGeometry(tuple(window.ids[s] for s in kept), window_camera, small, depth, dense.rank(sigma),
                              report={name: float(value) for name, value in report.items()})


def _in_first_camera(solved: Solved, kept: NDArray[np.intp]) -> tuple[Array, Array]:
    """Return `window_camera` (S, 4, 4) and points (n, 3), the first kept camera the identity, median depth 1."""
    scene = solved.scene
    first = pose(scene.rotation[kept[0]], scene.translation[kept[0]])
    window_camera = np.array([first @ inverse(pose(scene.rotation[s], scene.translation[s])) for s in kept])
    points = scene.points @ first[:3, :3].T + first[:3, 3]
    unit = float(np.median(scene.in_cameras()[..., 2][solved.seen]))
    window_camera[:, :3, 3] /= unit
    window_camera[0] = np.eye(4)
    return window_camera, points / unit


def _reduce(grays: list[NDArray[np.uint8]], matrices: Array, width: int) -> tuple[NDArray[np.uint8], Array]:
    """Return images reduced to `width`, and their intrinsics."""
    height, full = grays[0].shape
    size = (min(width, full), round(height * min(width, full) / full))
    small = np.array([cv2.resize(gray, size, interpolation=cv2.INTER_AREA) for gray in grays])
    return small, np.array([resize_intrinsics(matrix, size[0] / full, size[1] / height) for matrix in matrices])
