"""Bundle adjustment of one window: few cameras, many points, dense normal equations in numpy.

Levenberg-Marquardt with the Schur complement over the points and a Cauchy loss (Triggs et al., Bundle Adjustment, a
Modern Synthesis, 2000). Eight cameras and a thousand points take about two milliseconds per iteration. In the internal
arrays the points are the last, contiguous axis, so that numpy's inner loops are long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import so3_exp

Array = NDArray[np.float64]

PIXEL_SIGMA = 0.3
"""Standard deviation of an observation, pixels; weighs the observations against the prior of the focal length."""


@dataclass(frozen=True, eq=False)
class Scene:
    """Camera poses, focal lengths and points of a window: the state of bundle adjustment.

    Attributes:
        rotation, translation: `camera_world`, float64 (S, 3, 3) and (S, 3).
        points: float64 (n, 3) in the world.
        focal: float64 (S, 2), pixels.

    """

    rotation: Array
    translation: Array
    points: Array
    focal: Array

    def in_cameras(self) -> Array:
        """Return the points in the frame of every camera (n, S, 3)."""
        in_camera = self.points @ self.rotation.reshape(-1, 3).T
        return in_camera.reshape(len(self.points), len(self.rotation), 3) + self.translation

    def residuals(self, observations: Array) -> Array:
        """Return projection minus observation (n, S, 2) in pixels; NaN where a point is not in front of the camera.

        `observations` are relative to the principal point.
        """
        in_camera = self.in_cameras()
        depth = np.where(in_camera[..., 2:] > 1e-9, in_camera[..., 2:], np.nan)
        return in_camera[..., :2] / depth * self.focal - observations

    def first(self, count: int) -> Scene:
        """Return the first cameras, with all points."""
        return Scene(self.rotation[:count], self.translation[:count], self.points, self.focal[:count])

    def centers(self) -> Array:
        """Return the camera centers (S, 3) in the world."""
        return -np.einsum("sji,sj->si", self.rotation, self.translation)


def cauchy(square: Array, scale: float) -> Array:
    """Return the Cauchy loss of squared residuals; a point behind the camera (NaN) has a residual of 30 scales."""
    return scale**2 * np.log1p(np.nan_to_num(square, nan=900 * scale**2) / scale**2)


def adjust(scene: Scene, observations: Array, visible: NDArray[np.bool_], loss_scale: float = 1.0, iterations: int = 20,
           fixed: int = 0, focal_sigma: float = 0.0, tolerance: float = 1e-5, priors: Sequence[Prior] = ()) -> Scene:
    """Return the scene that minimizes the robust reprojection error.

    Args:
        scene: initial values.
        observations: (n, S, 2) pixels from the principal point; any value where not `visible`.
        visible: (n, S), the observations to use.
        loss_scale: scale of the Cauchy loss, pixels.
        iterations: maximum number of steps.
        fixed: the camera whose pose is held fixed; the free scale is constrained by the damping only.
        focal_sigma: relative standard deviation of the one factor that all focal lengths share; 0 keeps them.
        tolerance: stop when the cost decreases by less than this fraction.
        priors: what else is known.

    """
    problem = Problem.of(scene, observations, visible, loss_scale, fixed, focal_sigma, priors)
    damping = 1e-4
    cost = problem.cost(scene)
    for _ in range(iterations):
        system = problem.linearize(scene)
        while True:
            candidate = problem.step(scene, system, damping)
            new_cost = problem.cost(candidate)
            if new_cost <= cost or damping > 1e6:
                break
            damping *= 8
        if damping > 1e6:
            break
        decrease = (cost - new_cost) / max(cost, 1e-12)
        scene, cost, damping = candidate, new_cost, max(damping / 5, 1e-9)
        if decrease < tolerance:
            break
    return scene


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """Weighted normal equations of c camera parameters and n points.

    Attributes:
        cameras: (c, c), with the gradient (c,).
        points: (3, 3, n), with the gradient (3, n).
        coupling: (c, 3, n).

    """

    cameras: Array
    cameras_gradient: Array
    points: Array
    points_gradient: Array
    coupling: Array


class Prior(Protocol):
    """Knowledge beside the observations, weighed so that a residual of one sigma costs as `PIXEL_SIGMA` pixels do."""

    def cost(self, scene: Scene) -> float:
        """Return what it costs that a scene is not as expected."""
        ...

    def add_to(self, system: NormalEquations, scene: Scene, fixed: int) -> None:
        """Add it to normal equations; the parameters of the camera `fixed` stay zero."""
        ...


@dataclass(frozen=True, eq=False)
class Problem:
    """The measurements: observations (S, 2, n) and the mask of those to use (S, n); the rest as in `adjust`."""

    observations: Array
    visible: NDArray[np.bool_]
    loss_scale: float
    fixed: int
    focal_sigma: float
    focal: float
    priors: tuple[Prior, ...] = ()

    @classmethod
    def of(cls, scene: Scene, observations: Array, visible: NDArray[np.bool_], loss_scale: float, fixed: int,
           focal_sigma: float, priors: Sequence[Prior]) -> Problem:
        """Return the problem of `adjust`, whose arguments are given."""
        return cls(np.where(visible[..., None], observations, 0.0).transpose(1, 2, 0).copy(), visible.T.copy(),
                   loss_scale, fixed, focal_sigma, float(scene.focal[0, 0]), tuple(priors))

    def _project(self, scene: Scene) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Return the points in the camera frames (S, 3, n), 1 / depth (S, n) and the mask of valid observations (S, n).

        Valid are observations to be used whose point is in front of the camera.
        """
        in_camera = scene.rotation @ scene.points.T + scene.translation[..., None]
        valid = self.visible & (in_camera[:, 2] > 1e-9)
        return in_camera, 1.0 / np.where(valid, in_camera[:, 2], 1.0), valid

    def cost(self, scene: Scene) -> float:
        """Return the robust cost, including all priors."""
        in_camera, inverse, valid = self._project(scene)
        residual = in_camera[:, :2] * inverse[:, None] * scene.focal[..., None] - self.observations
        square = np.where(valid, residual[:, 0] ** 2 + residual[:, 1] ** 2, np.nan)
        prior = PIXEL_SIGMA / self.focal_sigma * np.log(scene.focal[0, 0] / self.focal) if self.focal_sigma else 0.0
        return sum((p.cost(scene) for p in self.priors),
                   float(cauchy(square, self.loss_scale)[self.visible].sum() + prior**2))

    def linearize(self, scene: Scene) -> NormalEquations:
        """Return the normal equations; parameters are [rotation, translation] per camera, then the log focal length."""
        in_camera, inverse, valid = self._project(scene)
        cameras, count = self.visible.shape
        ratio = in_camera[:, :2] * inverse[:, None]
        residual = ratio * scene.focal[..., None] - self.observations
        square = (residual[:, 0] ** 2 + residual[:, 1] ** 2) / self.loss_scale**2
        sqrt_weight = np.sqrt(np.where(valid, 1.0 / (1.0 + square), 0.0))
        residual *= sqrt_weight[:, None]

        # Jacobians of the two rows of a residual with respect to translation, point and rotation, in this order.
        slope = scene.focal[..., None] * (inverse * sqrt_weight)[:, None]
        j_camera = np.zeros((cameras, 6, 2, count))
        j_camera[:, 3, 0], j_camera[:, 4, 1], j_camera[:, 5] = slope[:, 0], slope[:, 1], -slope * ratio
        j_point = np.einsum("siak,sij->sjak", j_camera[:, 3:], scene.rotation, optimize=True)
        x, y, z = in_camera[:, 0], in_camera[:, 1], in_camera[:, 2]
        j_z = j_camera[:, 5]
        j_camera[:, 0, 0], j_camera[:, 0, 1] = y * j_z[:, 0], y * j_z[:, 1] - z * slope[:, 1]
        j_camera[:, 1, 0], j_camera[:, 1, 1] = z * slope[:, 0] - x * j_z[:, 0], -x * j_z[:, 1]
        j_camera[:, 2, 0], j_camera[:, 2, 1] = -y * slope[:, 0], x * slope[:, 1]
        j_camera[self.fixed] = 0.0

        size = 6 * cameras + (self.focal_sigma > 0)
        hessian, gradient, coupling = np.zeros((size, size)), np.zeros(size), np.zeros((size, 3, count))
        flat = j_camera.reshape(cameras, 6, -1)
        blocks = flat @ flat.swapaxes(1, 2)
        for s in range(cameras):
            hessian[6 * s:6 * s + 6, 6 * s:6 * s + 6] = blocks[s]
        gradient[:6 * cameras] = (flat @ residual.reshape(cameras, -1, 1)).ravel()
        coupling[:6 * cameras] = _sum_over_rows(j_camera[:, :, None], j_point[:, None]).reshape(6 * cameras, 3, count)
        if self.focal_sigma:
            j_focal = ratio * scene.focal[..., None] * sqrt_weight[:, None]
            prior = (PIXEL_SIGMA / self.focal_sigma) ** 2
            hessian[-1, -1] = (j_focal**2).sum() + prior
            hessian[-1, :-1] = hessian[:-1, -1] = (flat @ j_focal.reshape(cameras, -1, 1)).ravel()
            gradient[-1] = (j_focal * residual).sum() + prior * np.log(scene.focal[0, 0] / self.focal)
            coupling[-1] = _sum_over_rows(j_point, j_focal[:, None]).sum(0)
        points = _sum_over_rows(j_point[:, :, None], j_point[:, None]).sum(0)
        system = NormalEquations(hessian, gradient, points, _sum_over_rows(j_point, residual[:, None]).sum(0), coupling)
        for one in self.priors:
            one.add_to(system, scene, self.fixed)
        return system

    def reduced(self, system: NormalEquations, damping: float) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
        """Return the system without the points by the Schur complement.

        Its matrix (c, c), its right side (c,), the inverses of the points' blocks (3, 3, n), and which parameters are
        free (c,).
        """
        inverse = _invert_symmetric(system.points + np.eye(3)[..., None] * (damping * system.points + 1e-9))
        gain = _multiply_per_point(system.coupling, inverse)
        size = len(system.cameras)
        reduced = system.cameras - gain.reshape(size, -1) @ system.coupling.reshape(size, -1).T
        reduced[np.diag_indices(size)] += damping * np.diag(system.cameras) + 1e-9
        camera_rhs = system.cameras_gradient - gain.reshape(size, -1) @ system.points_gradient.ravel()
        free = np.ones(size, bool)
        free[6 * self.fixed:6 * self.fixed + 6] = False
        return reduced, camera_rhs, inverse, free

    def step(self, scene: Scene, system: NormalEquations, damping: float) -> Scene:
        """Return the scene after one damped Gauss-Newton step."""
        reduced, camera_rhs, inverse, free = self.reduced(system, damping)
        size = len(system.cameras)
        camera_step = np.zeros(size)
        camera_step[free] = -np.linalg.solve(reduced[np.ix_(free, free)], camera_rhs[free])
        point_rhs = system.points_gradient + np.tensordot(camera_step, system.coupling, 1)
        point_step = -_multiply_per_point(point_rhs[None], inverse)[0]

        rotation, translation = scene.rotation.copy(), scene.translation.copy()
        for s in range(len(rotation)):
            rotation_step = so3_exp(camera_step[6 * s:6 * s + 3])
            rotation[s] = rotation_step @ rotation[s]
            translation[s] = rotation_step @ translation[s] + camera_step[6 * s + 3:6 * s + 6]
        focal = scene.focal * np.exp(np.clip(camera_step[-1], -0.2, 0.2)) if self.focal_sigma else scene.focal
        return Scene(rotation, translation, scene.points + point_step.T, focal)


def _sum_over_rows(first: Array, second: Array) -> Array:
    """Return the products (..., n) of two Jacobians (..., 2, n), summed over the two rows of a residual."""
    return first[..., 0, :] * second[..., 0, :] + first[..., 1, :] * second[..., 1, :]


def _multiply_per_point(rows: Array, matrices: Array) -> Array:
    """Return row vectors (c, 3, n) times one matrix per point (3, 3, n)."""
    return rows[:, 0, None] * matrices[0] + rows[:, 1, None] * matrices[1] + rows[:, 2, None] * matrices[2]


def _invert_symmetric(matrices: Array) -> Array:
    """Return the inverses of symmetric matrices (3, 3, n), by cofactors."""
    (a, b, c), (_, d, e), (_, _, f) = matrices
    result = np.empty_like(matrices)
    result[0, 0], result[1, 1], result[2, 2] = d * f - e * e, a * f - c * c, a * d - b * b
    result[0, 1] = result[1, 0] = c * e - b * f
    result[0, 2] = result[2, 0] = b * e - c * d
    result[1, 2] = result[2, 1] = b * c - a * e
    return result / (a * result[0, 0] + b * result[0, 1] + c * result[0, 2])
