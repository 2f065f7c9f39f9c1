"""Scale of a map from IMU preintegration, by maximum likelihood with errors on both sides.

The IMU's path is known up to its first pose and velocity, its biases and gravity, in all of which it is linear, and up
to noise that accumulates. The map has the same path at an unknown scale, with its own noise:

    scale * positions in the map - positions by the IMU = Jacobian * unknowns + noise, of covariance V(scale)

Ordinary least squares takes the noise of the map's positions for motion, and underestimates scale: by a few percent
with 1 cm of noise and swings of 3 s. Maximum likelihood does not. Its stationarity condition is that of least squares
with the smoothed positions as instrumental variables (errors in variables). The noise levels of positions, attitudes
and IMU are estimated along with it (variance components, Foerstner 1979), and intervals in which the IMU was shaken or
saturated are down-weighted (Student's t).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, skew, so3_log
from vggt_ros.scale.preintegration import PreintegratedMotion

GRAVITY = 9.80665
_PRIOR_SIGMAS = np.repeat([0.1, 10.0, 100.0, 10.0, 0.1, 0.02], 3)
"""Prior sigmas of the unknowns, in the order of `_imu_path`; all but those of the biases are wide."""
_ATTITUDE_SIGMA = 0.002
"""Sigma of a keyframe's attitude, radians."""
_PRIOR_DOF = 6.0
"""Weight of the prior noise levels in the variance components, in degrees of freedom."""
_STUDENT_DOF = 4.0
"""Degrees of freedom of the Student's t distribution of the IMU's noise in an interval."""
_ITERATIONS, _CONVERGED = 20, 0.03
"""Most iterations, and the change of scale, as a fraction of its sigma, at which they stop."""
_OUTLIER_ITERATIONS = 3
"""Iterations that only down-weight outlier intervals, before their errors could inflate the noise levels."""
_MIN_INFORMATION = 1e-9
"""Least information of one keyframe, as a fraction of all information."""


@dataclass(frozen=True, eq=False)
class InertialScale:
    """Logarithm of the meters in a map unit, and its sigma.

    `increments` and `increment_sigma` (n,) are the estimates by what each keyframe adds to those before it: their
    errors are independent, and their mean, weighted by information, is `log`.
    """

    log: float
    sigma: float
    increments: Array
    increment_sigma: Array


def solve_scale(map_camera: Array, windows: NDArray[np.int64], camera_imu: Array,
                motions: Sequence[PreintegratedMotion], sigma: float) -> InertialScale | None:
    """Return the scale of a map by an IMU; None if the motion does not determine it.

    Args:
        map_camera: (n, 4, 4), poses of keyframes.
        windows: (n,), id of the window that placed each.
        camera_imu: pose 4x4 of the IMU in the camera's frame, meters.
        motions: n - 1, from each keyframe to the next.
        sigma: prior sigma of a keyframe's position, map units.

    """
    attitude, position = map_camera[:, :3, :3] @ camera_imu[:3, :3], map_camera[:, :3, 3] - map_camera[0, :3, 3]
    jacobian, imu_path, noise = _imu_path(attitude, camera_imu[:3, :3].T @ camera_imu[:3, 3], motions)
    is_position = np.tile([0.0, 0, 0, 1, 1, 1], len(position))
    positions = np.concatenate([np.zeros_like(position), position], 1).ravel()
    map_covariances = _map_covariances(attitude, position, windows, sigma)
    motion_weights, variance_factors, scale, before = np.ones(len(motions)), np.ones(3), 1.0, np.inf
    gravity, smoothed = np.zeros(3), positions
    for iteration in range(_ITERATIONS):
        prior_jacobian = jacobian * _PRIOR_SIGMAS
        if gravity.any():  # its length is known
            prior_jacobian[:, 9:12] -= np.outer(prior_jacobian[:, 9:12] @ gravity, gravity / GRAVITY**2)
        row_scale = np.where(is_position, abs(scale), 1.0)
        weighted_noise = (noise / np.sqrt(motion_weights)[:, None]).reshape(len(noise), -1)
        components = np.array([*(row_scale[:, None] * part * row_scale for part in map_covariances),
                               weighted_noise @ weighted_noise.T])
        covariance = np.tensordot(variance_factors, components, 1) + prior_jacobian @ prior_jacobian.T
        precision = np.linalg.inv(covariance)
        target = imu_path + jacobian[:, 9:12] @ gravity
        instruments = precision @ smoothed
        information = float(instruments @ smoothed)
        if not information > 0:  # no motion
            return None
        before, scale = scale, float(instruments @ target / (instruments @ positions))
        residual = scale * positions - target
        weighted_residual = precision @ residual
        direction = gravity + _PRIOR_SIGMAS[9:12] * (weighted_residual @ prior_jacobian[:, 9:12])
        gravity = GRAVITY * direction / np.linalg.norm(direction)
        if iteration > _OUTLIER_ITERATIONS and abs(scale - before) < _CONVERGED / np.sqrt(information):
            break
        smoothed = positions - is_position * (
            np.tensordot(variance_factors[:2], map_covariances, 1) @ (row_scale * weighted_residual))
        motion_chi2 = variance_factors[2] * (np.tensordot(weighted_residual, noise, 1)**2).sum(1) / motion_weights**2
        motion_weights = np.minimum(1.0, (_STUDENT_DOF + noise.shape[2]) / (_STUDENT_DOF + motion_chi2))
        if iteration < _OUTLIER_ITERATIONS:
            continue
        # Quadratic forms of the residuals in each variance component, over their redundancy (what the unknowns leave).
        quadratic_forms = variance_factors * np.einsum("i,pij,j->p", weighted_residual, components, weighted_residual)
        redundancy = variance_factors * np.tensordot(
            components, precision - np.outer(instruments, instruments) / information, 2)
        variance_factors = variance_factors * (
            quadratic_forms + _PRIOR_DOF / variance_factors) / (redundancy + _PRIOR_DOF)
    if scale <= 0:
        return None
    # Whitened rows hold what each keyframe adds to those before it.
    rows = np.linalg.solve(np.linalg.cholesky(covariance), np.column_stack([smoothed, residual])).reshape(-1, 6, 2)
    row_information = np.maximum((rows[..., 0]**2).sum(1), _MIN_INFORMATION * information)
    log = np.log(scale) - (rows[..., 0] * rows[..., 1]).sum(1) / row_information / scale
    return InertialScale(float(np.log(scale)), information**-0.5 / scale, log, row_information**-0.5 / scale)


