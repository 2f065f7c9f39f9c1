"""Gravity and metric scale from an IMU: gtsam's preintegration between solved keyframes, in a small solve of its own.

While the robot stands still, the accelerometer shows which way is up. While it moves, what the IMU has integrated
between keyframes has to be what the map says: that gives the scale, gravity, the velocities and the biases, linearly
but for gravity's length (Qin, Li and Shen, VINS-Mono, T-RO 2018). Tried on rendered motion only.
"""

from __future__ import annotations

import threading
from collections import deque
from itertools import pairwise

import gtsam
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry import Array, so3_exp, so3_log
from vggt_ros.ratios import Ratios
from vggt_ros.solution import Solution

GRAVITY = 9.80665
_CHUNK = 4_000_000_000
"""Keyframes of so many nanoseconds are solved together: a lie spoils no more."""
_GAP = 50_000_000
"""A longer gap between two samples, nanoseconds, is not integrated over."""
_SIGMA_ACCELERATION, _SIGMA_TURN, _SIGMA_BIAS = 0.02, 0.002, 0.1
"""Noise of an accelerometer (m/s^2 in a root hertz) and of a gyroscope (rad/s), and an accelerometer's bias (m/s^2)."""
_SIGMA_MAP = 0.004
"""Sigma of a keyframe's place, as a fraction of its median depth."""
_STILL = 0.02, 0.3
"""Largest standard deviation of turn rate (rad/s) and of acceleration (m/s^2) of a robot that stands still."""
_WORST = 0.3
_COMMON = 0.005
_MEMORY = 60_000


class ImuSource:
    """Keeps samples and compares what they integrate to with the solved keyframes.

    Attributes:
        camera_imu: pose 4x4 of the IMU in the camera's frame, meters.

    """

    name = "imu"
    remark = ""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.camera_imu: Array = np.eye(4)
        self._lock = threading.Lock()
        self._samples: deque[tuple[int, Array]] = deque(maxlen=_MEMORY)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._samples.clear()
        self._chunks: dict[tuple[int, int], tuple[Array, float]] = {}  # log of the meters in windows' units, and sigma

    def add(self, stamp: int, turn_rate: Array, acceleration: Array) -> None:
        """Take a sample: rad/s and m/s^2, both (3,), in the IMU's frame, at `stamp` (ns); from any thread."""
        sample = np.concatenate([turn_rate, acceleration])
        if not np.isfinite(sample).all():
            return
        with self._lock:
            if self._samples and stamp <= self._samples[-1][0]:
                if self._samples[-1][0] - stamp < _GAP:
                    return
                self._samples.clear()
            self._samples.append((stamp, sample))

    def up(self, stamp: int, seconds: float = 0.5) -> Array | None:
        """Return the unit vector (3,) against gravity in the camera's frame at `stamp`, if the robot stood still.

        The accelerometer is averaged over the `seconds` before; None if there is too little, or if it moved.
        """
        _, samples = _between(*self._known(), stamp - round(seconds * 1e9), stamp)
        if len(samples) < 20 or (samples[:, :3].std(0) > _STILL[0]).any() or (samples[:, 3:].std(0) > _STILL[1]).any():
            return None
        mean = self.camera_imu[:3, :3] @ samples[:, 3:].mean(0)
        length = float(np.linalg.norm(mean))
        return mean / length if abs(length - GRAVITY) < 0.05 * GRAVITY else None

    def ratios(self, solution: Solution, rows: NDArray[np.int64], inside: bool = False) -> Ratios:
        """Return the ratio of each chunk of keyframes, once a second, with the sigma that this makes."""
        if not self._samples:
            return Ratios.join([])
        ids, stamps, windows = solution.ids[rows], solution.stamps[rows], solution.windows[rows]
        parts, start = [], 0
        while start < len(rows):
            end = int(np.searchsorted(stamps, stamps[start] + _CHUNK, side="right"))
            if end == len(rows):  # more will come
                break
            key, units = (int(ids[start]), int(ids[end - 1])), np.log(solution.scale[rows[start:end]])
            if key not in self._chunks:
                log, sigma = self._solve(solution, rows[start:end]) or (float("nan"), float("inf"))
                self._chunks[key] = log + units, sigma
            logs, sigma = self._chunks[key]
            if sigma < _WORST:
                seconds = np.arange(int(stamps[start]), int(stamps[end - 1]), 10**9)
                spread = sigma * float(np.sqrt(len(seconds)))
                at = np.searchsorted(stamps[start:end], seconds, side="right") - 1
                parts.append(Ratios((logs - units)[at], np.full(len(seconds), spread), seconds,
                                    windows[start:end][at], _COMMON))
            start = max(end - 1, start + 1)
        return Ratios.join(parts)

    def _solve(self, solution: Solution, rows: NDArray[np.int64]) -> tuple[float, float] | None:
        """Return log of the meters in a map unit, and its sigma, by the keyframes in `rows`; None if nothing moves."""
        stamps, camera = solution.stamps[rows], solution.map_camera[rows]
        depth = float(np.nanmedian([solution.kept[int(k)].median_depth for k in solution.ids[rows]])
                      * np.median(solution.scale[rows]))
        rotation = camera[:, :3, :3] @ self.camera_imu[:3, :3]
        lever = camera[:, :3, :3] @ self.camera_imu[:3, 3]
        known = self._known()
        pieces = [_between(*known, int(a), int(b)) for a, b in pairwise(stamps)]
        if len(rows) < 5 or any(len(piece[0]) < 3 or np.diff(piece[0]).max() > _GAP for piece in pieces):
            return None
        bias = _gyroscope_bias(pieces, rotation)
        steps = [_integrate(*piece, bias) for piece in pieces]
        return solve_scale(camera[:, :3, 3], rotation, lever, steps, _SIGMA_MAP * depth)

    def _known(self) -> tuple[NDArray[np.int64], Array]:
        """Return stamps (n,) and samples (n, 6)."""
        with self._lock:
            samples = list(self._samples)
        return np.array([stamp for stamp, _ in samples], np.int64), np.array([one for _, one in samples]).reshape(-1, 6)


