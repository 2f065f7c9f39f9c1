"""Windows and loops as feed-forward networks make them, with every error a parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from vggt_ros.benchmarks.trajectories import INTRINSICS, SIZE, World, turned
from vggt_ros.geometry.poses import Array, inverse, pose, so3_exp
from vggt_ros.windows.alignment import View
from vggt_ros.windows.solution import MapKeyframe

OVERLAP, LENGTH = 3, 8
"""Keyframes that windows share, and keyframes of a window, as the package's defaults."""
_APART = 12
"""Windows that must lie between the two places of a loop."""
_COLOR = np.broadcast_to(np.zeros(3, np.uint8), (SIZE[1], SIZE[0], 3))


@dataclass(frozen=True)
class Errors:
    """What is wrong with windows; standard deviations unless said otherwise.

    Attributes:
        scale: of the logarithm of a window's unit, over its median depth.
        rotation, translation: of each step from keyframe to keyframe, radians and fractions of the median depth.
        noise: of the logarithm of each pixel's depth.
        tilt: of a smooth error of each depth map, at its edge.
        bend_rotation, bend_scale: of a slow bending over a whole window, radians and logarithm of scale; the same in
            neighboring windows but for a tenth.
        focal: of the logarithm of a window's focal length; depth is stretched with it.
        outliers: probability that a window is wrong altogether.
        dropped: probability that a window is lost; the next one bridges the gap.

    """

    scale: float = 0.4
    rotation: float = 0.0015
    translation: float = 0.004
    noise: float = 0.02
    tilt: float = 0.01
    bend_rotation: float = 0.003
    bend_scale: float = 0.005
    focal: float = 0.01
    outliers: float = 0.0
    dropped: float = 0.0

    @staticmethod
    def none() -> Errors:
        """Return windows that are exact but for their units."""
        return Errors(0.4, *[0.0] * 9)


@dataclass(frozen=True, eq=False)
class SimulatedWindow:
    """A window as a reconstructor answers: keyframe id to its pose and depth, in the window's unit.

    `again` is what it answers if asked a second time, for an outlier.
    """

    id: int
    views: dict[int, View]
    outlier: bool = False
    again: SimulatedWindow | None = None


@dataclass(frozen=True, eq=False)
class SimulatedLoop:
    """A loop as place recognition proposes it, with the joint window of both places.

    Attributes:
        first, second: ids of the windows that see the places.
        joint: keyframes of both.
        true: whether they are one place.
        sides: the joint window's keyframes of either place, in order.

    """

    first: int
    second: int
    joint: SimulatedWindow
    true: bool
    sides: tuple[list[int], list[int]]


