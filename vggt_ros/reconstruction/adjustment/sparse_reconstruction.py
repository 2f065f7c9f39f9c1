"""A sparse solution of a window: cameras and points, and the observations that agree with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.reconstruction.adjustment.bundle import Scene
from vggt_ros.reconstruction.adjustment.lens import Lens

Mask = NDArray[np.bool_]

_UNCHANGED = Lens()


@dataclass(frozen=True, eq=False)
class SparseReconstruction:
    """A sparse solution of a window.

    Attributes:
        scene: cameras and points; cameras that could not be registered stay at the identity.
        registered: (S,), the cameras that have a pose.
        inliers: (n, S), the observations that agree with the scene.
        observations: (n, S, 2), the observations used, pixels from the principal point.
        initial_pair: the keyframes of the initial two-view geometry.
        lens: what the solution says of the lens.

    """

    scene: Scene
    registered: Mask
    inliers: Mask
    observations: Array
    initial_pair: tuple[int, int]
    lens: Lens = _UNCHANGED
