"""Bundle adjustment of many cameras, each of which sees few of the points: sparse normal equations.

As `bundle.py`, with lists of observations in place of arrays of all points in all cameras: Levenberg-Marquardt with a
Cauchy loss, the points eliminated by the Schur complement (Triggs et al., Bundle Adjustment, a Modern Synthesis, 2000).
What is left couples only cameras that see the same points, and is solved by a sparse factorization. Time and memory
grow with the number of observations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import linalg

from vggt_ros.geometry.poses import Array
from vggt_ros.geometry.sim3 import rotations, skews
from vggt_ros.reconstruction.adjustment.bundle import (
    PIXEL_SIGMA,
    AdjustmentOptions,
    Scene,
    cauchy,
    undistorted,
)
from vggt_ros.reconstruction.adjustment.levenberg_marquardt import Damping, levenberg_marquardt
from vggt_ros.threads import yield_to_tracking

Index = NDArray[np.intp]
DAMPING = Damping(1e-8, 10, 10, 1e-12)
"""With more to begin with, what bends a long path slowly would hardly change in a step."""


@dataclass(frozen=True, eq=False)
class Observations:
    """Observations of points by cameras, in the order of the points, each of which has some.

    Attributes:
        camera, point: (m,), rows of the camera and the point.
        pixels: (m, 2), from the principal point.

    """

    camera: Index
    point: Index
    pixels: Array

    @cached_property
    def starts(self) -> Index:
        """The row of the first observation of each point (n,)."""
        return np.flatnonzero(np.diff(self.point, prepend=-1))

    def kept(self, chosen: NDArray[np.bool_]) -> tuple[Observations, Index]:
        """Return the chosen ones of points that have two of them, and the rows of those points, as numbered before."""
        chosen = chosen & (np.bincount(self.point[chosen], minlength=len(self.starts)) >= 2)[self.point]
        rows, point = np.unique(self.point[chosen], return_inverse=True)
        return Observations(self.camera[chosen], point, self.pixels[chosen]), rows

    def sums(self, values: Array) -> Array:
        """Return the sums (n, ...) over the observations of each point of values (m, ...)."""
        return np.asarray(np.add.reduceat(values, self.starts))


@dataclass(frozen=True, eq=False)
class Lengths:
    """Known distances between cameras, such as by sources of metric scale: images let the scale drift along a path.

    Attributes:
        first, second: (p,), rows of the cameras.
        length, sigma: (p,), units of the scene.

    """

    first: Index
    second: Index
    length: Array
    sigma: Array

    def linearized(self, scene: Scene) -> tuple[Array, Any]:
        """Return the errors (p,), as pixels of the standard deviation, and their sparse Jacobian (p, 6 cameras).

        To first order, a step of the camera's translation moves its center by that, turned back into the map.
        """
        centers, weight = scene.centers(), PIXEL_SIGMA / self.sigma
        between = centers[self.second] - centers[self.first]
        distance = np.linalg.norm(between, axis=1)
        along = between * (weight / np.maximum(distance, 1e-12))[:, None]
        values = np.concatenate([np.einsum("mij,mj->mi", scene.rotation[self.first], along),
                                 -np.einsum("mij,mj->mi", scene.rotation[self.second], along)], 1)
        columns = np.concatenate([6 * row[:, None] + np.arange(3, 6) for row in (self.first, self.second)], 1)
        starts = np.arange(0, 6 * len(values) + 1, 6)
        return weight * (distance - self.length), sparse.csr_matrix(
            (values.ravel(), columns.ravel(), starts), shape=(len(values), 6 * len(centers)))


def residuals(scene: Scene, seen: Observations) -> Array:
    """Return projection minus observation (m, 2), pixels; NaN where the point is not in front of the camera."""
    in_camera, focal = _in_camera(scene, seen), scene.focal[seen.camera]
    depth = np.where(in_camera[:, 2:] > 1e-9, in_camera[:, 2:], np.nan)
    return np.asarray(in_camera[:, :2] / depth * focal - undistorted(seen.pixels, focal, scene.radial))


def triangulated(scene: Scene, seen: Observations) -> tuple[Scene, Array]:
    """Return the scene with the points nearest to all their rays, and the angles (n,) that these span, radians.

    Rays count by the inverse square of the distance, as errors in the images do.
    """
    focal = scene.focal[seen.camera]
    rays = np.concatenate([undistorted(seen.pixels, focal, scene.radial) / focal, np.ones((len(focal), 1))], 1)
    rays = np.einsum("mji,mj->mi", scene.rotation[seen.camera], rays)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    across = np.eye(3) - rays[:, :, None] * rays[:, None]
    centers = scene.centers()[seen.camera]
    projected, weight = np.einsum("mij,mj->mi", across, centers), np.ones(len(rays))
    for _ in range(3):
        normal = seen.sums(across * weight[:, None, None])
        normal += 1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(3)
        points = np.linalg.solve(normal, seen.sums(projected * weight[:, None])[..., None])[..., 0]
        distance = ((points[seen.point] - centers) * rays).sum(1)
        weight = 1 / np.maximum(distance, 0.1 * float(np.median(np.abs(distance)))) ** 2
    mean = seen.sums(rays)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    cosine = np.minimum.reduceat((rays * mean[seen.point]).sum(1), seen.starts)
    return replace(scene, points=np.asarray(points, np.float64)), 2 * np.arccos(np.clip(cosine, -1, 1))


def adjust_sparse(scene: Scene, seen: Observations, options: AdjustmentOptions, lengths: Lengths | None = None,
                  check: Callable[[], None] = lambda: None) -> Scene:
    """Return the scene that minimizes the robust reprojection error; the pose of the first camera is held fixed.

    Its scale is constrained by the damping only, or by `lengths`. Of the options, the focal length is not estimated.
    `check` is called before every step, and may raise an error to end it.
    """
    radial = scene.radial

    def cost(scene: Scene) -> float:
        known = 0.0 if lengths is None else float((lengths.linearized(scene)[0] ** 2).sum())
        return _cost(scene, seen, options, radial) + known

    def linearize(scene: Scene) -> Callable[[float], Scene]:
        system = _Linearized.of(scene, seen, options, radial, lengths)

        def step(damping: float) -> Scene:
            check()
            return system.step(scene, damping)

        return step

    return levenberg_marquardt(scene, cost, linearize, options.iterations, options.tolerance, DAMPING)


def _in_camera(scene: Scene, seen: Observations) -> Array:
    """Return the observed points in the frames of the cameras that observe them (m, 3)."""
    turned = np.einsum("mij,mj->mi", scene.rotation[seen.camera], scene.points[seen.point])
    return np.asarray(turned + scene.translation[seen.camera])


def _cost(scene: Scene, seen: Observations, options: AdjustmentOptions, radial: float) -> float:
    square = (residuals(scene, seen) ** 2).sum(1)
    prior = (PIXEL_SIGMA * (scene.radial - radial) / options.radial_sigma) ** 2 if options.radial_sigma else 0.0
    return float(cauchy(square, options.loss_scale).sum()) + prior


@dataclass(frozen=True, eq=False)
class _Linearized:
    """Normal equations: [rotation, translation] of each camera, and the radial distortion if it is free.

    Attributes:
        cameras: sparse (c, c), with the gradient (c,).
        points: (n, 3, 3), with the gradient (n, 3).
        coupling: sparse (c, 3 n).

    """

    cameras: Any
    cameras_gradient: Array
    points: Array
    points_gradient: Array
    coupling: Any

    @staticmethod
    def of(scene: Scene, seen: Observations, options: AdjustmentOptions, radial: float,
           lengths: Lengths | None = None) -> _Linearized:
        yield_to_tracking()
        in_camera, focal = _in_camera(scene, seen), scene.focal[seen.camera]
        residual = residuals(scene, seen)
        square = (residual**2).sum(1) / options.loss_scale**2
        root = np.sqrt(np.nan_to_num(1 / (1 + square)))
        depth = np.where(root > 0, in_camera[:, 2], 1.0)
        by_translation = np.zeros((len(root), 2, 3))
        by_translation[:, [0, 1], [0, 1]] = focal / depth[:, None]
        by_translation[:, :, 2] = -focal * in_camera[:, :2] / depth[:, None] ** 2
        by_translation *= root[:, None, None]
        by_point = by_translation @ scene.rotation[seen.camera]
        parts = [-by_translation @ skews(in_camera), by_translation]
        count = 6 * len(scene.rotation)
        columns = 6 * seen.camera[:, None] + np.arange(6)
        if options.radial_sigma:
            bend = -seen.pixels * ((seen.pixels / focal) ** 2).sum(1, keepdims=True) * root[:, None]
            parts.append(bend[..., None])
            columns = np.column_stack([columns, np.full(len(columns), count)])
            count += 1
        by_camera = _rows(np.concatenate(parts, 2), columns, count)
        error = np.nan_to_num(residual * root[:, None])
        cameras, gradient = (by_camera.T @ by_camera).tocsr(), by_camera.T @ error.ravel()
        if options.radial_sigma:
            weight = (PIXEL_SIGMA / options.radial_sigma) ** 2
            cameras += sparse.csr_matrix(([weight], ([count - 1], [count - 1])), shape=cameras.shape)
            gradient[-1] += weight * (scene.radial - radial)
        if lengths is not None:
            wrong, by_lengths = lengths.linearized(scene)
            by_lengths.resize(len(wrong), count)
            cameras, gradient = (cameras + by_lengths.T @ by_lengths).tocsr(), gradient + by_lengths.T @ wrong
        all_points = _rows(by_point, 3 * seen.point[:, None] + np.arange(3), 3 * len(scene.points))
        return _Linearized(cameras, gradient, seen.sums(by_point.swapaxes(1, 2) @ by_point),
                           seen.sums((by_point * error[..., None]).sum(1)), (by_camera.T @ all_points).tocsr())

    def step(self, scene: Scene, damping: float) -> Scene:
        """Return the scene after one damped Gauss-Newton step."""
        count = len(self.points)
        inverse = np.linalg.inv(self.points + np.eye(3) * (damping * self.points + 1e-9))
        blocks = sparse.bsr_matrix((inverse, np.arange(count), np.arange(count + 1)))
        gain = (self.coupling @ blocks).tocsr()
        reduced = self.cameras + sparse.diags(damping * self.cameras.diagonal() + 1e-9) - gain @ self.coupling.T
        right = self.cameras_gradient - gain @ self.points_gradient.ravel()
        steps = np.zeros(len(right))
        factors = linalg.splu(reduced.tocsc()[6:, 6:], permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0,
                              options={"SymmetricMode": True})
        steps[6:] = -factors.solve(right[6:])
        of_points = self.points_gradient + (self.coupling.T @ steps).reshape(-1, 3)
        by_camera = steps[:6 * len(scene.rotation)].reshape(-1, 6)
        turn = rotations(by_camera[:, :3])
        radial = scene.radial + float(np.clip(steps[-1], -0.1, 0.1)) if len(steps) % 6 else scene.radial
        return Scene(turn @ scene.rotation, (turn @ scene.translation[..., None])[..., 0] + by_camera[:, 3:],
                     scene.points - (inverse @ of_points[..., None])[..., 0], scene.focal, radial)


def _rows(values: Array, columns: Index, count: int) -> Any:
    """Return the sparse matrix (2 m, count) with the values (m, 2, k) in columns (m, k), of both rows."""
    entries = np.repeat(columns[:, None], 2, axis=1)
    starts = np.arange(0, entries.size + 1, columns.shape[1])
    return sparse.csr_matrix((values.ravel(), entries.ravel(), starts), shape=(2 * len(values), count))