def _between(stamps: NDArray[np.int64], samples: Array, begin: int, end: int) -> tuple[NDArray[np.int64], Array]:
    """Return those of the samples between two stamps, with interpolated ones at both ends; none if they end before."""
    low, high = int(np.searchsorted(stamps, begin)), int(np.searchsorted(stamps, end, side="right"))
    if low == 0 or high == len(stamps) or high <= low:
        return np.zeros(0, np.int64), np.zeros((0, 6))
    chosen = np.unique(np.concatenate([[begin], stamps[low:high], [end]]))
    times = (stamps[low - 1:high + 1] - begin).astype(np.float64)
    return chosen, np.column_stack([np.interp(chosen - begin, times, column) for column in samples[low - 1:high + 1].T])


def solve_scale(centers: Array, rotation: Array, lever: Array, steps: list[tuple[float, Array, Array, Array]],
                sigma: float) -> tuple[float, float] | None:
    """Return log of the meters in a unit of `centers`, and its sigma; None if the motion does not tell.

    Args:
        centers: (n, 3) of the camera, map units.
        rotation: (n, 3, 3), map <- IMU.
        lever: (n, 3) from camera to IMU in the map's axes, meters.
        steps: n - 1 times seconds, change of velocity (3,) and of position (3,) and its derivative by the
            accelerometer's bias (3, 3), in the IMU's frame at the beginning of the step.
        sigma: of `centers`, map units.

    """
    count = len(centers)
    gravity, scale, weight_map = None, 1.0, 1.0
    for _ in range(6):
        basis = np.eye(3) if gravity is None else _tangent(gravity)
        offset = np.zeros(3) if gravity is None else gravity
        free = basis.shape[1]
        size = 1 + free + 3 + 3 * count  # scale, gravity, accelerometer's bias, velocities
        rows, right = [], []
        for k, (dt, velocity, position, by_bias) in enumerate(steps):
            first, second = 1 + free + 3 + 3 * k, 1 + free + 6 + 3 * k
            sigma_v = _SIGMA_ACCELERATION * np.sqrt(dt)
            sigma_p = np.hypot(np.sqrt(2) * sigma * scale * weight_map, sigma_v * dt)
            place = np.zeros((3, size))
            place[:, 0] = centers[k + 1] - centers[k]
            place[:, 1:1 + free] = -basis * dt**2 / 2
            place[:, 1 + free:4 + free] = -rotation[k] @ by_bias
            place[:, first:first + 3] = -dt * np.eye(3)
            rows.append(place / sigma_p)
            right.append((rotation[k] @ position + offset * dt**2 / 2 - lever[k + 1] + lever[k]) / sigma_p)
            speed = np.zeros((3, size))
            speed[:, 1:1 + free] = -basis * dt
            speed[:, 1 + free:4 + free] = rotation[k] * dt
            speed[:, first:first + 3], speed[:, second:second + 3] = -np.eye(3), np.eye(3)
            rows.append(speed / sigma_v)
            right.append((rotation[k] @ velocity + offset * dt) / sigma_v)
        prior = np.zeros((3, size))
        prior[:, 1 + free:4 + free] = np.eye(3) / _SIGMA_BIAS
        matrix, vector = np.concatenate([*rows, prior]), np.concatenate([*right, np.zeros(3)])
        information = matrix.T @ matrix
        if np.linalg.matrix_rank(matrix) < size:
            return None
        solved = np.linalg.solve(information, matrix.T @ vector)
        toward = offset + basis @ solved[1:1 + free]
        gravity, scale = GRAVITY * toward / np.linalg.norm(toward), float(solved[0])
        if scale <= 0:
            return None
    squares = float(((matrix @ solved - vector)**2).sum())
    variance = float(np.linalg.inv(information)[0, 0]) * max(1.0, squares / max(len(vector) - size, 1))
    return float(np.log(scale)), float(np.sqrt(variance)) / scale


