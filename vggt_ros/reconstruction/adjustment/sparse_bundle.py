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
from vggt_ros.reconstruction.adjustment.bundle import PIXEL_SIGMA, AdjustmentOptions, cauchy
from vggt_ros.reconstruction.adjustment.levenberg_marquardt import Damping, levenberg_marquardt
from vggt_ros.reconstruction.adjustment.shared_camera import PARAMETERS, SharedCamera
from vggt_ros.threads import yield_to_tracking

Index = NDArray[np.intp]
DAMPING = Damping(1e-8, 10, 10, 1e-12)
"""With more to begin with, what bends a long path slowly would hardly change in a step."""


@dataclass(frozen=True, eq=False)
class SparseScene:
    """Poses of the images `camera_world`, (k, 3, 3) and (k, 3), the points (n, 3), and the camera: the state."""

    rotation: Array
    translation: Array
    points: Array
    camera: SharedCamera

    def centers(self) -> Array:
        """Return the camera centers (k, 3) in the world."""
        return -np.einsum("kji,kj->ki", self.rotation, self.translation)


@dataclass(frozen=True, eq=False)
class Observations:
    """Observations of points by images, in the order of the points, each of which has some.

    Attributes:
        image, point: (m,), rows of the image and the point.
        pixels: (m, 2), from the calibrated principal point.
        shift_rate: (m, 2), pixels per second of readout.

    """

    image: Index
    point: Index
    pixels: Array
    shift_rate: Array

    @cached_property
    def starts(self) -> Index:
        """The row of the first observation of each point (n,)."""
        return np.flatnonzero(np.diff(self.point, prepend=-1))

    def kept(self, chosen: NDArray[np.bool_]) -> tuple[Observations, Index]:
        """Return the chosen ones of points that have two of them, and the rows of those points, as numbered before."""
        chosen = chosen & (np.bincount(self.point[chosen], minlength=len(self.starts)) >= 2)[self.point]
        rows, point = np.unique(self.point[chosen], return_inverse=True)
        return Observations(self.image[chosen], point, self.pixels[chosen], self.shift_rate[chosen]), rows

    def sums(self, values: Array) -> Array:
        """Return the sums (n, ...) over the observations of each point of values (m, ...)."""
        return np.asarray(np.add.reduceat(values, self.starts))


