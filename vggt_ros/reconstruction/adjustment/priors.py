"""What is known of cameras and points besides where images show them: poses and depth by a network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.geometry.sim3 import rotation_vectors
from vggt_ros.reconstruction.adjustment.bundle import Scene
from vggt_ros.reconstruction.adjustment.normal_equations import NormalEquations

OBSERVATION_SIGMA = 0.3
"""Standard deviation of an observation that patches have aligned, pixels; weighs the priors against it."""
_PARAMETERS = (0, 1, 5)
"""Of the six parameters of a camera, those on which the depth of a point depends."""


@dataclass(frozen=True, eq=False)
class PosePrior:
    """Expected poses of the cameras.

    Attributes:
        rotation, translation: `camera_world`, (S, 3, 3) and (S, 3).
        sigma_rotation, sigma_translation: how far they may be off, radians and units of the scene.

    """

    rotation: Array
    translation: Array
    sigma_rotation: float
    sigma_translation: float

    def first(self, count: int) -> PosePrior:
        """Return the prior of the first cameras."""
        return PosePrior(self.rotation[:count], self.translation[:count], self.sigma_rotation, self.sigma_translation)

    def cost(self, scene: Scene) -> float:
        """Return the weighted squared error."""
        return float((self._weight * self._error(scene) ** 2).sum())

    def add_to(self, system: NormalEquations, scene: Scene, free: NDArray[np.intp]) -> None:
        """Add it to normal equations."""
        size, weight = 6 * len(free), np.tile(self._weight, len(free))
        system.cameras[np.arange(size), np.arange(size)] += weight
        system.cameras_gradient[:size] += weight * self._error(scene)[free].ravel()

    @property
    def _weight(self) -> Array:
        return (OBSERVATION_SIGMA / np.array([self.sigma_rotation] * 3 + [self.sigma_translation] * 3)) ** 2

    def _error(self, scene: Scene) -> Array:
        """Return the perturbations on the left (S, 6), [rotation, translation], from the expected poses."""
        turn = scene.rotation @ self.rotation.swapaxes(1, 2)
        moved = np.einsum("sij,sj->si", turn, self.translation)
        return np.concatenate([rotation_vectors(turn), scene.translation - moved], 1)


@dataclass(frozen=True, eq=False)
class DepthPrior:
    """Expected depth of points in one camera each.

    It ties the scales of parts of a window to each other that few observations connect. Large errors count less
    (Geman-McClure).

    Attributes:
        view: (n,), the camera; rises.
        depth: (n,), of the point along its optical axis.
        sigma: relative standard deviation of one; errors of a camera's depth are alike, so this is larger than that of
            a pixel.

    """

    view: NDArray[np.intp]
    depth: Array
    sigma: float

    def cost(self, scene: Scene) -> float:
        """Return the robust cost."""
        square = self._residual(scene) ** 2
        return float((OBSERVATION_SIGMA**2 * square / (1 + square / 9)).sum())

    def add_to(self, system: NormalEquations, scene: Scene, free: NDArray[np.intp]) -> None:
        """Add it to normal equations."""
        view = self.view
        residual = self._residual(scene)
        root = OBSERVATION_SIGMA / (1 + residual**2 / 9)
        scale = root / (self.sigma * self.depth)
        x, y = (self._coordinate(scene, axis) for axis in (0, 1))
        j_camera = np.stack([y, -x, np.ones(len(view))]) * scale  # (3, n), of `_PARAMETERS`
        j_point = scene.rotation[view, 2].T * scale  # (3, n)
        residual = residual * root
        system.points[:] += j_point[:, None] * j_point[None]
        system.points_gradient[:] += j_point * residual
        bounds = np.searchsorted(view, np.arange(len(scene.rotation) + 1))
        for row, camera in enumerate(free):
            mine = slice(bounds[camera], bounds[camera + 1])
            own, first = j_camera[:, mine], 6 * row
            parameters = first + np.array(_PARAMETERS)
            system.cameras[parameters[:, None], parameters] += own @ own.T
            system.cameras_gradient[parameters] += own @ residual[mine]
            for jacobian, parameter in zip(own, _PARAMETERS, strict=True):
                system.coupling[first + parameter, :, mine] += jacobian * j_point[:, mine]

    def _coordinate(self, scene: Scene, axis: int) -> Array:
        """Return a coordinate (n,) of the points in their cameras."""
        view = self.view
        return np.einsum("ni,ni->n", scene.rotation[view, axis], scene.points) + scene.translation[view, axis]

    def _residual(self, scene: Scene) -> Array:
        return np.asarray((self._coordinate(scene, 2) / self.depth - 1) / self.sigma)