def _gyroscope_bias(pieces: list[tuple[NDArray[np.int64], Array]], rotation: Array) -> Array:
    """Return the gyroscope's bias (3,) by which what it integrates turns as the keyframes (n, 3, 3) do."""
    bias = np.zeros(3)
    for _ in range(3):
        turns, seconds = np.zeros(3), 0.0
        for k, (stamps, samples) in enumerate(pieces):
            integrated = _preintegrated(stamps, samples, bias).deltaRij().matrix()
            turns += so3_log((rotation[k].T @ rotation[k + 1]).T @ integrated)
            seconds += float(stamps[-1] - stamps[0]) / 1e9
        bias += turns / seconds
    return bias


def _integrate(stamps: NDArray[np.int64], samples: Array, bias: Array) -> tuple[float, Array, Array, Array]:
    """Return seconds, change of velocity and position, and what a bias of the accelerometer takes from position."""
    whole = _preintegrated(stamps, samples, bias)
    dt = float(whole.deltaTij())
    turned = so3_exp(samples[:, :3].mean(0) * dt / 3)
    return dt, np.asarray(whole.deltaVij()), np.asarray(whole.deltaPij()), -turned * dt**2 / 2


def _preintegrated(stamps: NDArray[np.int64], samples: Array, bias: Array) -> gtsam.PreintegratedImuMeasurements:
    parameters = gtsam.PreintegrationParams.MakeSharedU(GRAVITY)
    parameters.setAccelerometerCovariance(np.eye(3) * _SIGMA_ACCELERATION**2)
    parameters.setGyroscopeCovariance(np.eye(3) * _SIGMA_TURN**2)
    parameters.setIntegrationCovariance(np.eye(3) * 1e-8)
    measured = gtsam.PreintegratedImuMeasurements(parameters, gtsam.imuBias.ConstantBias(np.zeros(3), bias))
    for dt, first, second in zip(np.diff(stamps) / 1e9, samples, samples[1:]):
        middle = (first + second) / 2
        measured.integrateMeasurement(middle[3:], middle[:3], float(dt))
    return measured


def _tangent(vector: Array) -> Array:
    """Return two unit vectors (3, 2) at right angles to `vector` (3,) and to each other."""
    return np.asarray(np.linalg.svd(vector[None])[2][1:].T)
