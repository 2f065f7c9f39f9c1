"""What an IMU's samples integrate to between two stamps, by gtsam's preintegration, with noise and the part of biases.

Forster, Carlone, Dellaert and Scaramuzza, On-Manifold Preintegration, T-RO 2017.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import gtsam
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, so3_exp, so3_log

_SIGMA_ACCELERATION, _SIGMA_TURN = 0.005, 0.0005
"""Noise of an accelerometer (m/s^2 in a root hertz) and of a gyroscope (rad/s): thrice that of a small one's sheet."""
_INTEGRATION = 1e-8
"""Variance of the integration itself, m^2 a second."""
_LITTLE = 1e-5


@dataclass(frozen=True, eq=False)
class Step:
    """A motion as the IMU felt it, in its frame at the beginning of the step, without gravity.

    Attributes:
        seconds: how long it took.
        gyroscope_bias: (3,) rad/s, which is taken off already; nothing is taken off the accelerometer.
        turn, position, velocity: (3, 3), (3,) meters and (3,) m/s, what was gained.
        by_bias: (9, 6), by how much [turn, position, velocity] change with a bias [accelerometer, gyroscope] more.
        covariance: (9, 9) of them; the turn is perturbed on the right.

    """

    seconds: float
    gyroscope_bias: Array
    turn: Array
    position: Array
    velocity: Array
    by_bias: Array
    covariance: Array

    def without(self, gyroscope_bias: Array) -> Step:
        """Return the step as another bias (3,) of the gyroscope makes it, to the first order."""
        change = self.by_bias[:, 3:] @ (gyroscope_bias - self.gyroscope_bias)
        return replace(self, gyroscope_bias=gyroscope_bias, turn=self.turn @ so3_exp(change[:3]),
                       position=self.position + change[3:6], velocity=self.velocity + change[6:])


def integrate(stamps: NDArray[np.int64], samples: Array, gyroscope_bias: Array) -> Step:
    """Integrate samples (n, 6), rad/s and m/s^2, at `stamps` (n,), without the gyroscope's bias (3,)."""
    parameters = gtsam.PreintegrationParams.MakeSharedU(0.0)
    parameters.setAccelerometerCovariance(np.eye(3) * _SIGMA_ACCELERATION**2)
    parameters.setGyroscopeCovariance(np.eye(3) * _SIGMA_TURN**2)
    parameters.setIntegrationCovariance(np.eye(3) * _INTEGRATION)
    bias = gtsam.imuBias.ConstantBias(np.zeros(3), gyroscope_bias)
    measured = gtsam.PreintegratedImuMeasurements(parameters, bias)
    times, turn_rates = np.diff(stamps) / 1e9, (samples[1:, :3] + samples[:-1, :3]) / 2
    # gtsam takes an acceleration for one in the axes at the beginning of its time: those at its end are turned there.
    turned = samples[1:, 3:] + np.cross(times[:, None] * (turn_rates - gyroscope_bias), samples[1:, 3:])
    accelerations = (samples[:-1, 3:] + turned) / 2
    for seconds, turn_rate, acceleration in zip(times.tolist(), turn_rates, accelerations, strict=True):
        measured.integrateMeasurement(acceleration, turn_rate, seconds)
    begin = gtsam.NavState()
    state = measured.predict(begin, bias)
    turn, by_bias = state.attitude().matrix(), np.zeros((9, 6))
    for axis, little in enumerate(_LITTLE * np.eye(6)):
        other = measured.predict(begin, gtsam.imuBias.ConstantBias(little[:3], gyroscope_bias + little[3:]))
        by_bias[:, axis] = np.concatenate([so3_log(turn.T @ other.attitude().matrix()),
                                           other.position() - state.position(),
                                           other.velocity() - state.velocity()]) / _LITTLE
    return Step(float(measured.deltaTij()), gyroscope_bias, turn, np.asarray(state.position()),
                np.asarray(state.velocity()), by_bias, np.asarray(measured.preintMeasCov()))


def between(stamps: NDArray[np.int64], samples: Array, begin: int, end: int) -> tuple[NDArray[np.int64], Array]:
    """Return those of the samples (n, 6) at `stamps` (n,) between two others, with interpolated ones at both ends.

    None, if there are none before or after.
    """
    if begin >= end or not len(stamps) or begin < stamps[0] or end > stamps[-1]:
        return np.zeros(0, np.int64), np.zeros((0, 6))
    around = slice(int(np.searchsorted(stamps, begin, side="right")) - 1, int(np.searchsorted(stamps, end)) + 1)
    chosen = np.concatenate([[begin], stamps[around][1:-1], [end]])
    times = (stamps[around] - begin).astype(np.float64)
    return chosen, np.column_stack([np.interp(chosen - begin, times, column) for column in samples[around].T])
