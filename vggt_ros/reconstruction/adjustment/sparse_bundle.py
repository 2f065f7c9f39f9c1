"""Bundle adjustment of many images, each of which sees few of the points, taken by one camera.

As `bundle.py`, with lists of observations in place of arrays of all points in all images: Levenberg-Marquardt with a
Cauchy loss, the points eliminated by the Schur complement (Triggs et al., Bundle Adjustment, a Modern Synthesis, 2000).
Time and memory grow with the number of observations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.geometry.sim3 import rotations, skews
from vggt_ros.reconstruction.adjustment.bundle import PIXEL_SIGMA, AdjustmentOptions, cauchy
from vggt_ros.reconstruction.adjustment.levenberg_marquardt import Damping, levenberg_marquardt
from vggt_ros.reconstruction.adjustment.shared_camera import PARAMETERS, SharedCamera
from vggt_ros.reconstruction.adjustment.sparse_normal_equations import (
    Index,
    Jacobians,
    SparseNormalEquations,
)
from vggt_ros.threads import yield_to_tracking

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

    def errors(self, scene: SparseScene) -> tuple[Array, Array]:
        """Return the errors (p,), in sigmas, and the directions (p, 3) from the first to the second, over the sigma."""
        centers = scene.centers()
        between = centers[self.second] - centers[self.first]
        distance = np.linalg.norm(between, axis=1)
        return (distance - self.length) / self.sigma, between / (np.maximum(distance, 1e-12) * self.sigma)[:, None]


def residuals(scene: SparseScene, seen: Observations) -> Array:
    """Return projection minus observation (m, 2), pixels; NaN where the point is not in front of the camera."""
    in_camera = in_cameras(scene, seen)
    depth = np.where(in_camera[:, 2:] > 1e-9, in_camera[:, 2:], np.nan)
    return np.asarray(in_camera[:, :2] / depth * scene.camera.focal - _pinhole(scene, seen))


def in_cameras(scene: SparseScene, seen: Observations) -> Array:
    """Return the observed points in the frames of the images that observe them (m, 3)."""
    turned = np.einsum("mij,mj->mi", scene.rotation[seen.image], scene.points[seen.point])
    return np.asarray(turned + scene.translation[seen.image])


def triangulated(scene: SparseScene, seen: Observations) -> SparseScene:
    """Return the scene with the points nearest to all their rays.

    Rays count by the inverse square of the distance, as errors in the images do.
    """
    rays = _rays(scene, seen)
    across = np.eye(3) - rays[:, :, None] * rays[:, None]
    centers = scene.centers()[seen.image]
    projected, weight = np.einsum("mij,mj->mi", across, centers), np.ones(len(rays))
    for _ in range(3):
        normal = seen.sums(across * weight[:, None, None])
        normal += 1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(3)
        points = np.linalg.solve(normal, seen.sums(projected * weight[:, None])[..., None])[..., 0]
        distance = ((points[seen.point] - centers) * rays).sum(1)
        weight = 1 / np.maximum(distance, 0.1 * float(np.median(np.abs(distance)))) ** 2
    return replace(scene, points=np.asarray(points, np.float64))


def ray_angles(scene: SparseScene, seen: Observations) -> Array:
    """Return the angles (n,) that the rays of each point span, radians."""
    rays = _rays(scene, seen)
    mean = seen.sums(rays)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    cosine = np.minimum.reduceat((rays * mean[seen.point]).sum(1), seen.starts)
    return np.asarray(2 * np.arccos(np.clip(cosine, -1, 1)))


def adjust_sparse(scene: SparseScene, seen: Observations, options: AdjustmentOptions, sigmas: Array,
                  lengths: Lengths | None = None, check: Callable[[], None] = lambda: None) -> SparseScene:
    """Return the scene that minimizes the robust reprojection error; the pose of the first image is held fixed.

    Its scale is constrained by the damping only, or by `lengths`. `sigmas` (5,) are standard deviations of the
    parameters of the camera about those of the scene; 0 keeps them. Of the options, those of the lens have no meaning
    here. `check` is called before every step, and may raise an error to end it.
    """
    expected = scene.camera

    def cost(scene: SparseScene) -> float:
        known = 0.0 if lengths is None else PIXEL_SIGMA**2 * float((lengths.errors(scene)[0] ** 2).sum())
        return _cost(scene, seen, options, expected, sigmas) + known

    def linearize(scene: SparseScene) -> Callable[[float], SparseScene]:
        system = _linearized(scene, seen, options, expected, sigmas)
        if lengths is not None:
            _add_lengths(system, scene, lengths)

        def step(damping: float) -> SparseScene:
            check()
            of_pose, of_point, of_free = system.step(damping)
            of_camera = np.zeros(PARAMETERS)
            of_camera[sigmas > 0] = of_free
            return _moved(scene, of_pose, of_point, of_camera)

        return step

    return levenberg_marquardt(scene, cost, linearize, options.iterations, options.tolerance, DAMPING)


def _pinhole(scene: SparseScene, seen: Observations) -> Array:
    return scene.camera.pinhole(seen.pixels, seen.shift_rate)


def _rays(scene: SparseScene, seen: Observations) -> Array:
    """Return the directions (m, 3) in which the images see the points, in the frame of the scene."""
    rays = np.concatenate([_pinhole(scene, seen) / scene.camera.focal, np.ones((len(seen.point), 1))], 1)
    rays = np.einsum("mji,mj->mi", scene.rotation[seen.image], rays)
    return np.asarray(rays / np.linalg.norm(rays, axis=1, keepdims=True))


def _cost(scene: SparseScene, seen: Observations, options: AdjustmentOptions, expected: SharedCamera,
          sigmas: Array) -> float:
    square, free = (residuals(scene, seen) ** 2).sum(1), sigmas > 0
    prior = PIXEL_SIGMA * scene.camera.difference(expected)[free] / sigmas[free]
    return float(cauchy(square, options.loss_scale).sum() + (prior**2).sum())


def _linearized(scene: SparseScene, seen: Observations, options: AdjustmentOptions, expected: SharedCamera,
                sigmas: Array) -> SparseNormalEquations:
    """Return the normal equations at a scene, with the prior of the camera's parameters that have a sigma."""
    yield_to_tracking()
    in_camera, camera, free = in_cameras(scene, seen), scene.camera, sigmas > 0
    residual = residuals(scene, seen)
    root = np.sqrt(np.nan_to_num(1 / (1 + (residual**2).sum(1) / options.loss_scale**2)))[:, None]
    depth = np.where(root > 0, in_camera[:, 2:], 1.0)
    by_place = np.zeros((len(root), 2, 3))
    by_place[:, [0, 1], [0, 1]] = root * camera.focal / depth
    by_place[:, :, 2] = -root * camera.focal * in_camera[:, :2] / depth**2
    by_camera = camera.derivatives(in_camera[:, :2] / depth * camera.focal, seen.pixels, seen.shift_rate)[:, :, free]
    system = SparseNormalEquations(
        seen.image, seen.point, (len(scene.rotation), len(scene.points)),
        Jacobians(np.nan_to_num(residual * root), np.concatenate([-by_place @ skews(in_camera), by_place], 2),
                  by_place @ scene.rotation[seen.image], by_camera * root[..., None]))
    weight = (PIXEL_SIGMA / sigmas[free]) ** 2
    system.camera += np.diag(weight)
    system.camera_gradient += weight * camera.difference(expected)[free]
    return system


def _add_lengths(system: SparseNormalEquations, scene: SparseScene, lengths: Lengths) -> None:
    """Add known distances between images to normal equations.

    To first order, a step of an image's translation moves its center by that, turned back into the map.
    """
    error, along = lengths.errors(scene)
    by_pose = np.zeros((2, len(error), 6))
    for side, rows, sign in ((0, lengths.first, 1), (1, lengths.second, -1)):
        by_pose[side, :, 3:] = sign * np.einsum("pij,pj->pi", scene.rotation[rows], along)
    system.add_between(lengths.first, lengths.second, PIXEL_SIGMA * by_pose, PIXEL_SIGMA * error)


def _moved(scene: SparseScene, of_pose: Array, of_point: Array, of_camera: Array) -> SparseScene:
    """Return a scene after a step of its poses (k, 6), points (n, 3) and camera (5,)."""
    turn = rotations(of_pose[:, :3])
    return SparseScene(turn @ scene.rotation, (turn @ scene.translation[..., None])[..., 0] + of_pose[:, 3:],
                       scene.points + of_point, scene.camera.moved(of_camera))
