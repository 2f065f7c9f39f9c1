"""Simulated windows and loops, as feed-forward networks would reconstruct them; every error is a parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from vggt_ros.benchmarks.fusion.trajectories import INTRINSICS, SIZE, World, random_rotation
from vggt_ros.geometry.poses import Array, inverse, pose, so3_exp
from vggt_ros.windows.alignment import View
from vggt_ros.windows.solution import MapKeyframe

OVERLAP, LENGTH = 3, 8
"""Keyframes that consecutive windows share, and keyframes of a window; the package's defaults."""
_MIN_GAP = 12
"""Fewest windows between the two places of a loop."""
_COLOR = np.broadcast_to(np.zeros(3, np.uint8), (SIZE[1], SIZE[0], 3))


@dataclass(frozen=True)
class Errors:
    """Errors of windows; standard deviations unless stated otherwise.

    Those of rotation, translation, noise, scale from image to image and focal length are what recorded outputs of
    VGGT-1B show without refinement (docs/measurements/refinement.md); tilt and bending of rotations were not measured.

    Attributes:
        scale: of the logarithm of a window's scale, over its median depth.
        rotation, translation: of each relative pose of consecutive keyframes, radians and fractions of median depth.
        noise: of the logarithm of each pixel's depth.
        tilt: of a smooth error of each depth map, at its edge.
        deformation_rotation, deformation_scale: of a slow non-rigid deformation over a whole window, radians and
            logarithm of scale; nine tenths of its variance is common to neighboring windows.
        focal: of the logarithm of a window's focal length; depth is stretched with it.
        outliers: probability that a window is an outlier.
        dropped: probability that a window is lost; the next one bridges the gap.

    """

    scale: float = 0.4
    rotation: float = 0.0045
    translation: float = 0.01
    noise: float = 0.01
    tilt: float = 0.01
    deformation_rotation: float = 0.003
    deformation_scale: float = 0.005
    focal: float = 0.009
    outliers: float = 0.0
    dropped: float = 0.0

    @staticmethod
    def none() -> Errors:
        """Return the errors of windows that are exact up to their scale."""
        return Errors(0.4, *[0.0] * 9)


@dataclass(frozen=True, eq=False)
class SimulatedWindow:
    """A window as a reconstructor returns it: keyframe id to its pose and depth, at the window's scale.

    `retry` is the result of a second attempt, for an outlier.
    """

    id: int
    views: dict[int, View]
    outlier: bool = False
    retry: SimulatedWindow | None = None


@dataclass(frozen=True, eq=False)
class SimulatedLoop:
    """A loop as place recognition proposes it, with a joint window of both places.

    Attributes:
        first, second: ids of the windows at the two places.
        joint: reconstruction of keyframes of both.
        true: whether the two places are the same.
        sides: the joint window's keyframes at either place, in order.

    """

    first: int
    second: int
    joint: SimulatedWindow
    true: bool
    sides: tuple[list[int], list[int]]


