"""IMU preintegration between two stamps, by gtsam, with covariance and Jacobian by the biases.

Forster, Carlone, Dellaert and Scaramuzza, On-Manifold Preintegration, T-RO 2017.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import gtsam
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, so3_exp, so3_log

_ACCELEROMETER_NOISE, _GYROSCOPE_NOISE = 0.005, 0.0005
"""Noise densities of accelerometer (m/s^2/sqrt(Hz)) and gyroscope (rad/s/sqrt(Hz)): thrice a small one's data sheet."""
_INTEGRATION_VARIANCE = 1e-8
"""Variance of the integration itself, m^2/s."""
_DERIVATIVE_STEP = 1e-5


@dataclass(frozen=True, eq=False)
class PreintegratedMotion:
    """Preintegrated motion, in the IMU's frame at the beginning of the interval, without gravity.

    Attributes:
        seconds: duration.
        gyroscope_bias: (3,) rad/s, already subtracted; no bias of the accelerometer is subtracted.
        rotation, position, velocity: the increments, (3, 3), (3,) meters and (3,) m/s.
        bias_jacobian: (9, 6), of [rotation, position, velocity] by the bias [accelerometer, gyroscope].
        covariance: (9, 9) of the increments; the rotation is perturbed on the right.

    """

    seconds: float
    gyroscope_bias: Array
    rotation: Array
    position: Array
    velocity: Array
    bias_jacobian: Array
    covariance: Array

    def with_gyroscope_bias(self, gyroscope_bias: Array) -> PreintegratedMotion:
        """Return the motion corrected, to first order, for another gyroscope bias (3,)."""
        change = self.bias_jacobian[:, 3:] @ (gyroscope_bias - self.gyroscope_bias)
        return replace(self, gyroscope_bias=gyroscope_bias, rotation=self.rotation @ so3_exp(change[:3]),
                       position=self.position + change[3:6], velocity=self.velocity + change[6:])


def preintegrate(stamps: NDArray[np.int64], samples: Array, gyroscope_bias: Array) -> PreintegratedMotion:
    """Integrate samples (n, 6), rad/s and m/s^2, at `stamps` (n,), less the gyroscope bias (3,)."""
    parameters = gtsam.PreintegrationParams.MakeSharedU(0.0)
    parameters.setAccelerometerCovariance(np.eye(3) * _ACCELEROMETER_NOISE**2)
    parameters.setGyroscopeCovariance(np.eye(3) * _GYROSCOPE_NOISE**2)
    parameters.setIntegrationCovariance(np.eye(3) * _INTEGRATION_VARIANCE)
    bias = gtsam.imuBias.ConstantBias(np.zeros(3), gyroscope_bias)
    preintegrated = gtsam.PreintegratedImuMeasurements(parameters, bias)
    times, turn_rates = np.diff(stamps) / 1e9, (samples[1:, :3] + samples[:-1, :3]) / 2
    # gtsam takes an acceleration to be in the axes at the beginning of its interval: rotate the one at the end there.
    rotated = samples[1:, 3:] + np.cross(times[:, None] * (turn_rates - gyroscope_bias), samples[1:, 3:])
    accelerations = (samples[:-1, 3:] + rotated) / 2
    for seconds, turn_rate, acceleration in zip(times.tolist(), turn_rates, accelerations, strict=True):
        preintegrated.integrateMeasurement(acceleration, turn_rate, seconds)
    begin = gtsam.NavState()
    state = preintegrated.predict(begin, bias)
    rotation, bias_jacobian = state.attitude().matrix(), np.zeros((9, 6))
    for axis, bias_step in enumerate(_DERIVATIVE_STEP * np.eye(6)):
        perturbed = preintegrated.predict(
            begin, gtsam.imuBias.ConstantBias(bias_step[:3], gyroscope_bias + bias_step[3:]))
        bias_jacobian[:, axis] = np.concatenate([so3_log(rotation.T @ perturbed.attitude().matrix()),
                                                 perturbed.position() - state.position(),
                                                 perturbed.velocity() - state.velocity()]) / _DERIVATIVE_STEP
    return PreintegratedMotion(float(preintegrated.deltaTij()), gyroscope_bias, rotation, np.asarray(state.position()),
                               np.asarray(state.velocity()), bias_jacobian, np.asarray(preintegrated.preintMeasCov()))


def samples_between(stamps: NDArray[np.int64], samples: Array, begin: int, end: int) -> tuple[NDArray[np.int64], Array]:
    """Return the samples (n, 6) at `stamps` (n,) between two stamps, with interpolated ones at both ends.

    Empty, if there is no sample before `begin` or none after `end`.
    """
    if begin >= end or not len(stamps) or begin < stamps[0] or end > stamps[-1]:
        return np.zeros(0, np.int64), np.zeros((0, 6))
    around = slice(int(np.searchsorted(stamps, begin, side="right")) - 1, int(np.searchsorted(stamps, end)) + 1)
    chosen = np.concatenate([[begin], stamps[around][1:-1], [end]])
    times = (stamps[around] - begin).astype(np.float64)
    return chosen, np.column_stack([np.interp(chosen - begin, times, column) for column in samples[around].T])
