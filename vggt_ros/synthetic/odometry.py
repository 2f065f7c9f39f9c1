"""A simulated odometry with the errors of those on robots: it drifts, its clock is late, and it slips for a while."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, inverse, pose, so3_exp


@dataclass(frozen=True)
class OdometryNoise:
    """Errors of the odometry.

    Attributes:
        translation: sigma of each step, as a fraction of its length.
        rotation: sigma of each step about each axis, radians.
        offset: how late its stamps are, seconds.
        slip_begin, slip_seconds: when it slips, in seconds from the beginning, and for how long.
        slip_factor: factor on the length of the steps while it slips.

    """

    translation: float = 0.01
    rotation: float = float(np.radians(0.1))
    offset: float = 0.010
    slip_begin: float = 4.0
    slip_seconds: float = 3.0
    slip_factor: float = 2.0


def drifting_odometry(stamps: NDArray[np.int64], world_camera: Array, noise: OdometryNoise | None = None,
                      seed: int = 0) -> tuple[NDArray[np.int64], Array]:
    """Return stamps (n,) and poses (n, 4, 4), in a frame of their own, of an odometry that follows `world_camera`."""
    noise, rng = noise or OdometryNoise(), np.random.default_rng(seed)
    seconds = (stamps - stamps[0]) / 1e9
    slips = (seconds >= noise.slip_begin) & (seconds < noise.slip_begin + noise.slip_seconds)
    poses = [pose(so3_exp(rng.standard_normal(3)), 10 * rng.standard_normal(3))]
    for row in range(1, len(stamps)):
        step = inverse(world_camera[row - 1]) @ world_camera[row]
        factor = noise.slip_factor if slips[row] else 1.0
        length = float(np.linalg.norm(step[:3, 3]))
        translation = factor * step[:3, 3] + noise.translation * length * rng.standard_normal(3)
        poses.append(poses[-1] @ pose(step[:3, :3] @ so3_exp(noise.rotation * rng.standard_normal(3)), translation))
    return stamps + round(noise.offset * 1e9), np.array(poses)