def gyroscope_bias(attitude: Array, motions: Sequence[PreintegratedMotion]) -> Array:
    """Return the gyroscope bias (3,), a median, with which the motions' rotations match the attitudes (n, 3, 3)."""
    residual_rotations = [so3_log(motion.rotation.T @ before.T @ after)
                          for motion, before, after in zip(motions, attitude, attitude[1:])]
    return np.asarray(np.median([motion.gyroscope_bias + np.linalg.solve(motion.bias_jacobian[:3, 3:], rotation)
                                 for motion, rotation in zip(motions, residual_rotations, strict=True)], 0))


def _imu_path(attitude: Array, lever: Array, motions: Sequence[PreintegratedMotion]) -> tuple[Array, Array, Array]:
    """Return the IMU's prediction of the camera's attitudes and positions, the rows [rotation (3,), position (3,)].

    Rotations are perturbations on the right of the IMU's attitudes `attitude` (n, 3, 3) in the map; `lever` (3,) is
    from the camera to the IMU, in its axes. The motion is linearized about these attitudes, with zero accelerometer
    bias and gravity.

    Returns:
        jacobian: (6n, 18), by the first [rotation, position, velocity], gravity, accelerometer and gyroscope bias.
        path: (6n,), the prediction where all unknowns are zero.
        noise: (6n, n - 1, 9), Jacobian by the whitened noise of each motion.

    """
    count = len(attitude)
    state = np.zeros((count, 9, 19 + 9 * (count - 1)))
    state[0, :, :9] = np.eye(9)
    bias = gyroscope_bias(attitude, motions)
    for k, motion in enumerate(motion.with_gyroscope_bias(bias) for motion in motions):
        rotation, dt = attitude[k], motion.seconds
        transition, to_map = np.eye(9), np.eye(9)
        transition[:3, :3], transition[3:6, 6:] = motion.rotation.T, dt * np.eye(3)
        transition[3:6, :3], transition[6:, :3] = -rotation @ skew(motion.position), -rotation @ skew(motion.velocity)
        to_map[3:6, 3:6] = to_map[6:, 6:] = rotation
        state[k + 1] = transition @ state[k]
        state[k + 1, 3:6, 9:12] += dt**2 / 2 * np.eye(3)
        state[k + 1, 6:, 9:12] += dt * np.eye(3)
        state[k + 1, :, 12:18] += to_map @ motion.bias_jacobian
        state[k + 1, :, 18] += np.concatenate([so3_log(attitude[k + 1].T @ rotation @ motion.rotation),
                                               rotation @ motion.position, rotation @ motion.velocity])
        noise = slice(19 + 9 * k, 28 + 9 * k)
        state[k + 1, :, noise] = to_map @ np.linalg.cholesky(motion.covariance)
    camera_rows = state[:, :6].copy()
    camera_rows[:, 3:] += attitude @ skew(lever) @ state[:, :3]
    camera_rows[:, 3:, 18] -= attitude @ lever
    rows = camera_rows.reshape(6 * count, -1)
    return rows[:, :18], rows[:, 18], rows[:, 19:].reshape(6 * count, count - 1, 9)


def _map_covariances(attitude: Array, position: Array, windows: NDArray[np.int64], sigma: float) -> Array:
    """Return the covariances (2, 6n, 6n) of the map's rows: by errors of its positions, and of its attitudes.

    Each keyframe has an independent error, and each window has one of the same size that all later keyframes share.
    """
    count = len(position)
    variance = np.zeros((2, count, 6))
    variance[0, :, 3:], variance[1, :, :3] = sigma**2, _ATTITUDE_SIGMA**2
    covariance = np.array([np.diag(diagonal.ravel()) for diagonal in variance])
    for first in (np.flatnonzero(np.diff(windows)) + 1).tolist():
        shift, rotation = np.zeros((2, count, 6, 3))
        shift[first:, 3:] = sigma * np.eye(3)
        rotation[first:, :3] = _ATTITUDE_SIGMA * np.swapaxes(attitude[first:], 1, 2)
        rotation[first:, 3:] = [-_ATTITUDE_SIGMA * skew(lever) for lever in position[first:] - position[first - 1]]
        for part, jacobian in zip(covariance, (shift, rotation), strict=True):
            part += jacobian.reshape(-1, 3) @ jacobian.reshape(-1, 3).T
    return covariance
