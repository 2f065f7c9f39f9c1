"""How certain the cameras and the lens of an adjusted window are, from the Hessian of bundle adjustment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import inverse, pose
from vggt_ros.geometry.sim3 import adjoint
from vggt_ros.reconstruction.adjustment.bundle import PIXEL_SIGMA, Prior, Problem, Scene

Array = NDArray[np.float64]


def uncertainty(scene: Scene, observations: Array, visible: NDArray[np.bool_], loss_scale: float,
                focal_sigma: float = 0.0, priors: Sequence[Prior] = ()) -> tuple[Array, float]:
    """Return how uncertain the poses are from camera to camera, and the focal length.

    The inverse of the reduced Hessian, scaled by the variance of the residuals. Arguments as for `bundle.adjust`; the
    first camera is fixed.

    Returns:
        Covariances (S - 1, 6, 6) of each camera's pose in the frame of the one before it, of perturbations on the
        right, [rotation, translation], radians and units of the scene; and the relative standard deviation of the
        focal length, 0 where it is given.

    """
    problem = Problem.of(scene, observations, visible, loss_scale, 0, focal_sigma, 0.0, priors)
    matrix, _, _ = problem.linearize(scene).reduced(1e-9)
    square = (scene.residuals(observations) ** 2).sum(-1)[visible]
    weight = 1 / (1 + square / loss_scale**2)
    variance = float((weight * square).sum() / max(2 * weight.sum() - 3 * visible.any(1).sum() - len(matrix), 1.0))
    count = len(scene.rotation)
    # The scale is free: the pseudo-inverse leaves it out.
    free = variance * np.linalg.pinv(matrix, rcond=1e-10, hermitian=True)
    poses = np.zeros((6 * count, 6 * count))
    poses[6:, 6:] = free[:6 * count - 6, :6 * count - 6]
    blocks = poses.reshape(count, 6, count, 6).swapaxes(1, 2)
    cameras = np.array([pose(*both) for both in zip(scene.rotation, scene.translation, strict=True)])
    second_first = cameras[1:] @ np.array([inverse(camera) for camera in cameras[:-1]])
    carry = adjoint(second_first)[:, :6, :6]
    first, second = np.arange(count - 1), np.arange(1, count)
    cross = carry @ blocks[first, second]
    steps = carry @ blocks[first, first] @ carry.swapaxes(1, 2) + blocks[second, second] - cross - cross.swapaxes(1, 2)
    return np.asarray(steps), float(np.sqrt(free[-1, -1])) if focal_sigma else 0.0


def lens_sigmas(scene: Scene, observations: Array, visible: NDArray[np.bool_], fixed: int | NDArray[np.bool_],
                focal_sigma: float, radial_sigma: float) -> tuple[float, float]:
    """Return the standard deviations of the logarithm of the focal length and of the radial distortion of a solution.

    The arguments are those of `bundle.adjust`, which returned the scene. What was kept has the sigma 0.
    """
    problem = Problem.of(scene, observations, visible, 1.0, fixed, focal_sigma, radial_sigma, ())
    matrix, _, _ = problem.linearize(scene).reduced(1e-6)
    covariance = np.linalg.inv(matrix) * PIXEL_SIGMA**2
    shared = np.sqrt(np.maximum(np.diag(covariance)[6 * len(problem.free):], 0.0)).tolist()
    return (shared.pop(0) if focal_sigma else 0.0), (shared.pop(0) if radial_sigma else 0.0)