@dataclass(eq=False)
class WindowSimulator:
    """Simulates windows and loops of a world's keyframes, with errors."""

    world: World
    errors: Errors
    rng: np.random.Generator
    _deformation: Array = field(default_factory=lambda: np.zeros(4))

    def window(self, number: int, keyframes: Sequence[int], cameras: Array | None = None,
               outlier: bool | None = None) -> SimulatedWindow:
        """Return keyframes as reconstructed; `cameras` (s, 4, 4) replace their true poses."""
        errors, rng = self.errors, self.rng
        rows = list(keyframes)
        cameras = self.world.world_camera[rows] if cameras is None else cameras
        depth = self.world.depth[rows].copy()
        median = float(np.nanmedian(depth))
        is_outlier = bool(rng.random() < errors.outliers) if outlier is None else outlier
        new = np.array([errors.deformation_rotation] * 3 + [errors.deformation_scale]) * rng.standard_normal(4)
        # Neighboring windows have nearly the same deformation; its variance stays that of the parameter.
        self._deformation = new if not self._deformation.any() else \
            np.sqrt(0.9) * self._deformation + np.sqrt(0.1) * new
        stretch = float(np.exp(errors.focal * rng.standard_normal()))
        camera_poses, scale_drift = [np.eye(4)], np.exp(
            self._deformation[3] * np.arange(len(rows)) / max(len(rows) - 1, 1))
        for i in range(1, len(rows)):
            step = inverse(cameras[i - 1]) @ cameras[i]
            rotation = self._deformation[:3] / (len(rows) - 1)
            outlier_rotation = random_rotation(rng, 0.15) if is_outlier and i == len(rows) // 2 else np.eye(3)
            step[:3, 3] = scale_drift[i] * (step[:3, 3] + errors.translation * median * rng.standard_normal(3))
            step[2, 3] *= stretch
            step[:3, :3] = step[:3, :3] @ so3_exp(rotation) @ random_rotation(rng, errors.rotation) @ outlier_rotation
            camera_poses.append(camera_poses[-1] @ step)
        depth *= np.exp(errors.noise * rng.standard_normal(depth.shape)) * scale_drift[:, None, None] * stretch
        depth *= np.exp(errors.tilt * np.array([_smooth(rng) for _ in rows]))
        if is_outlier:
            depth *= np.exp(0.3 * np.array([_smooth(rng) for _ in rows]))
        scale = median * float(np.exp(errors.scale * rng.standard_normal()))
        poses = np.array(camera_poses)
        poses[:, :3, 3] /= scale
        intrinsics = INTRINSICS * np.array([[stretch], [stretch], [1]])
        intrinsics[:2, 2] = INTRINSICS[:2, 2]
        confidence = rng.integers(64, 256, depth.shape, np.uint8)  # unrelated to the errors
        return SimulatedWindow(number, {
            row: View(camera, MapKeyframe(row, row, intrinsics, (d / scale).astype(np.float16), c, _COLOR))
            for row, camera, d, c in zip(rows, poses, depth, confidence, strict=True)}, is_outlier)

    def windows(self) -> list[SimulatedWindow]:
        """Return the windows of the trajectory; the last may be partial, one after a lost window bridges the gap."""
        simulated: list[SimulatedWindow] = []
        new = LENGTH - OVERLAP
        known: list[int] = []
        for number, start in enumerate(range(0, len(self.world) - OVERLAP, new)):
            rows = list(range(start, min(start + LENGTH, len(self.world))))
            if simulated and self.rng.random() < self.errors.dropped:
                continue
            if known and known[-1] < rows[0]:
                rows = [*known[-OVERLAP:], *rows[::2]]
            window = self.window(number, rows, outlier=None if simulated else False)
            if window.outlier:
                window = replace(window, retry=self.window(number, rows))
            simulated.append(window)
            known = rows
        return simulated

    def loops(self, windows: Sequence[SimulatedWindow], false: float, every: int = 3) -> list[SimulatedLoop]:
        """Return loops, sorted by their second windows.

        Args:
            windows: of the trajectory.
            false: number of false loops for each true one; half are in groups of 3 to 6 that agree with each other.
            every: one true loop in so many windows at most.

        """
        rng, found = self.rng, []
        middle = [sorted(w.views)[len(w.views) // 2] for w in windows]
        cameras = self.world.world_camera[middle]
        median = float(np.nanmedian(self.world.depth))
        for j in range(_MIN_GAP, len(windows), every):
            near = np.linalg.norm(cameras[:j - _MIN_GAP, :3, 3] - cameras[j, :3, 3], axis=1) < 0.5 * median
            near &= cameras[:j - _MIN_GAP, :3, 2] @ cameras[j, :3, 2] > np.cos(np.radians(30))
            if near.any():
                found.append(self._joint(windows, int(rng.choice(np.flatnonzero(near))), j, np.eye(4), True))
        false_count = round(false * (len(found) or len(windows) // 6))
        families = 0
        while (remaining := false_count - sum(not loop.true for loop in found)) > 0:
            size = int(rng.integers(3, 7)) if families * 2 < false_count and remaining >= 3 else 1
            size = min(size, remaining)
            families += size if size > 1 else 0
            if len(windows) <= _MIN_GAP + size:
                break
            j = int(rng.integers(_MIN_GAP, len(windows) - size + 1))
            i = int(rng.integers(0, j - _MIN_GAP + 1))
            # Perceptual aliasing: the surroundings of the second place, moved to the first one.
            nearby = pose(random_rotation(rng, 0.15), 0.2 * median * rng.standard_normal(3))
            look_alike = cameras[i] @ nearby @ inverse(cameras[j])
            if np.linalg.norm((look_alike @ cameras[j] - cameras[j])[:3, 3]) < median:
                continue
            consistent = bool(rng.random() < 0.5)
            found += [self._joint(windows, min(i + m, j + m - _MIN_GAP), j + m, look_alike, False, consistent)
                      for m in range(size)]
        return sorted(found, key=lambda loop: loop.second)

    def _joint(self, windows: Sequence[SimulatedWindow], i: int, j: int, look_alike: Array, true: bool,
               consistent: bool = True) -> SimulatedLoop:
        """Return a loop with its joint window of four keyframes at each place, fewer at the end of the trajectory."""
        first, second = ([sorted(windows[k].views)[2:6] for k in (i, j)])
        cameras = np.concatenate([self.world.world_camera[first], look_alike @ self.world.world_camera[second]])
        if not consistent:  # the second place is deformed differently in each joint window
            for step in range(5, len(cameras)):
                cameras[step] = cameras[step] @ pose(random_rotation(self.rng, 0.1), np.zeros(3))
        joint = self.window(-1, [*first, *second], cameras, False)
        if not consistent:
            for keyframe in second:
                stored = joint.views[keyframe].keyframe
                stored.depth[:] = (stored.depth * np.exp(0.4 * _smooth(self.rng))).astype(np.float16)
        return SimulatedLoop(windows[i].id, windows[j].id, joint, true, (first, second))


def _smooth(rng: np.random.Generator) -> Array:
    """Return a smooth random field (h, w) of about unit size."""
    return np.asarray(cv2.resize(rng.standard_normal((2, 3)), SIZE, interpolation=cv2.INTER_LINEAR))