@dataclass(eq=False)
class Network:
    """Makes windows of a world's keyframes, with errors."""

    world: World
    errors: Errors
    rng: np.random.Generator
    _bend: Array = field(default_factory=lambda: np.zeros(4))

    def window(self, number: int, keyframes: Sequence[int], cameras: Array | None = None,
               outlier: bool | None = None) -> SimulatedWindow:
        """Return keyframes reconstructed; `cameras` (s, 4, 4) stand in for where they truly are."""
        errors, rng = self.errors, self.rng
        rows = list(keyframes)
        cameras = self.world.world_camera[rows] if cameras is None else cameras
        depth = self.world.depth[rows].copy()
        median = float(np.nanmedian(depth))
        wrong = bool(rng.random() < errors.outliers) if outlier is None else outlier
        fresh = np.array([errors.bend_rotation] * 3 + [errors.bend_scale]) * rng.standard_normal(4)
        # The slow part is shared by neighbors: its variance stays that of the parameter.
        self._bend = fresh if not self._bend.any() else np.sqrt(0.9) * self._bend + np.sqrt(0.1) * fresh
        stretch = float(np.exp(errors.focal * rng.standard_normal()))
        placed, growth = [np.eye(4)], np.exp(self._bend[3] * np.arange(len(rows)) / max(len(rows) - 1, 1))
        for i in range(1, len(rows)):
            step = inverse(cameras[i - 1]) @ cameras[i]
            bend = self._bend[:3] / (len(rows) - 1)
            jump = turned(rng, 0.15) if wrong and i == len(rows) // 2 else np.eye(3)
            step[:3, 3] = growth[i] * (step[:3, 3] + errors.translation * median * rng.standard_normal(3))
            step[2, 3] *= stretch
            step[:3, :3] = step[:3, :3] @ so3_exp(bend) @ turned(rng, errors.rotation) @ jump
            placed.append(placed[-1] @ step)
        depth *= np.exp(errors.noise * rng.standard_normal(depth.shape)) * growth[:, None, None] * stretch
        depth *= np.exp(errors.tilt * np.array([_smooth(rng) for _ in rows]))
        if wrong:
            depth *= np.exp(0.3 * np.array([_smooth(rng) for _ in rows]))
        unit = median * float(np.exp(errors.scale * rng.standard_normal()))
        poses = np.array(placed)
        poses[:, :3, 3] /= unit
        intrinsics = INTRINSICS * np.array([[stretch], [stretch], [1]])
        intrinsics[:2, 2] = INTRINSICS[:2, 2]
        confidence = rng.integers(64, 256, depth.shape, np.uint8)  # knows nothing
        return SimulatedWindow(number, {
            row: View(camera, MapKeyframe(row, row, intrinsics, (d / unit).astype(np.float16), c, _COLOR))
            for row, camera, d, c in zip(rows, poses, depth, confidence, strict=True)}, wrong)

    def windows(self) -> list[SimulatedWindow]:
        """Return the windows of the way; the last one may be partial, and one after a lost one bridges the gap."""
        made: list[SimulatedWindow] = []
        fresh = LENGTH - OVERLAP
        known: list[int] = []
        for number, start in enumerate(range(0, len(self.world) - OVERLAP, fresh)):
            rows = list(range(start, min(start + LENGTH, len(self.world))))
            if made and self.rng.random() < self.errors.dropped:
                continue
            if known and known[-1] < rows[0]:
                rows = [*known[-OVERLAP:], *rows[::2]]
            window = self.window(number, rows, outlier=None if made else False)
            if window.outlier:
                window = replace(window, again=self.window(number, rows))
            made.append(window)
            known = rows
        return made

    def loops(self, windows: Sequence[SimulatedWindow], false: float, every: int = 3) -> list[SimulatedLoop]:
        """Return loops in the order in which their second windows come.

        Args:
            windows: of the way.
            false: how many false loops for a true one; half of them in families of 3 to 6 that agree with each other.
            every: at most one true loop for so many windows.

        """
        rng, found = self.rng, []
        middle = [sorted(w.views)[len(w.views) // 2] for w in windows]
        cameras = self.world.world_camera[middle]
        median = float(np.nanmedian(self.world.depth))
        for j in range(_APART, len(windows), every):
            near = np.linalg.norm(cameras[:j - _APART, :3, 3] - cameras[j, :3, 3], axis=1) < 0.5 * median
            near &= cameras[:j - _APART, :3, 2] @ cameras[j, :3, 2] > np.cos(np.radians(30))
            if near.any():
                found.append(self._joint(windows, int(rng.choice(np.flatnonzero(near))), j, np.eye(4), True))
        wanted = round(false * (len(found) or len(windows) // 6))
        families = 0
        while (left := wanted - sum(not loop.true for loop in found)) > 0:
            size = int(rng.integers(3, 7)) if families * 2 < wanted and left >= 3 else 1
            size = min(size, left)
            families += size if size > 1 else 0
            if len(windows) <= _APART + size:
                break
            j = int(rng.integers(_APART, len(windows) - size + 1))
            i = int(rng.integers(0, j - _APART + 1))
            # What looks alike: the world around the second place, moved so that it lies at the first.
            nearby = pose(turned(rng, 0.15), 0.2 * median * rng.standard_normal(3))
            alike = cameras[i] @ nearby @ inverse(cameras[j])
            if np.linalg.norm((alike @ cameras[j] - cameras[j])[:3, 3]) < median:
                continue
            agrees = bool(rng.random() < 0.5)
            found += [self._joint(windows, min(i + m, j + m - _APART), j + m, alike, False, agrees)
                      for m in range(size)]
        return sorted(found, key=lambda loop: loop.second)

    def _joint(self, windows: Sequence[SimulatedWindow], i: int, j: int, alike: Array, true: bool,
               agrees: bool = True) -> SimulatedLoop:
        """Return a loop with its joint window of four keyframes of each place, fewer if the way ends there."""
        first, second = ([sorted(windows[k].views)[2:6] for k in (i, j)])
        cameras = np.concatenate([self.world.world_camera[first], alike @ self.world.world_camera[second]])
        if not agrees:  # the second place is bent until it fits
            for step in range(5, len(cameras)):
                cameras[step] = cameras[step] @ pose(turned(self.rng, 0.1), np.zeros(3))
        joint = self.window(-1, [*first, *second], cameras, False)
        if not agrees:
            for keyframe in second:
                kept = joint.views[keyframe].keyframe
                kept.depth[:] = (kept.depth * np.exp(0.4 * _smooth(self.rng))).astype(np.float16)
        return SimulatedLoop(windows[i].id, windows[j].id, joint, true, (first, second))


def _smooth(rng: np.random.Generator) -> Array:
    """Return a smooth random field (h, w) of about unit size."""
    return np.asarray(cv2.resize(rng.standard_normal((2, 3)), SIZE, interpolation=cv2.INTER_LINEAR))
