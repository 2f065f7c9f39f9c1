"""The ground of a wheeled robot as soft factors: it stays at one height, and level.

What is measured is the direction that is up for the camera when the robot is level, against the direction that is up
in the map, and the height of the camera in the map. Turning about the vertical and driving in the plane are free. On a
ramp or another floor the factors disagree with the chain by many sigmas; the loss is robust (Geman-McClure, as in
Huber, Robust Statistics, 1981), so that there they have hardly any weight, and the map follows the windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, rotation_between_directions
from vggt_ros.geometry.sim3 import scales

_SPACING = 5
"""One row in so many has factors: the ground under neighboring keyframes is the same, and so is its error."""
_FREE_SIGMA = 1e4
"""Sigma of what the ground does not determine."""


@dataclass(frozen=True, eq=False)
class PlanarFactors:
    """Factors on the poses of nodes.

    Attributes:
        nodes: int64 (n,).
        targets: (n, 4, 4), the poses of the nodes with the tilt and the height that the ground gives.
        covariances: (n, 2, 7, 7), of the tilt and of the height, as perturbations of the target on the right.

    """

    nodes: NDArray[np.int64]
    targets: Array
    covariances: Array


@dataclass(frozen=True, eq=False)
class PlanarGround:
    """What is known about the ground.

    Attributes:
        up_world: unit vector (3,) in the frame of the map's world.
        up_camera: unit vector (3,) in the frame of the camera, while the robot is level.
        tilt_sigma: of roll and pitch, radians.
        height_sigma: of the height, map units.

    """

    up_world: Array
    up_camera: Array
    tilt_sigma: float
    height_sigma: float

    def factors(self, poses: Array) -> PlanarFactors:
        """Return factors on some of the nodes, rows of `poses` (n, 4, 4); the first row is at the ground's height."""
        rows = np.arange(_SPACING, len(poses), _SPACING)
        scale, targets = scales(poses[rows]), poses[rows].copy()
        for target, unit in zip(targets, scale, strict=True):
            tilt = rotation_between_directions(target[:3, :3] @ self.up_camera / unit, self.up_world)
            target[:3, :3] = tilt @ target[:3, :3]
        height = (poses[rows, :3, 3] - poses[0, :3, 3]) @ self.up_world
        targets[:, :3, 3] -= height[:, None] * self.up_world
        vertical = np.outer(self.up_camera, self.up_camera)
        free = np.full((len(rows), 2, 7, 7), _FREE_SIGMA**2) * np.eye(7)
        free[:, 0, :3, :3] = self.tilt_sigma**2 * (np.eye(3) - vertical) + _FREE_SIGMA**2 * vertical
        free[:, 1, 3:6, 3:6] = (self.height_sigma / scale[:, None, None]) ** 2 * vertical \
            + _FREE_SIGMA**2 * (np.eye(3) - vertical)
        return PlanarFactors(rows, targets, free)
