"""Bundle adjustment of one window: few cameras, many points, dense normal equations in numpy.

Levenberg-Marquardt with the Schur complement over the points and a Cauchy loss (Triggs et al., Bundle Adjustment, a
Modern Synthesis, 2000). Eight cameras and a thousand points take about two milliseconds an iteration: the points are
the last, contiguous axis of every array inside, so that numpy's loops are long.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import so3_exp

Array = NDArray[np.float64]

PIXEL_SIGMA = 0.3
"""Pixels that an observation is off, to weigh it against what is known of the focal length."""


@dataclass(frozen=True, eq=False)
class Scene:
    """Cameras and points of a window.

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
        """Return the points in every camera's frame (n, S, 3)."""
        local = self.points @ self.rotation.reshape(-1, 3).T
        return local.reshape(len(self.points), -1, 3) + self.translation

    def residuals(self, observed: Array) -> Array:
        """Return projection minus observation (n, S, 2) in pixels; observations count from the principal point."""
        local = self.in_cameras()
        depth = np.where(local[..., 2:] > 1e-9, local[..., 2:], np.nan)
        return local[..., :2] / depth * self.focal - observed

    def centers(self) -> Array:
        """Return the camera centers (S, 3) in the world."""
        return -np.einsum("sji,sj->si", self.rotation, self.translation)


def cauchy(square: Array, scale: float) -> Array:
    """Return the Cauchy loss of squared residuals; a point behind the camera (NaN) costs as much as 30 scales."""
    return scale**2 * np.log1p(np.nan_to_num(square, nan=900 * scale**2) / scale**2)


def adjust(scene: Scene, observed: Array, seen: NDArray[np.bool_], loss_scale: float = 1.0, iterations: int = 20,
           fixed: int = 0, focal_sigma: float = 0.0, tolerance: float = 1e-5) -> Scene:
    """Return the scene that minimizes the robust reprojection error.

    Args:
        scene: where to begin.
        observed: (n, S, 2) pixels from the principal point; any value where not `seen`.
        seen: (n, S), which observations count.
        loss_scale: pixels, of the Cauchy loss.
        iterations: at most so many steps.
        fixed: the camera that keeps its pose; the scale is left to the damping.
        focal_sigma: how far, as a fraction, all focal lengths may be off together; 0 keeps them.
        tolerance: stop when the cost falls by less than this fraction.

    """
    problem = _Problem(np.where(seen[..., None], observed, 0.0).transpose(1, 2, 0).copy(), seen.T.copy(), loss_scale,
                       fixed, focal_sigma, float(scene.focal[0, 0]))
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
        gain = (cost - new_cost) / max(cost, 1e-12)
        scene, cost, damping = candidate, new_cost, max(damping / 5, 1e-9)
        if gain < tolerance:
            break
    return scene


@dataclass(frozen=True, eq=False)
class _System:
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


