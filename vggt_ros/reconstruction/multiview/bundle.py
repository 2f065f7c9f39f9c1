"""Bundle adjustment of one window: few cameras, many points, dense normal equations in numpy.

Levenberg-Marquardt with the Schur complement over the points and a Cauchy loss (Triggs et al., Bundle Adjustment, a
Modern Synthesis, 2000). Eight cameras and a thousand points take a few milliseconds an iteration.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry import so3_exp

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
        return np.einsum("sij,nj->nsi", self.rotation, self.points) + self.translation

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
    observed = np.where(seen[..., None], observed, 0.0)
    damping = 1e-4
    cost = _cost(scene, observed, seen, loss_scale)
    begun = float(scene.focal[0, 0])
    for _ in range(iterations):
        system = _linearize(scene, observed, seen, loss_scale, fixed, begun if focal_sigma else None, focal_sigma)
        while True:
            candidate = _step(scene, system, damping, fixed, focal_sigma > 0)
            new_cost = _cost(candidate, observed, seen, loss_scale)
            if focal_sigma:
                new_cost += (PIXEL_SIGMA / focal_sigma * np.log(candidate.focal[0, 0] / begun)) ** 2
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


def _cost(scene: Scene, observed: Array, seen: NDArray[np.bool_], loss_scale: float) -> float:
    square = (scene.residuals(observed) ** 2).sum(-1)
    return float(cauchy(square, loss_scale)[seen].sum())


def _linearize(scene: Scene, observed: Array, seen: NDArray[np.bool_], loss_scale: float, fixed: int,
               focal_prior: float | None, focal_sigma: float) -> tuple[Array, ...]:
    """Return the weighted normal equations: cameras (c, c), (c,), points (n, 3, 3), (n, 3), coupling (n, c, 3)."""
    count, cameras = seen.shape
    local = scene.in_cameras()
    depth = local[..., 2]
    valid = seen & (depth > 1e-9)
    inverse = 1.0 / np.where(valid, depth, 1.0)
    ratio = local[..., :2] * inverse[..., None]
    residual = ratio * scene.focal - observed
    weight = np.where(valid, 1.0 / (1.0 + (residual**2).sum(-1) / loss_scale**2), 0.0)
    root = np.sqrt(weight)
    residual = residual * root[..., None]

    projection = np.zeros((count, cameras, 2, 3))
    gain = scene.focal * (inverse * root)[..., None]
    projection[..., 0, 0], projection[..., 1, 1] = gain[..., 0], gain[..., 1]
    projection[..., 2] = -gain * ratio
    by_point = projection @ scene.rotation
    by_rotation = np.cross(local[..., None, :], projection)
    by_camera = np.concatenate([by_rotation, projection], -1)
    by_camera[:, fixed] = 0.0

    refine_focal = focal_prior is not None
    size = 6 * cameras + refine_focal
    hessian, gradient = np.zeros((size, size)), np.zeros(size)
    coupling = np.zeros((count, size, 3))
    blocks = np.einsum("nsai,nsaj->sij", by_camera, by_camera)
    for s in range(cameras):
        hessian[6 * s:6 * s + 6, 6 * s:6 * s + 6] = blocks[s]
    gradient[:6 * cameras] = np.einsum("nsai,nsa->si", by_camera, residual).ravel()
    transposed = by_camera.swapaxes(-1, -2)
    coupling[:, :6 * cameras] = (transposed @ by_point).reshape(count, 6 * cameras, 3)
    if focal_prior is not None:
        by_focal = ratio * scene.focal * root[..., None]
        prior = (PIXEL_SIGMA / focal_sigma) ** 2
        hessian[-1, -1] = (by_focal**2).sum() + prior
        hessian[-1, :-1] = hessian[:-1, -1] = np.einsum("nsai,nsa->si", by_camera, by_focal).ravel()
        gradient[-1] = (by_focal * residual).sum() + prior * np.log(scene.focal[0, 0] / focal_prior)
        coupling[:, -1] = np.einsum("nsai,nsa->ni", by_point, by_focal)
    flat = by_point.reshape(count, 2 * cameras, 3)
    points = flat.swapaxes(-1, -2) @ flat
    points_gradient = np.einsum("nai,na->ni", flat, residual.reshape(count, -1))
    return hessian, gradient, points, points_gradient, coupling


def _step(scene: Scene, system: tuple[Array, ...], damping: float, fixed: int, refine_focal: bool) -> Scene:
    """Return the scene after one damped Gauss-Newton step."""
    hessian, gradient, points, points_gradient, coupling = system
    cameras = len(scene.rotation)
    diagonal = np.einsum("nii->ni", points)
    damped = points.copy()
    np.einsum("nii->ni", damped)[:] += damping * diagonal + 1e-9
    inverse = np.linalg.inv(damped)
    gained = coupling @ inverse
    size = len(hessian)
    flat = coupling.transpose(1, 0, 2).reshape(size, -1)
    reduced = hessian - gained.transpose(1, 0, 2).reshape(size, -1) @ flat.T
    reduced_gradient = gradient - np.einsum("nci,ni->c", gained, points_gradient)
    reduced[np.diag_indices(size)] += damping * np.diag(hessian) + 1e-9
    free = np.ones(size, bool)
    free[6 * fixed:6 * fixed + 6] = False
    move = np.zeros(size)
    move[free] = -np.linalg.solve(reduced[np.ix_(free, free)], reduced_gradient[free])
    move_points = -np.einsum("nij,nj->ni", inverse, points_gradient + np.einsum("nci,c->ni", coupling, move))

    rotation, translation = scene.rotation.copy(), scene.translation.copy()
    for s in range(cameras):
        turn = so3_exp(move[6 * s:6 * s + 3])
        rotation[s] = turn @ rotation[s]
        translation[s] = turn @ translation[s] + move[6 * s + 3:6 * s + 6]
    focal = scene.focal * np.exp(np.clip(move[-1], -0.2, 0.2)) if refine_focal else scene.focal
    return Scene(rotation, translation, scene.points + move_points, focal)
