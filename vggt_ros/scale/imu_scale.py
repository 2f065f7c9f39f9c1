"""Scale from the motion that an IMU felt against the places of a map, with errors in both.

From where it began, an IMU's path is known up to its first pose and velocity, its biases and gravity, all of them
linear, and up to noise that adds up. The map has the same path in a unit of its own, with a noise of its own:

    scale * places in the map - what was felt = unknowns + noise, of covariance V(scale)

Least squares takes the noise of the places for a part of the way, and finds too small a scale: with 1 cm a place and
3 s a swing by a few percent. Maximum likelihood does not. Its condition is that of least squares with the places as
everything smooths them for an instrument (errors in variables). How large the noise of places, attitudes and IMU is,
is estimated with it (variance components, Foerstner 1979), and steps whose IMU was shaken or saturated count little
(Student's t).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, skew, so3_log
from vggt_ros.scale.preintegration import Step

GRAVITY = 9.80665
_SIGMAS = np.repeat([0.1, 10.0, 100.0, 10.0, 0.1, 0.02], 3)
"""Of the unknowns, in the order of `_felt`; but for those of the biases, wide."""
_SIGMA_TURN = 0.002
"""Of a keyframe's attitude, radians."""
_TRUST = 6.0
"""So many numbers count as much for the level of a noise as what is said of it beforehand."""
_FREEDOM = 4.0
"""Degrees of freedom of Student's t, of the noise of a step."""
_ITERATIONS, _CONVERGED = 20, 0.03
"""At most so many, until scale changes by less than this part of its sigma."""
_SETTLED = 3
"""So many find the steps that lie, before their errors could be taken for the level of the noise."""
_NOTHING = 1e-9
"""A part of all information that is none."""


@dataclass(frozen=True, eq=False)
class InertialScale:
    """Logarithm of the meters in a map unit, and its sigma.

    `own` and `own_sigma` (n,) are what each keyframe tells beyond those before it: their errors are independent, and
    their mean by information is `log`.
    """

    log: float
    sigma: float
    own: Array
    own_sigma: Array


def solve_scale(map_camera: Array, windows: NDArray[np.int64], camera_imu: Array, steps: Sequence[Step],
                sigma: float) -> InertialScale | None:
    """Return the scale of a map by an IMU; None if the motion does not tell.

    Args:
        map_camera: (n, 4, 4), poses of keyframes.
        windows: (n,), which window placed each.
        camera_imu: pose 4x4 of the IMU in the camera's frame, meters.
        steps: n - 1, from each keyframe to the next.
        sigma: of a keyframe's place, map units, as far as it is known beforehand.

    """
    rotation, place = map_camera[:, :3, :3] @ camera_imu[:3, :3], map_camera[:, :3, 3] - map_camera[0, :3, 3]
    unknowns, felt, noise = _felt(rotation, camera_imu[:3, :3].T @ camera_imu[:3, 3], steps)
    in_units = np.tile([0.0, 0, 0, 1, 1, 1], len(place))
    places = np.concatenate([np.zeros_like(place), place], 1).ravel()
    of_map = _map_noise(rotation, place, windows, sigma)
    weights, level, scale, before = np.ones(len(steps)), np.ones(3), 1.0, np.inf
    gravity, smoothed = np.zeros(3), places
    for iteration in range(_ITERATIONS):
        free = unknowns * _SIGMAS
        if gravity.any():  # its length is known
            free[:, 9:12] -= np.outer(free[:, 9:12] @ gravity, gravity / GRAVITY**2)
        meters = np.where(in_units, abs(scale), 1.0)
        weighted = (noise / np.sqrt(weights)[:, None]).reshape(len(noise), -1)
        parts = np.array([*(meters[:, None] * one * meters for one in of_map), weighted @ weighted.T])
        covariance = np.tensordot(level, parts, 1) + free @ free.T
        precision = np.linalg.inv(covariance)
        right = felt + unknowns[:, 9:12] @ gravity
        weighed = precision @ smoothed
        information = float(weighed @ smoothed)
        if not information > 0:  # it stands still
            return None
        before, scale = scale, float(weighed @ right / (weighed @ places))
        residual = scale * places - right
        tension = precision @ residual
        toward = gravity + _SIGMAS[9:12] * (tension @ free[:, 9:12])
        gravity = GRAVITY * toward / np.linalg.norm(toward)
        if iteration > _SETTLED and abs(scale - before) < _CONVERGED / np.sqrt(information):
            break
        smoothed = places - in_units * (np.tensordot(level[:2], of_map, 1) @ (meters * tension))
        strange = level[2] * (np.tensordot(tension, noise, 1)**2).sum(1) / weights**2
        weights = np.minimum(1.0, (_FREEDOM + noise.shape[2]) / (_FREEDOM + strange))
        if iteration < _SETTLED:
            continue
        # What each part of the noise takes of the residuals, against what is left of it beside the unknowns.
        taken = level * np.einsum("i,pij,j->p", tension, parts, tension)
        left = level * np.tensordot(parts, precision - np.outer(weighed, weighed) / information, 2)
        level = level * (taken + _TRUST / level) / (left + _TRUST)
    if scale <= 0:
        return None
    # Whitened rows are what each keyframe tells beyond those before it.
    rows = np.linalg.solve(np.linalg.cholesky(covariance), np.column_stack([smoothed, residual])).reshape(-1, 6, 2)
    each = np.maximum((rows[..., 0]**2).sum(1), _NOTHING * information)
    log = np.log(scale) - (rows[..., 0] * rows[..., 1]).sum(1) / each / scale
    return InertialScale(float(np.log(scale)), information**-0.5 / scale, log, each**-0.5 / scale)