@dataclass(frozen=True, eq=False)
class _Problem:
    """What is given: observations (S, 2, n) and which of them count (S, n); the rest as in `adjust`."""

    observed: Array
    seen: NDArray[np.bool_]
    loss_scale: float
    fixed: int
    focal_sigma: float
    focal: float

    def _project(self, scene: Scene) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Return the points in the cameras (S, 3, n), 1 / depth and which observations are seen and in front (S, n)."""
        local = scene.rotation @ scene.points.T + scene.translation[..., None]
        valid = self.seen & (local[:, 2] > 1e-9)
        return local, 1.0 / np.where(valid, local[:, 2], 1.0), valid

    def cost(self, scene: Scene) -> float:
        """Return the robust cost, that of the focal length's prior included."""
        local, inverse, valid = self._project(scene)
        residual = local[:, :2] * inverse[:, None] * scene.focal[..., None] - self.observed
        square = np.where(valid, residual[:, 0] ** 2 + residual[:, 1] ** 2, np.nan)
        prior = PIXEL_SIGMA / self.focal_sigma * np.log(scene.focal[0, 0] / self.focal) if self.focal_sigma else 0.0
        return float(cauchy(square, self.loss_scale)[self.seen].sum() + prior**2)

    def linearize(self, scene: Scene) -> _System:
        """Return the normal equations; a camera's parameters are [rotation, translation], the focal length is last."""
        local, inverse, valid = self._project(scene)
        cameras, count = self.seen.shape
        ratio = local[:, :2] * inverse[:, None]
        residual = ratio * scene.focal[..., None] - self.observed
        square = (residual[:, 0] ** 2 + residual[:, 1] ** 2) / self.loss_scale**2
        root = np.sqrt(np.where(valid, 1.0 / (1.0 + square), 0.0))
        residual *= root[:, None]

        # Jacobians of the two rows of a residual, by the translation, by the point and by the rotation.
        gain = scene.focal[..., None] * (inverse * root)[:, None]
        by_camera = np.zeros((cameras, 6, 2, count))
        by_camera[:, 3, 0], by_camera[:, 4, 1], by_camera[:, 5] = gain[:, 0], gain[:, 1], -gain * ratio
        by_point = np.einsum("siak,sij->sjak", by_camera[:, 3:], scene.rotation, optimize=True)
        x, y, z = local[:, 0], local[:, 1], local[:, 2]
        forward = by_camera[:, 5]
        by_camera[:, 0, 0], by_camera[:, 0, 1] = y * forward[:, 0], y * forward[:, 1] - z * gain[:, 1]
        by_camera[:, 1, 0], by_camera[:, 1, 1] = z * gain[:, 0] - x * forward[:, 0], -x * forward[:, 1]
        by_camera[:, 2, 0], by_camera[:, 2, 1] = -y * gain[:, 0], x * gain[:, 1]
        by_camera[self.fixed] = 0.0

        size = 6 * cameras + (self.focal_sigma > 0)
        hessian, gradient, coupling = np.zeros((size, size)), np.zeros(size), np.zeros((size, 3, count))
        flat = by_camera.reshape(cameras, 6, -1)
        blocks = flat @ flat.swapaxes(1, 2)
        for s in range(cameras):
            hessian[6 * s:6 * s + 6, 6 * s:6 * s + 6] = blocks[s]
        gradient[:6 * cameras] = (flat @ residual.reshape(cameras, -1, 1)).ravel()
        coupling[:6 * cameras] = _paired(by_camera[:, :, None], by_point[:, None]).reshape(6 * cameras, 3, count)
        if self.focal_sigma:
            by_focal = ratio * scene.focal[..., None] * root[:, None]
            prior = (PIXEL_SIGMA / self.focal_sigma) ** 2
            hessian[-1, -1] = (by_focal**2).sum() + prior
            hessian[-1, :-1] = hessian[:-1, -1] = (flat @ by_focal.reshape(cameras, -1, 1)).ravel()
            gradient[-1] = (by_focal * residual).sum() + prior * np.log(scene.focal[0, 0] / self.focal)
            coupling[-1] = _paired(by_point, by_focal[:, None]).sum(0)
        points = _paired(by_point[:, :, None], by_point[:, None]).sum(0)
        return _System(hessian, gradient, points, _paired(by_point, residual[:, None]).sum(0), coupling)

    def step(self, scene: Scene, system: _System, damping: float) -> Scene:
        """Return the scene after one damped Gauss-Newton step."""
        inverse = _inverse(system.points + np.eye(3)[..., None] * (damping * system.points + 1e-9))
        gained = _times(system.coupling, inverse)
        size = len(system.cameras)
        reduced = system.cameras - gained.reshape(size, -1) @ system.coupling.reshape(size, -1).T
        reduced[np.diag_indices(size)] += damping * np.diag(system.cameras) + 1e-9
        right = system.cameras_gradient - gained.reshape(size, -1) @ system.points_gradient.ravel()
        free = np.ones(size, bool)
        free[6 * self.fixed:6 * self.fixed + 6] = False
        move = np.zeros(size)
        move[free] = -np.linalg.solve(reduced[np.ix_(free, free)], right[free])
        pull = system.points_gradient + np.tensordot(move, system.coupling, 1)
        move_points = -_times(pull[None], inverse)[0]

        rotation, translation = scene.rotation.copy(), scene.translation.copy()
        for s in range(len(rotation)):
            turn = so3_exp(move[6 * s:6 * s + 3])
            rotation[s] = turn @ rotation[s]
            translation[s] = turn @ translation[s] + move[6 * s + 3:6 * s + 6]
        focal = scene.focal * np.exp(np.clip(move[-1], -0.2, 0.2)) if self.focal_sigma else scene.focal
        return Scene(rotation, translation, scene.points + move_points.T, focal)


def _paired(first: Array, second: Array) -> Array:
    """Return the products (..., n) of two Jacobians (..., 2, n), summed over the two rows of a residual."""
    return first[..., 0, :] * second[..., 0, :] + first[..., 1, :] * second[..., 1, :]


def _times(rows: Array, matrices: Array) -> Array:
    """Return row vectors (c, 3, n) times one matrix a point (3, 3, n)."""
    return rows[:, 0, None] * matrices[0] + rows[:, 1, None] * matrices[1] + rows[:, 2, None] * matrices[2]


def _inverse(matrices: Array) -> Array:
    """Return the inverses of symmetric matrices (3, 3, n), by cofactors."""
    (a, b, c), (_, d, e), (_, _, f) = matrices
    result = np.empty_like(matrices)
    result[0, 0], result[1, 1], result[2, 2] = d * f - e * e, a * f - c * c, a * d - b * b
    result[0, 1] = result[1, 0] = c * e - b * f
    result[0, 2] = result[2, 0] = b * e - c * d
    result[1, 2] = result[2, 1] = b * c - a * e
    return result / (a * result[0, 0] + b * result[0, 1] + c * result[0, 2])