@dataclass(frozen=True, eq=False)
class Lengths:
    """Known distances between images, such as by sources of metric scale: images let the scale drift along a path.

    Attributes:
        first, second: (p,), rows of the images.
        length, sigma: (p,), units of the scene.

    """

    first: Index
    second: Index
    length: Array
    sigma: Array

    def linearized(self, scene: SparseScene) -> tuple[Array, Any]:
        """Return the errors (p,), as pixels of the standard deviation, and their sparse Jacobian (p, 6 images).

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


def residuals(scene: SparseScene, seen: Observations) -> Array:
    """Return projection minus observation (m, 2), pixels; NaN where the point is not in front of the camera."""
    in_camera = in_cameras(scene, seen)
    depth = np.where(in_camera[:, 2:] > 1e-9, in_camera[:, 2:], np.nan)
    return np.asarray(in_camera[:, :2] / depth * scene.camera.focal - _pinhole(scene, seen))


def in_cameras(scene: SparseScene, seen: Observations) -> Array:
    """Return the observed points in the frames of the images that observe them (m, 3)."""
    turned = np.einsum("mij,mj->mi", scene.rotation[seen.image], scene.points[seen.point])
    return np.asarray(turned + scene.translation[seen.image])


def triangulated(scene: SparseScene, seen: Observations) -> tuple[SparseScene, Array]:
    """Return the scene with the points nearest to all their rays, and the angles (n,) that these span, radians.

    Rays count by the inverse square of the distance, as errors in the images do.
    """
    rays = np.concatenate([_pinhole(scene, seen) / scene.camera.focal, np.ones((len(seen.point), 1))], 1)
    rays = np.einsum("mji,mj->mi", scene.rotation[seen.image], rays)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    across = np.eye(3) - rays[:, :, None] * rays[:, None]
    centers = scene.centers()[seen.image]
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


def adjust_sparse(scene: SparseScene, seen: Observations, options: AdjustmentOptions, sigmas: Array,
                  lengths: Lengths | None = None, check: Callable[[], None] = lambda: None) -> SparseScene:
    """Return the scene that minimizes the robust reprojection error; the pose of the first image is held fixed.

    Its scale is constrained by the damping only, or by `lengths`. `sigmas` (5,) are standard deviations of the
    parameters of the camera about those of the scene; 0 keeps them. Of the options, those of the lens have no meaning
    here. `check` is called before every step, and may raise an error to end it.
    """
    expected = scene.camera

    def cost(scene: SparseScene) -> float:
        known = 0.0 if lengths is None else float((lengths.linearized(scene)[0] ** 2).sum())
        return _cost(scene, seen, options, expected, sigmas) + known

    def linearize(scene: SparseScene) -> Callable[[float], SparseScene]:
        system = _Linearized.of(scene, seen, options, expected, sigmas, lengths)

        def step(damping: float) -> SparseScene:
            check()
            return system.step(scene, damping)

        return step

    return levenberg_marquardt(scene, cost, linearize, options.iterations, options.tolerance, DAMPING)


def _pinhole(scene: SparseScene, seen: Observations) -> Array:
    return scene.camera.pinhole(seen.pixels, seen.shift_rate)


def _cost(scene: SparseScene, seen: Observations, options: AdjustmentOptions, expected: SharedCamera,
          sigmas: Array) -> float:
    square, free = (residuals(scene, seen) ** 2).sum(1), sigmas > 0
    prior = PIXEL_SIGMA * scene.camera.difference(expected)[free] / sigmas[free]
    return float(cauchy(square, options.loss_scale).sum() + (prior**2).sum())


@dataclass(frozen=True, eq=False)
class _Linearized:
    """Normal equations: [rotation, translation] of each image, then the free parameters of the camera.

    Attributes:
        free: those parameters.
        cameras: sparse (c, c), with the gradient (c,).
        points: (n, 3, 3), with the gradient (n, 3).
        coupling: sparse (c, 3 n).

    """

    free: Index
    cameras: Any
    cameras_gradient: Array
    points: Array
    points_gradient: Array
    coupling: Any

    @staticmethod
    def of(scene: SparseScene, seen: Observations, options: AdjustmentOptions, expected: SharedCamera,
           sigmas: Array, lengths: Lengths | None = None) -> _Linearized:
        yield_to_tracking()
        in_camera, camera, free = in_cameras(scene, seen), scene.camera, np.flatnonzero(sigmas)
        residual = residuals(scene, seen)
        square = (residual**2).sum(1) / options.loss_scale**2
        root = np.sqrt(np.nan_to_num(1 / (1 + square)))
        depth = np.where(root > 0, in_camera[:, 2], 1.0)
        by_translation = np.zeros((len(root), 2, 3))
        by_translation[:, [0, 1], [0, 1]] = camera.focal / depth[:, None]
        by_translation[:, :, 2] = -camera.focal * in_camera[:, :2] / depth[:, None] ** 2
        by_translation *= root[:, None, None]
        by_point = by_translation @ scene.rotation[seen.image]
        projections = in_camera[:, :2] / depth[:, None] * camera.focal
        by_lens = camera.derivatives(projections, seen.pixels, seen.shift_rate)[:, :, free] * root[:, None, None]
        poses, count = 6 * len(scene.rotation), 6 * len(scene.rotation) + len(free)
        columns = np.concatenate([6 * seen.image[:, None] + np.arange(6),
                                  np.tile(np.arange(poses, count), (len(root), 1))], 1)
        by_camera = _rows(np.concatenate([-by_translation @ skews(in_camera), by_translation, by_lens], 2),
                          columns, count)
        error = np.nan_to_num(residual * root[:, None])
        weight = np.concatenate([np.zeros(poses), (PIXEL_SIGMA / sigmas[free]) ** 2])
        cameras = (by_camera.T @ by_camera + sparse.diags(weight)).tocsr()
        gradient = by_camera.T @ error.ravel()
        gradient[poses:] += weight[poses:] * camera.difference(expected)[free]
        if lengths is not None:
            wrong, by_lengths = lengths.linearized(scene)
            by_lengths.resize(len(wrong), count)
            cameras, gradient = (cameras + by_lengths.T @ by_lengths).tocsr(), gradient + by_lengths.T @ wrong
        all_points = _rows(by_point, 3 * seen.point[:, None] + np.arange(3), 3 * len(scene.points))
        return _Linearized(free, cameras, gradient, seen.sums(by_point.swapaxes(1, 2) @ by_point),
                           seen.sums((by_point * error[..., None]).sum(1)), (by_camera.T @ all_points).tocsr())

    def step(self, scene: SparseScene, damping: float) -> SparseScene:
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
        of_lens = np.zeros(PARAMETERS)
        of_lens[self.free] = steps[6 * len(scene.rotation):]
        return SparseScene(turn @ scene.rotation, (turn @ scene.translation[..., None])[..., 0] + by_camera[:, 3:],
                           scene.points - (inverse @ of_points[..., None])[..., 0], scene.camera.moved(of_lens))


def _rows(values: Array, columns: Index, count: int) -> Any:
    """Return the sparse matrix (2 m, count) with the values (m, 2, k) in columns (m, k), of both rows."""
    entries = np.repeat(columns[:, None], 2, axis=1)
    starts = np.arange(0, entries.size + 1, columns.shape[1])
    return sparse.csr_matrix((values.ravel(), entries.ravel(), starts), shape=(2 * len(values), count))