def gyroscope_bias(rotation: Array, steps: Sequence[Step]) -> Array:
    """Return the gyroscope's bias (3,) by which most of the steps turn as the attitudes (n, 3, 3) do."""
    missing = [so3_log(step.turn.T @ before.T @ after) for step, before, after in zip(steps, rotation, rotation[1:])]
    return np.asarray(np.median([step.gyroscope_bias + np.linalg.solve(step.by_bias[:3, 3:], turn)
                                 for step, turn in zip(steps, missing, strict=True)], 0))


def _felt(rotation: Array, lever: Array, steps: Sequence[Step]) -> tuple[Array, Array, Array]:
    """Return what the IMU says of attitudes and places of the camera, the rows [turn (3,), place (3,)] of n keyframes.

    Turns are on the right of the map's attitudes `rotation` (n, 3, 3) of the IMU; `lever` (3,) is from the camera to
    the IMU, in its axes. The motion is linear about these attitudes, without a bias of the accelerometer and gravity.

    Returns:
        unknowns: (6n, 18), by [turn, place, velocity] at first, gravity, biases of accelerometer and gyroscope.
        felt: (6n,), without them.
        noise: (6n, n - 1, 9), by independent numbers of unit variance in each step.

    """
    count = len(rotation)
    state = np.zeros((count, 9, 19 + 9 * (count - 1)))
    state[0, :, :9] = np.eye(9)
    bias = gyroscope_bias(rotation, steps)
    for k, step in enumerate(step.without(bias) for step in steps):
        turn, dt = rotation[k], step.seconds
        go, axes = np.eye(9), np.eye(9)
        go[:3, :3], go[3:6, 6:] = step.turn.T, dt * np.eye(3)
        go[3:6, :3], go[6:, :3] = -turn @ skew(step.position), -turn @ skew(step.velocity)
        axes[3:6, 3:6] = axes[6:, 6:] = turn
        state[k + 1] = go @ state[k]
        state[k + 1, 3:6, 9:12] += dt**2 / 2 * np.eye(3)
        state[k + 1, 6:, 9:12] += dt * np.eye(3)
        state[k + 1, :, 12:18] += axes @ step.by_bias
        state[k + 1, :, 18] += np.concatenate([so3_log(rotation[k + 1].T @ turn @ step.turn), turn @ step.position,
                                               turn @ step.velocity])
        noise = slice(19 + 9 * k, 28 + 9 * k)
        state[k + 1, :, noise] = axes @ np.linalg.cholesky(step.covariance)
    seen = state[:, :6].copy()
    seen[:, 3:] += rotation @ skew(lever) @ state[:, :3]
    seen[:, 3:, 18] -= rotation @ lever
    rows = seen.reshape(6 * count, -1)
    return rows[:, :18], rows[:, 18], rows[:, 19:].reshape(6 * count, count - 1, 9)


def _map_noise(rotation: Array, place: Array, windows: NDArray[np.int64], sigma: float) -> Array:
    """Return the covariances (2, 6n, 6n) of the map's rows: what its places, and what its attitudes make of them.

    Each keyframe has errors of its own, and each window has one as large in common with all that follow.
    """
    count = len(place)
    own = np.zeros((2, count, 6))
    own[0, :, 3:], own[1, :, :3] = sigma**2, _SIGMA_TURN**2
    covariance = np.array([np.diag(one.ravel()) for one in own])
    for first in (np.flatnonzero(np.diff(windows)) + 1).tolist():
        shift, turn = np.zeros((2, count, 6, 3))
        shift[first:, 3:] = sigma * np.eye(3)
        turn[first:, :3] = _SIGMA_TURN * np.swapaxes(rotation[first:], 1, 2)
        turn[first:, 3:] = [-_SIGMA_TURN * skew(arm) for arm in place[first:] - place[first - 1]]
        for part, one in zip(covariance, (shift, turn), strict=True):
            part += one.reshape(-1, 3) @ one.reshape(-1, 3).T
    return covariance
