"""Gravity and metric scale from an IMU: gtsam's preintegration between solved keyframes, in a small separate solve.

While the robot stands still, the accelerometer shows which way is up. While it moves, the preintegrated motion between
keyframes equals the map's motion up to scale. Tested on rendered motion only.
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
from vggt_ros.scale.preintegration import PreintegratedMotion, preintegrate, samples_between
from vggt_ros.scale.ratios import ScaleRatios
from vggt_ros.windows.solution import Solution

_MAX_DURATION, _MAX_KEYFRAMES, _MIN_KEYFRAMES = 20_000_000_000, 30, 6
"""Longest duration (ns), most and fewest keyframes of a chunk, which is solved at once, with the same biases."""
_MAX_SAMPLE_GAP = 50_000_000
"""Longest gap between two samples that is integrated over, nanoseconds."""
_MAX_INTERVAL = 5_000_000_000
"""Longest time between two keyframes that is integrated over, nanoseconds."""
_MAX_BIAS_CHANGE = 0.003
"""Change of the gyroscope bias, rad/s, from which on samples are integrated again."""
_POSITION_SIGMA = 0.004
"""Prior sigma of a keyframe's position, as a fraction of its median depth."""
_STATIONARY_DURATION = 500_000_000
"""How long a robot has to stand still until its accelerometer says which way is up, nanoseconds."""
_STATIONARY_DEVIATION = 0.02, 0.3
"""Largest standard deviations of turn rate (rad/s) and acceleration (m/s^2) of a robot that stands still."""
_MAX_SIGMA = 0.3
_COMMON_SIGMA = 0.005
_BUFFER_SIZE = 60_000


@dataclass(frozen=True, eq=False)
class _ChunkScale:
    """Scale by one chunk: logarithms of the meters in a unit of the windows of its keyframes `ids` (n,).

    `increments` and `increment_sigma` (n,) are the independent estimates by what each keyframe adds, `mean` (n,) is the
    chunk's estimate. `mean_sigma` (n,) is such that n of them together have the sigma of the chunk's estimate.
    """

    ids: NDArray[np.int64]
    increments: Array
    increment_sigma: Array
    mean: Array
    mean_sigma: Array


