"""Gravity and metric scale from an IMU: gtsam's preintegration between solved keyframes, in a small solve of its own.

While the robot stands still, the accelerometer shows which way is up. While it moves, what the IMU has integrated
between keyframes has to be what the map says, up to scale. Tried on rendered motion only.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.scale.imu_scale import GRAVITY, gyroscope_bias, solve_scale
from vggt_ros.scale.preintegration import Step, between, integrate
from vggt_ros.scale.ratios import Ratios
from vggt_ros.windows.solution import Solution

_CHUNK, _MOST, _LEAST = 20_000_000_000, 30, 6
"""Keyframes of so many nanoseconds, and at most and at least so many, are solved together, with the same biases."""
_GAP = 50_000_000
"""A longer gap between two samples, nanoseconds, is not integrated over."""
_LONGEST = 5_000_000_000
"""Nor is a longer time between two keyframes."""
_BIAS = 0.003
"""Samples are integrated again where the gyroscope's bias is so far from that by which they were, rad/s."""
_SIGMA_MAP = 0.004
"""Sigma of a keyframe's place, as a fraction of its median depth, before the residuals say more of it."""
_STILL = 0.02, 0.3
"""Largest standard deviation of turn rate (rad/s) and of acceleration (m/s^2) of a robot that stands still."""
_WORST = 0.3
_COMMON = 0.005
_MEMORY = 60_000


@dataclass(frozen=True, eq=False)
class _Said:
    """What a chunk says of the logarithm of the meters in a unit of the windows of its keyframes `ids` (n,).

    `log` and `sigma` (n,) are what each of them adds, `mean` (n,) is the answer, whose sigma they share: together,
    `spread` (n,) each makes it.
    """

    ids: NDArray[np.int64]
    log: Array
    sigma: Array
    mean: Array
    spread: Array


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
        self._steps: dict[tuple[int, int], Step | None] = {}  # from keyframe to keyframe
        self._bias = np.zeros(3)  # of the gyroscope, by the newest chunk
        self._chunks: dict[int, _Said] = {}  # first keyframe to what those from there on say

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
        begin = stamp - round(seconds * 1e9)
        _, samples = between(*self._since(begin), begin, stamp)
        if len(samples) < 20 or (samples[:, :3].std(0) > _STILL[0]).any() or (samples[:, 3:].std(0) > _STILL[1]).any():
            return None
        mean = self.camera_imu[:3, :3] @ samples[:, 3:].mean(0)
        length = float(np.linalg.norm(mean))
        return mean / length if abs(length - GRAVITY) < 0.05 * GRAVITY else None

    def ratios(self, solution: Solution, rows: NDArray[np.int64], inside: bool = False) -> Ratios:
        """Return what each keyframe adds to the scale of its chunk; `inside`, the chunk's, which is each window's."""
        said, parts = {}, []
        for chunk in self._divided(solution, rows):
            ids = solution.ids[chunk]
            known = self._chunks.get(int(ids[0]))
            one = known if known is not None and np.array_equal(known.ids, ids) else self._solve(solution, chunk)
            said[int(ids[0])] = one
            log, sigma = (one.mean, one.spread) if inside else (one.log, one.sigma)
            told = np.flatnonzero(sigma < _WORST)
            parts.append(Ratios(log[told] - np.log(solution.scale[chunk[told]]), sigma[told],
                                solution.stamps[chunk[told]], solution.windows[chunk[told]], _COMMON))
        self._chunks = said
        return Ratios.join(parts)

    def _divided(self, solution: Solution, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return the rows of keyframes that are solved together: each chunk begins where the one before ends.

        Those that began at a keyframe go on doing so, whatever was let go of the map.
        """
        pairs = list(pairwise(solution.ids[rows].tolist()))
        self._steps = {pair: self._steps[pair] for pair in pairs if pair in self._steps}
        self._integrate(solution, [pair for pair in pairs if pair not in self._steps])
        chunks: list[list[int]] = [[]]
        for (row, following), pair in zip(pairwise(rows.tolist()), pairs, strict=True):
            begun = chunks[-1]
            if self._steps.get(pair) is None:
                chunks.append([])
                continue
            if begun and (len(begun) >= _MOST or pair[0] in self._chunks
                          or solution.stamps[following] > solution.stamps[begun[0]] + _CHUNK):
                chunks.append([])
            chunks[-1] += [following] if chunks[-1] else [row, following]
        return [np.array(chunk, np.int64) for chunk in chunks if len(chunk) >= _LEAST]

    def _integrate(self, solution: Solution, pairs: list[tuple[int, int]]) -> None:
        """Note what the samples between pairs of keyframes integrate to, as far as they came; None where some lack."""
        ends = {pair: solution.stamps[np.searchsorted(solution.ids, pair)].tolist() for pair in pairs}
        stamps, samples = self._since(min((begin for begin, _ in ends.values()), default=0))
        for pair, (begin, end) in ends.items():
            if not len(stamps) or end > stamps[-1]:
                continue
            chosen = between(stamps, samples, begin, end)
            if len(chosen[0]) > 2 and np.diff(chosen[0]).max() <= _GAP and end - begin <= _LONGEST:
                self._steps[pair] = integrate(*chosen, self._bias)
            elif pair not in self._steps:
                self._steps[pair] = None

    def _solve(self, solution: Solution, rows: NDArray[np.int64]) -> _Said:
        """Return what the keyframes in `rows` say; with an infinite sigma if nothing moves."""
        ids, camera = solution.ids[rows], solution.map_camera[rows]
        steps = {pair: step for pair in pairwise(ids.tolist()) if (step := self._steps[pair]) is not None}
        self._bias = gyroscope_bias(camera[:, :3, :3] @ self.camera_imu[:3, :3], list(steps.values()))
        far = [pair for pair, step in steps.items() if np.abs(step.gyroscope_bias - self._bias).max() > _BIAS]
        if far:
            self._integrate(solution, far)
            steps |= {pair: step for pair in far if (step := self._steps[pair]) is not None}
        depth = np.median(solution.scale[rows]) * np.nanmedian(
            [solution.keyframes[k].median_depth for k in ids.tolist()]
        )
        sigma = _SIGMA_MAP * float(depth)
        found = solve_scale(camera, solution.windows[rows], self.camera_imu, list(steps.values()), sigma)
        if found is None or not found.sigma < _WORST:
            return _Said(ids, *2 * [np.zeros(len(ids)), np.full(len(ids), np.inf)])
        units = np.log(solution.scale[rows])
        spread = np.full(len(ids), found.sigma * float(np.sqrt(len(ids))))
        return _Said(ids, found.own + units, found.own_sigma, found.log + units, spread)

    def _since(self, begin: int) -> tuple[NDArray[np.int64], Array]:
        """Return stamps (n,) and samples (n, 6) from the last one not after `begin` on."""
        newest: list[tuple[int, Array]] = []
        with self._lock:
            for sample in reversed(self._samples):
                newest.append(sample)
                if sample[0] <= begin:
                    break
        newest.reverse()
        return np.array([stamp for stamp, _ in newest], np.int64), np.array([one for _, one in newest]).reshape(-1, 6)
