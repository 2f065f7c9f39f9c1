"""True trajectories and depth, from which the fusion benchmark simulates its windows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from vggt_ros.geometry.poses import Array, so3_exp
from vggt_ros.geometry.sim3 import rotation_vectors
from vggt_ros.sequences.opening import open_sequence
from vggt_ros.synthetic import laps, look_at, pinhole, room

SIZE = (32, 24)
"""Width and height of the depth maps: alignment needs 500 pixels, and these are 768."""
INTRINSICS = pinhole(*SIZE)


@dataclass(frozen=True, eq=False)
class World:
    """True poses and depth of the keyframes of a trajectory.

    Attributes:
        name: of the scene.
        world_camera: (n, 4, 4).
        depth: true depth (n, h, w), meters.

    """

    name: str
    world_camera: Array
    depth: Array

    def __len__(self) -> int:
        """Return the number of keyframes."""
        return len(self.world_camera)


def drive(windows: int, seed: int, new_keyframes: int = 5, lap: int = 80) -> World:
    """Return repeated laps around a hilly block, of `lap` keyframes each, about a meter apart."""
    rng = np.random.default_rng((seed, 1))
    count = windows * new_keyframes + 3
    angle = 2 * np.pi * np.arange(count + 1) / lap
    side = lap / 6.5
    position = np.stack([side * np.sign(np.cos(angle)) * abs(np.cos(angle)) ** 0.7,
                         side * np.sign(np.sin(angle)) * abs(np.sin(angle)) ** 0.7,
                         1.5 + 0.8 * np.sin(2 * angle)], 1)
    position[:, :2] += cv2.GaussianBlur(1.5 * rng.standard_normal((count + 1, 2)), (1, 0), 4, sigmaY=4)
    cameras = np.array([look_at(p, q) for p, q in pairwise(position)])
    return World("drive", cameras, _street(count, rng, 12.0))


def partial(windows: int, seed: int, new_keyframes: int = 5) -> World:
    """Return a drive whose last window has only two new keyframes."""
    full = drive(windows, seed, new_keyframes)
    return World("partial", full.world_camera[:-3], full.depth[:-3])


def room_laps(windows: int, seed: int, new_keyframes: int = 5) -> World:
    """Return laps around the rendered, furnished room of the demo, with its true depth."""
    scene = room()
    cameras = laps(windows * new_keyframes + 3, laps=max(1.0, windows / 20), inward=0.9 - 0.02 * (seed % 5))
    return World("room", cameras, np.array([scene.depth(camera, INTRINSICS, SIZE) for camera in cameras], np.float64))


def recorded(folder: Path, windows: int, seed: int, new_keyframes: int = 5) -> World:
    """Return a recorded camera's true trajectory, with simulated depth.

    Raises:
        FileError: the sequence is not there.

    """
    truth = open_sequence(folder).truth
    assert truth is not None, f"{folder} has no ground truth"
    poses = truth[1]
    # Keyframes at equal amounts of motion: the sum of translation and rotation, each over its mean from pose to pose.
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    rotations = np.linalg.norm(rotation_vectors(np.swapaxes(poses[:-1, :3, :3], 1, 2) @ poses[1:, :3, :3]), axis=1)
    progress = np.append(0, np.cumsum(steps + rotations * steps.mean() / max(rotations.mean(), 1e-6)))
    positions = np.linspace(0, progress[-1], min(windows * new_keyframes + 3, len(poses) // 2))
    poses = poses[np.unique(np.searchsorted(progress, positions).clip(0, len(poses) - 1))]
    depth = 8 * float(np.median(np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)))
    return World(folder.name, poses, _street(len(poses), np.random.default_rng((seed, 2)), depth))


def straight(windows: int, seed: int, new_keyframes: int = 5) -> World:
    """Return a straight drive with the camera looking ahead: camera centers on a line."""
    count = windows * new_keyframes + 3
    cameras = np.array([look_at(np.array([x, 0, 1.5]), np.array([x + 1.0, 0, 1.5])) for x in range(count)])
    return World("straight", cameras, _street(count, np.random.default_rng((seed, 3)), 12.0))


def turn(windows: int, seed: int, new_keyframes: int = 5) -> World:
    """Return a drive with a pure rotation by 120 degrees in its middle: no parallax there."""
    count = windows * new_keyframes + 3
    begin, end = count // 2 - 12, count // 2 + 12
    heading = np.radians(120) * np.clip((np.arange(count) - begin) / (end - begin), 0, 1)
    moving = (np.arange(count) < begin) | (np.arange(count) >= end)
    step = np.stack([np.cos(heading), np.sin(heading), 0 * heading], 1)
    position = np.cumsum(step * moving[:, None], 0) + [0, 0, 1.5]
    cameras = np.array([look_at(p, p + s) for p, s in zip(position, step, strict=True)])
    return World("turn", cameras, _street(count, np.random.default_rng((seed, 4)), 12.0))


def planar(windows: int, seed: int, new_keyframes: int = 5) -> World:
    """Return a trajectory along a wall that fills the image: depth on a plane."""
    count = windows * new_keyframes + 3
    rng = np.random.default_rng((seed, 5))
    x = 0.4 * np.arange(count)
    direction = cv2.GaussianBlur(0.3 * rng.standard_normal((count, 1)), (1, 0), 4, sigmaY=4)[:, 0]
    position = np.stack([x, 0 * x, 1.5 + 0.2 * np.sin(x / 3)], 1)
    cameras = np.array([look_at(p, p + [g, 4.0, 0]) for p, g in zip(position, direction, strict=True)])
    rays = _rays()
    normal = np.einsum("nij,j->ni", np.swapaxes(cameras[:, :3, :3], 1, 2), np.array([0.0, 1.0, 0.0]))
    return World("planar", cameras, 4.0 / np.einsum("hwi,ni->nhw", rays, normal))


def _rays() -> Array:
    columns, rows = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    return np.stack([columns, rows, np.ones_like(rows)], 2) @ np.linalg.inv(INTRINSICS).T


def _street(count: int, rng: np.random.Generator, scale: float) -> Array:
    """Return depth (count, h, w) as on a street: ground below, fronts at the sides, other objects in every keyframe."""
    rays = _rays()
    ground = 0.15 * scale / np.maximum(rays[..., 1], 1e-3)
    facades = 0.6 * scale / np.maximum(abs(rays[..., 0]), 1e-3)
    base = np.minimum(np.minimum(ground, facades), 2 * scale)
    blobs = np.array([cv2.resize(rng.standard_normal((4, 5)), SIZE, interpolation=cv2.INTER_CUBIC)
                      for _ in range(count)])
    return base * np.exp(0.25 * blobs)


def random_rotation(rng: np.random.Generator, sigma: float) -> Array:
    """Return a random rotation (3, 3) with `sigma` radians an axis."""
    return so3_exp(sigma * rng.standard_normal(3))