class ImuSource:
    """Keeps IMU samples and compares their preintegrated motion with the solved keyframes.

    Attributes:
        camera_imu: pose 4x4 of the IMU in the camera's frame, meters.

    """

    name = "imu"
    remark = ""

    def __init__(self) -> None:
        """Begin without samples."""
        self.camera_imu: Array = np.eye(4)
        self._lock = threading.Lock()
        self._samples: deque[tuple[int, Array]] = deque(maxlen=_BUFFER_SIZE)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._samples.clear()
        self._motions: dict[tuple[int, int], PreintegratedMotion | None] = {}  # by the keyframes at begin and end
        self._bias = np.zeros(3)  # of the gyroscope, by the newest chunk
        self._chunks: dict[int, _ChunkScale] = {}  # by the chunk's first keyframe

    def add(self, stamp: int, turn_rate: Array, acceleration: Array) -> None:
        """Take a sample: rad/s and m/s^2, both (3,), in the IMU's frame, at `stamp` (ns); from any thread."""
        sample = np.concatenate([turn_rate, acceleration])
        if not np.isfinite(sample).all():
            return
        with self._lock:
            if self._samples and stamp <= self._samples[-1][0]:
                if self._samples[-1][0] - stamp < _MAX_SAMPLE_GAP:
                    return
                self._samples.clear()
            self._samples.append((stamp, sample))

    def up_direction(self, stamp: int) -> Array | None:
        """Return the unit vector (3,) against gravity in the camera's frame at `stamp`, if the robot stood still.

        The accelerometer is averaged over the half second before; None with too few samples, or if the robot moved.
        """
        begin = stamp - _STATIONARY_DURATION
        _, samples = samples_between(*self._samples_from(begin), begin, stamp)
        if (len(samples) < 20 or (samples[:, :3].std(0) > _STATIONARY_DEVIATION[0]).any()
            or (samples[:, 3:].std(0) > _STATIONARY_DEVIATION[1]).any()):
            return None
        mean = self.camera_imu[:3, :3] @ samples[:, 3:].mean(0)
        length = float(np.linalg.norm(mean))
        return mean / length if abs(length - GRAVITY) < 0.05 * GRAVITY else None

    def ratios(self, solution: Solution, rows: NDArray[np.int64], per_window: bool = False) -> ScaleRatios:
        """Return what each keyframe adds to the scale of its chunk; with `per_window` the whole chunk's scale."""
        solved, parts = {}, []
        for chunk in self._split_into_chunks(solution, rows):
            ids = solution.ids[chunk]
            known = self._chunks.get(int(ids[0]))
            scale = known if known is not None and np.array_equal(known.ids, ids) else self._solve(solution, chunk)
            solved[int(ids[0])] = scale
            log, sigma = (scale.mean, scale.mean_sigma) if per_window else (scale.increments, scale.increment_sigma)
            used = np.flatnonzero(sigma < _MAX_SIGMA)
            parts.append(ScaleRatios(log[used] - np.log(solution.scale[chunk[used]]), sigma[used],
                                     solution.stamps[chunk[used]], solution.windows[chunk[used]], _COMMON_SIGMA))
        self._chunks = solved
        return ScaleRatios.join(parts)

    def _split_into_chunks(self, solution: Solution, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return the rows of keyframes that are solved together: each chunk begins where the one before ends.

        A keyframe that began a chunk continues to do so, whichever keyframes were removed from the map.
        """
        pairs = list(pairwise(solution.ids[rows].tolist()))
        self._motions = {pair: self._motions[pair] for pair in pairs if pair in self._motions}
        self._integrate(solution, [pair for pair in pairs if pair not in self._motions])
        chunks: list[list[int]] = [[]]
        for (row, following), pair in zip(pairwise(rows.tolist()), pairs, strict=True):
            current = chunks[-1]
            if self._motions.get(pair) is None:
                chunks.append([])
                continue
            if current and (len(current) >= _MAX_KEYFRAMES or pair[0] in self._chunks
                            or solution.stamps[following] > solution.stamps[current[0]] + _MAX_DURATION):
                chunks.append([])
            chunks[-1] += [following] if chunks[-1] else [row, following]
        return [np.array(chunk, np.int64) for chunk in chunks if len(chunk) >= _MIN_KEYFRAMES]

    def _integrate(self, solution: Solution, pairs: list[tuple[int, int]]) -> None:
        """Integrate between pairs of keyframes whose samples have all arrived; None where samples are missing."""
        ends = {pair: solution.stamps[np.searchsorted(solution.ids, pair)].tolist() for pair in pairs}
        stamps, samples = self._samples_from(min((begin for begin, _ in ends.values()), default=0))
        for pair, (begin, end) in ends.items():
            if not len(stamps) or end > stamps[-1]:
                continue
            chosen = samples_between(stamps, samples, begin, end)
            if len(chosen[0]) > 2 and np.diff(chosen[0]).max() <= _MAX_SAMPLE_GAP and end - begin <= _MAX_INTERVAL:
                motion = preintegrate(*chosen, self._bias)
                # Turn rates that no robot has, as in degrees, make a covariance that is none.
                self._motions[pair] = motion if np.linalg.eigvalsh(motion.covariance)[0] > 0 else None
            elif pair not in self._motions:
                self._motions[pair] = None

    def _solve(self, solution: Solution, rows: NDArray[np.int64]) -> _ChunkScale:
        """Return the scale by the keyframes in `rows`; with an infinite sigma if the motion does not determine it."""
        ids, camera = solution.ids[rows], solution.map_camera[rows]
        motions = {pair: motion for pair in pairwise(ids.tolist()) if (motion := self._motions[pair]) is not None}
        self._bias = gyroscope_bias(camera[:, :3, :3] @ self.camera_imu[:3, :3], list(motions.values()))
        stale = [pair for pair, motion in motions.items()
                 if np.abs(motion.gyroscope_bias - self._bias).max() > _MAX_BIAS_CHANGE]
        if stale:
            self._integrate(solution, stale)
            motions |= {pair: motion for pair in stale if (motion := self._motions[pair]) is not None}
        depth = np.median(solution.scale[rows]) * np.nanmedian(
            [solution.keyframes[k].median_depth for k in ids.tolist()]
        )
        sigma = _POSITION_SIGMA * float(depth)
        found = solve_scale(camera, solution.windows[rows], self.camera_imu, list(motions.values()), sigma)
        if found is None or not found.sigma < _MAX_SIGMA:
            return _ChunkScale(ids, *2 * [np.zeros(len(ids)), np.full(len(ids), np.inf)])
        units = np.log(solution.scale[rows])
        mean_sigma = np.full(len(ids), found.sigma * float(np.sqrt(len(ids))))
        return _ChunkScale(ids, found.increments + units, found.increment_sigma, found.log + units, mean_sigma)

    def _samples_from(self, begin: int) -> tuple[NDArray[np.int64], Array]:
        """Return stamps (n,) and samples (n, 6), from the last sample not after `begin` on."""
        newest: list[tuple[int, Array]] = []
        with self._lock:
            for sample in reversed(self._samples):
                newest.append(sample)
                if sample[0] <= begin:
                    break
        newest.reverse()
        return (np.array([stamp for stamp, _ in newest], np.int64),
                np.array([values for _, values in newest]).reshape(-1, 6))
