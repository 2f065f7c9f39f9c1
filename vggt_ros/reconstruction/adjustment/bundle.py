"""Bundle adjustment of one window: few cameras, many points, dense normal equations in numpy.

Levenberg-Marquardt with the Schur complement over the points and a Cauchy loss (Triggs et al., Bundle Adjustment, a
Modern Synthesis, 2000). Eight cameras and a thousand points take about two milliseconds per iteration. In the internal
arrays the points are the last, contiguous axis, so that numpy's inner loops are long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.geometry.sim3 import rotations
from vggt_ros.reconstruction.adjustment.levenberg_marquardt import Damping, levenberg_marquardt
from vggt_ros.reconstruction.adjustment.normal_equations import NormalEquations

ROUGH, EXACT = 1e-3, 1e-4
"""Relative decrease of the cost at which bundle adjustment stops: where another one follows, and where none does."""
PIXEL_SIGMA = 1.0
"""Standard deviation of an observation against the priors of the lens, pixels; that of its error is smaller, but errors
are not independent."""
DAMPING = Damping(1e-4, 8, 5, 1e-9)


@dataclass(frozen=True)
class AdjustmentOptions:
    """When bundle adjustment stops, how robust it is, and what of the lens it estimates.

    Attributes:
        iterations: maximum number of steps.
        tolerance: it stops when the cost decreases by less than this fraction.
        loss_scale: scale of the Cauchy loss, pixels.
        focal_sigma: relative standard deviation of the one factor that all focal lengths share; 0 keeps them.
        radial_sigma: standard deviation of the radial distortion, about that of the scene; 0 keeps it.
        relaxation: factor on the steps, below 2; where the loss is narrow, its weights make them too short.

    """

    iterations: int = 20
    tolerance: float = ROUGH
    loss_scale: float = 1.0
    focal_sigma: float = 0.0
    radial_sigma: float = 0.0
    relaxation: float = 1.0


@dataclass(frozen=True, eq=False)
class Scene:
    """Camera poses, focal lengths and points of a window: the state of bundle adjustment.

    Attributes:
        rotation, translation: `camera_world`, float64 (S, 3, 3) and (S, 3).
        points: float64 (n, 3) in the world.
        focal: float64 (S, 2), pixels.
        radial: radial distortion that the observations still have: an observation at r focal lengths from the principal
            point is corrected by the factor 1 + radial r^2.

    """

    rotation: Array
    translation: Array
    points: Array
    focal: Array
    radial: float = 0.0

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
        return in_camera[..., :2] / depth * self.focal - undistorted(observations, self.focal, self.radial)

    def part(self, cameras: NDArray[np.intp] | slice, points: NDArray[np.intp] | slice) -> Scene:
        """Return some of the cameras, with some of the points."""
        return Scene(self.rotation[cameras], self.translation[cameras], self.points[points], self.focal[cameras],
                     self.radial)

    def first(self, count: int) -> Scene:
        """Return the first cameras, with all points."""
        return self.part(slice(count), slice(None))

    def centers(self) -> Array:
        """Return the camera centers (S, 3) in the world."""
        return -np.einsum("sji,sj->si", self.rotation, self.translation)


def undistorted(observations: Array, focal: Array, radial: float) -> Array:
    """Return observations (..., 2), pixels from the principal point, corrected for a radial distortion; see `Scene`."""
    if radial == 0.0:
        return observations
    return observations * (1 + radial * ((observations / focal) ** 2).sum(-1, keepdims=True))


def cauchy(square: Array, scale: float) -> Array:
    """Return the Cauchy loss of squared residuals; a point behind the camera (NaN) has a residual of 30 scales."""
    return scale**2 * np.log1p(np.nan_to_num(square, nan=900 * scale**2) / scale**2)


def adjust(scene: Scene, observations: Array, visible: NDArray[np.bool_], options: AdjustmentOptions,
           fixed: int | NDArray[np.bool_] = 0, priors: Sequence[Prior] = ()) -> Scene:
    """Return the scene that minimizes the robust reprojection error.

    Args:
        scene: initial values.
        observations: (n, S, 2) pixels from the principal point; any value where not `visible`.
        visible: (n, S), the observations to use.
        options: when to stop, and what to estimate.
        fixed: the camera whose pose is held fixed, or the mask (S,) of those; the scale that a single one leaves free
            is constrained by the damping only.
        priors: what else is known.

    """
    problem = Problem.of(scene, observations, visible, options, fixed, priors)

    def linearize(scene: Scene) -> Callable[[float], Scene]:
        system = problem.linearize(scene)
        return lambda damping: problem.step(scene, system, damping)

    return levenberg_marquardt(scene, problem.cost, linearize, options.iterations, options.tolerance, DAMPING)


class Prior(Protocol):
    """Knowledge beside the observations; an error of one sigma costs as an observation that is off by its sigma."""

    def cost(self, scene: Scene) -> float:
        """Return what it costs that a scene is not as expected."""
        ...

    def add_to(self, system: NormalEquations, scene: Scene, free: NDArray[np.intp]) -> None:
        """Add it to normal equations, whose first parameters are those of the `free` cameras."""
        ...


@dataclass(frozen=True, eq=False)
class Problem:
    """The measurements: observations (S, 2, n), the mask of those to use (S, n), and the free cameras.

    The focal length is expected about `focal` (S, 2), the radial distortion about `radial`; `priors` are the rest.
    """

    observations: Array
    visible: NDArray[np.bool_]
    options: AdjustmentOptions
    free: NDArray[np.intp]
    focal: Array
    radial: float
    priors: tuple[Prior, ...] = ()

    @classmethod
    def of(cls, scene: Scene, observations: Array, visible: NDArray[np.bool_], options: AdjustmentOptions,
           fixed: int | NDArray[np.bool_] = 0, priors: Sequence[Prior] = ()) -> Problem:
        """Return the problem of `adjust`, whose arguments are given."""
        free = np.ones(visible.shape[1], bool)
        free[fixed] = False
        return cls(np.where(visible[..., None], observations, 0.0).transpose(1, 2, 0).copy(), visible.T.copy(),
                   options, np.flatnonzero(free), scene.focal, scene.radial, tuple(priors))

    @cached_property
    def distortion(self) -> Array:
        """What a radial distortion of 1 adds to the observations (S, 2, n)."""
        return self.observations * ((self.observations / self.focal[..., None]) ** 2).sum(1, keepdims=True)

    @cached_property
    def _arrays(self) -> tuple[Array, Array, Array]:
        """The largest arrays of `linearize`, which each call writes again, except for what is always zero."""
        (views, count), cameras = self.visible.shape, len(self.free)
        size = 6 * cameras + bool(self.options.focal_sigma) + bool(self.options.radial_sigma)
        return np.zeros((views, 3, 3, count)), np.zeros((cameras, 6, 2, count)), np.empty((size, 3, count))

    def _residual(self, scene: Scene, ratio: Array) -> Array:
        """Return projection minus corrected observation (S, 2, n)."""
        residual = ratio * scene.focal[..., None] - self.observations
        return residual - scene.radial * self.distortion if scene.radial else residual

    def _lens_errors(self, scene: Scene) -> list[tuple[float, float]]:
        """Return deviation and weight of what of the lens is estimated, in the order of the shared parameters."""
        errors, options = [], self.options
        if options.focal_sigma:
            errors.append((float(np.log(scene.focal[0, 0] / self.focal[0, 0])),
                           (PIXEL_SIGMA / options.focal_sigma) ** 2))
        if options.radial_sigma:
            errors.append((scene.radial - self.radial, (PIXEL_SIGMA / options.radial_sigma) ** 2))
        return errors

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
        residual = self._residual(scene, in_camera[:, :2] * inverse[:, None])
        square = (residual[:, 0] ** 2 + residual[:, 1] ** 2)[valid]
        observed = cauchy(square, self.options.loss_scale).sum() + (
            np.count_nonzero(self.visible) - len(square)) * cauchy(np.array(np.nan), self.options.loss_scale)
        prior = sum(weight * error**2 for error, weight in self._lens_errors(scene))
        return sum((one.cost(scene) for one in self.priors), float(observed + prior))

    def linearize(self, scene: Scene) -> NormalEquations:
        """Return the normal equations; parameters are [rotation, translation] per free camera, then what they share.

        Their `coupling` is valid until the next call.
        """
        in_camera, inverse, valid = self._project(scene)
        count, options = self.visible.shape[1], self.options
        ratio = in_camera[:, :2] * inverse[:, None]
        residual = self._residual(scene, ratio)
        square = (residual[:, 0] ** 2 + residual[:, 1] ** 2) / options.loss_scale**2
        sqrt_weight = np.sqrt(np.where(valid, 1.0 / (1.0 + square), 0.0))
        residual *= sqrt_weight[:, None]

        # The rows of the Jacobian with respect to translation are (slope_x, 0, slant_x) and (0, slope_y, slant_y).
        slope = scene.focal[..., None] * (inverse * sqrt_weight)[:, None]
        slant = -slope * ratio
        information, j_camera, coupling = self._arrays
        information[:, 0, 0], information[:, 1, 1] = slope[:, 0] ** 2, slope[:, 1] ** 2
        information[:, :2, 2] = information[:, 2, :2] = slope * slant
        information[:, 2, 2] = slant[:, 0] ** 2 + slant[:, 1] ** 2
        world_camera, to_points = scene.rotation.swapaxes(1, 2), scene.rotation.reshape(-1, 3).T

        def for_points(values: Array) -> Array:
            """Return the products (3, n) of the Jacobian with respect to points and values (S, 2, n)."""
            by_translation = np.empty((len(values), 3, count))
            np.multiply(slope, values, out=by_translation[:, :2])
            by_translation[:, 2] = slant[:, 0] * values[:, 0] + slant[:, 1] * values[:, 1]
            return to_points @ by_translation.reshape(-1, count)

        free = self.free
        cameras = len(free)
        x, y, z = (in_camera[free, axis] for axis in range(3))
        slope_x, slope_y, slant_x, slant_y = slope[free, 0], slope[free, 1], slant[free, 0], slant[free, 1]
        j_camera[:, 3, 0], j_camera[:, 4, 1], j_camera[:, 5, 0], j_camera[:, 5, 1] = slope_x, slope_y, slant_x, slant_y
        j_camera[:, 0, 0], j_camera[:, 0, 1] = y * slant_x, y * slant_y - z * slope_y
        j_camera[:, 1, 0], j_camera[:, 1, 1] = z * slope_x - x * slant_x, -x * slant_y
        j_camera[:, 2, 0], j_camera[:, 2, 1] = -y * slope_x, x * slope_y

        shared = [ratio * scene.focal[..., None] * sqrt_weight[:, None]] if options.focal_sigma else []
        shared += [-self.distortion * sqrt_weight[:, None]] if options.radial_sigma else []
        first, size = 6 * cameras, 6 * cameras + len(shared)
        hessian, gradient = np.zeros((size, size)), np.zeros(size)
        flat = j_camera.reshape(cameras, 6, 2 * count)
        blocks = flat @ flat.swapaxes(1, 2)
        for s in range(cameras):
            hessian[6 * s:6 * s + 6, 6 * s:6 * s + 6] = blocks[s]
        gradient[:first] = (flat @ residual[free].reshape(cameras, -1, 1)).ravel()
        mixed = world_camera[:, None] @ information  # (S, 3, 3, n), of translations and points
        by_pose = coupling[:first].reshape(cameras, 6, 3, count)
        by_pose[:, 3:] = mixed[free]
        x, y, z = x[:, None], y[:, None], z[:, None]
        by_pose[:, 0] = y * by_pose[:, 5] - z * by_pose[:, 4]
        by_pose[:, 1] = z * by_pose[:, 3] - x * by_pose[:, 5]
        by_pose[:, 2] = x * by_pose[:, 4] - y * by_pose[:, 3]
        for row, (jacobian, (error, weight)) in enumerate(zip(shared, self._lens_errors(scene), strict=True), first):
            hessian[row, :first] = hessian[:first, row] = (flat @ jacobian[free].reshape(cameras, -1, 1)).ravel()
            for column, other in enumerate(shared, first):
                hessian[row, column] = (jacobian * other).sum()
            hessian[row, row] += weight
            gradient[row] = (jacobian * residual).sum() + weight * error
            coupling[row] = for_points(jacobian)
        points = (to_points @ mixed.reshape(-1, 3 * count)).reshape(3, 3, count)
        system = NormalEquations(hessian, gradient, points, for_points(residual), coupling)
        for one in self.priors:
            one.add_to(system, scene, free)
        return system

    def step(self, scene: Scene, system: NormalEquations, damping: float) -> Scene:
        """Return the scene after one damped Gauss-Newton step."""
        steps, point_step = (self.options.relaxation * part for part in system.solve(damping))
        rotation, translation, free = scene.rotation.copy(), scene.translation.copy(), self.free
        by_camera = steps[:6 * len(free)].reshape(-1, 6)
        turn = rotations(by_camera[:, :3])
        rotation[free] = turn @ rotation[free]
        translation[free] = (turn @ translation[free][..., None])[..., 0] + by_camera[:, 3:]
        shared = steps[6 * len(self.free):].tolist()
        focal = scene.focal * np.exp(np.clip(shared.pop(0), -0.2, 0.2)) if self.options.focal_sigma else scene.focal
        radial = scene.radial + float(np.clip(shared.pop(0), -0.1, 0.1)) if self.options.radial_sigma else scene.radial
        return Scene(rotation, translation, scene.points + point_step.T, focal, radial)
