"""Simulated IMU samples on a path: derivatives of its poses, gravity, biases and noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.geometry.sim3 import rotation_vectors
from vggt_ros.scale.imu_source import GRAVITY

_BIAS = np.array([0.01, -0.02, 0.015, 0.05, -0.03, 0.04])
"""Bias of the turn rate, rad/s, and of the acceleration, m/s^2."""
_NOISE = 0.0002, 0.002
"""Noise density of the same, rad/s/sqrt(Hz) and m/s^2/sqrt(Hz): that of a small MEMS sensor."""


def imu_samples(world_imu: Array, stamps: NDArray[np.int64], seed: int = 0) -> tuple[NDArray[np.int64], Array]:
    """Return stamps (n - 2,) and samples (n - 2, 6), rad/s and m/s^2 in the IMU's frame, z up in the world.

    `world_imu` (n, 4, 4) are poses at equidistant `stamps` (n,), nanoseconds, dense enough for finite differences.
    """
    dt = float(stamps[1] - stamps[0]) / 1e9
    position, rotation = world_imu[:, :3, 3], world_imu[:, :3, :3]
    acceleration = (position[2:] - 2 * position[1:-1] + position[:-2]) / dt**2 + [0.0, 0.0, GRAVITY]
    turn_rate = rotation_vectors(np.swapaxes(rotation[:-2], 1, 2) @ rotation[2:]) / (2 * dt)
    samples = np.column_stack([turn_rate, np.einsum("nji,nj->ni", rotation[1:-1], acceleration)])
    noise = np.repeat(_NOISE, 3) / np.sqrt(dt) * np.random.default_rng(seed).standard_normal(samples.shape)
    return stamps[1:-1], samples + _BIAS + noise
