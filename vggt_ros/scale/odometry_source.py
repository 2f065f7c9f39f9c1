"""Metric scale from another odometry: the ratio of its path in meters to the map's path."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.scale.clock_offset import TIME_SHIFTS, ClockOffset, estimate_clock_offset, positions_at_offset
from vggt_ros.scale.path_ratio import PathRatio, growing_path_ratios, path_ratio
from vggt_ros.scale.ratios import ScaleRatios
from vggt_ros.windows.solution import Solution

_MAX_DURATION = 3_000_000_000
"""Longest duration of a path, nanoseconds: an outlier affects only the path that it is in."""
_SUFFICIENT_SIGMA = 0.03
"""Sigma of its ratio at which a path is long enough: fewer outliers fall into a shorter path."""
_MAX_GAP = 250_000_000
"""Longest gap between two positions of the odometry that is interpolated over, nanoseconds."""
_MAP_SIGMA, _WINDOW_SIGMA = 0.005, 0.002
"""Sigma of a keyframe's position in the map, and inside its window, as a fraction of its median depth."""
_ODOMETRY_SIGMA = 0.005, 0.01
"""Sigma of an odometry: of a position, meters, and of a length, as a fraction of it."""
_COMMON_SIGMA = 0.003
"""Sigma of the error that all its motions share: the size of the wheels, the clock."""
_MAX_SIGMA = 0.3
"""Largest sigma of a ratio that is used."""
_MOTION_SIGMA = 0.1
"""Largest relative sigma of the length of a path along which the camera certainly moves."""
_MIN_SHAPE_POSITIONS = 3
"""A path of more positions than this has a shape, from which the clock offset is estimated."""
_MAX_KEYFRAMES = 1000
"""Most keyframes that are compared, the newest ones."""
_BUFFER_SIZE = 20_000
"""Most positions that wait for their keyframe: 200 s at 100 Hz."""


class OdometrySource:
    """Keeps the odometry's position at every solved keyframe, and compares paths of up to three seconds.

    Attributes:
        clock: how late its stamps are, as far as its path determines it.

    """

    name = "odometry"

    def __init__(self) -> None:
        """Begin without measurements."""
        self._lock = threading.Lock()
        self._buffer: deque[tuple[int, Array]] = deque(maxlen=_BUFFER_SIZE)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._buffer.clear()
        self._positions: dict[int, Array] = {}  # by keyframe, (k, 3) at `TIME_SHIFTS`
        self.clock = ClockOffset()

    def add(self, stamp: int, odom_camera: Array) -> None:
        """Take a pose 4x4 of the camera, in any frame that does not jump, at `stamp` (ns); from any thread.

        A stamp older than the last one starts over: a bag that is played in a loop.
        """
        if not np.isfinite(odom_camera).all():
            return
        with self._lock:
            if self._buffer and stamp <= self._buffer[-1][0]:
                if stamp == self._buffer[-1][0]:
                    return
                self._buffer.clear()
            self._buffer.append((stamp, odom_camera[:3, 3].copy()))

    @property
    def remark(self) -> str:
        """How late its stamps are, as text; empty if its path does not determine it."""
        clock = self.clock
        return f"stamps {1e3 * clock.seconds:.0f} ms late, sigma {1e3 * clock.sigma:.1f} ms" if clock.sigma < 1 else ""

    def ratios(self, solution: Solution, rows: NDArray[np.int64], per_window: bool = False) -> ScaleRatios:
        """Return the ratios of consecutive paths, each as short as its sigma allows.

        With `per_window` there is one path in each window, which does not depend on the other windows' poses.
        """
        self._look_up_keyframes(solution, rows)
        rows = np.array([row for row in rows.tolist() if int(solution.ids[row]) in self._positions],
                        np.int64)[-_MAX_KEYFRAMES:]
        if not len(rows):
            return ScaleRatios.join([])
        positions = np.array([self._positions[k] for k in solution.ids[rows].tolist()])
        units = solution.map_camera[rows, :3, 3]
        depth = solution.scale[rows] * np.array([np.nan_to_num(solution.keyframes[k].median_depth, nan=1.0)
                                                 for k in solution.ids[rows].tolist()])
        if per_window:
            complete = np.isfinite(positions).all((1, 2))
            self.clock = estimate_clock_offset([(positions[k], units[k], _WINDOW_SIGMA * float(depth[k].mean()))
                                                for k in _window_paths(solution.stamps[rows], solution.windows[rows])
                                                if len(k) > _MIN_SHAPE_POSITIONS and complete[k].all()],
                                               _ODOMETRY_SIGMA[0])
        meters = positions_at_offset(positions, self.clock.seconds)
        known = np.isfinite(meters).all(1)
        stamps, windows = solution.stamps[rows[known]], solution.windows[rows[known]]
        compare = _window_ratios if per_window else _consecutive_ratios
        return compare(stamps, windows, meters[known], units[known], depth[known])

    def _look_up_keyframes(self, solution: Solution, rows: NDArray[np.int64]) -> None:
        """Look up the positions of new keyframes; those whose odometry has not arrived yet are tried again later."""
        with self._lock:
            buffered = list(self._buffer)
        if len(buffered) < 2:
            return
        stamps, positions = (np.array([stamp for stamp, _ in buffered], np.int64),
                             np.array([position for _, position in buffered]))
        for keyframe, stamp in zip(solution.ids[rows].tolist(), solution.stamps[rows].tolist(), strict=True):
            known = self._positions.get(keyframe)
            if known is None or not np.isfinite(known).all():
                found = interpolate(stamps, positions, stamp + TIME_SHIFTS)
                found = found if known is None else np.where(np.isfinite(known), known, found)
                if np.isfinite(positions_at_offset(found[None], 0.0)).all():
                    self._positions[keyframe] = found


def interpolate(stamps: NDArray[np.int64], positions: Array, when: NDArray[np.int64]) -> Array:
    """Return the positions (k, 3) at `when` (k,), interpolated between those (n, 3) at rising `stamps` (n,).

    NaN where the two neighbors are too far apart in time, before the first and after the last.
    """
    after = np.clip(np.searchsorted(stamps, when), 1, len(stamps) - 1)
    gap = stamps[after] - stamps[after - 1]
    part = (when - stamps[after - 1]) / gap
    known = (part >= 0) & (part <= 1) & ((gap <= _MAX_GAP) | (part == 0) | (part == 1))
    between = (1 - part)[:, None] * positions[after - 1] + part[:, None] * positions[after]
    return np.where(known[:, None], between, np.nan)


def _window_paths(stamps: NDArray[np.int64], windows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the rows of each window, with the keyframe before them, where its path begins."""
    found = []
    for window in np.unique(windows).tolist():
        rows = np.flatnonzero(windows == window)
        before = rows[0] - 1
        if before >= 0 and stamps[rows[0]] - stamps[before] < _MAX_DURATION:
            rows = np.append(before, rows)
        if len(rows) > 1:
            found.append(rows)
    return found


def _window_ratios(stamps: NDArray[np.int64], windows: NDArray[np.int64], meters: Array, units: Array,
                   depth: Array) -> ScaleRatios:
    """Return the ratio of the path in each window."""
    paths = _window_paths(stamps, windows)
    found = [path_ratio(meters[rows][None], units[rows], _ODOMETRY_SIGMA[0], _WINDOW_SIGMA * float(depth[rows].mean()))
             for rows in paths]
    last = [int(rows[-1]) for rows in paths]
    return _path_ratios(found, stamps[last], windows[last])


def _consecutive_ratios(stamps: NDArray[np.int64], windows: NDArray[np.int64], meters: Array, units: Array,
                        depth: Array) -> ScaleRatios:
    """Return the ratios of consecutive paths, each attributed to the window of the keyframe in its middle."""
    paths, ends, middles, start = [], [], [], 0
    while start < len(stamps) - 1:
        end = int(np.searchsorted(stamps, stamps[start] + _MAX_DURATION, side="right"))
        if end - start < 2:  # no other keyframe within the span
            start += 1
            continue
        rows = slice(start, end)
        found = growing_path_ratios(meters[rows], units[rows], _ODOMETRY_SIGMA[0], _MAP_SIGMA * depth[rows])
        sigma = np.hypot(found.sigma, _ODOMETRY_SIGMA[1])
        each = np.array([found.sigma_meters, found.sigma_units])
        enough = np.flatnonzero((sigma <= _SUFFICIENT_SIGMA)
                                | ((each.min(0) <= _SUFFICIENT_SIGMA) & (each.max(0) > _MAX_SIGMA)))
        chosen = int(enough[0]) if len(enough) else int(np.argmin(sigma))
        paths.append(found[chosen:chosen + 1])
        ends.append(start + 1 + chosen)
        middles.append((start + ends[-1] + 1) // 2)
        start = ends[-1]
    return _path_ratios(paths, stamps[ends], windows[middles])


def _path_ratios(paths: Sequence[PathRatio], stamps: NDArray[np.int64], windows: NDArray[np.int64]) -> ScaleRatios:
    """Return the ratios of n paths. If only one of the two moves, the ratio is kept as an outlier, to be rejected.

    If that is so for most of them, the odometry is frozen or the map is: their ratios would agree with each other, so
    there is none.
    """
    if not paths:
        return ScaleRatios.join([])
    log, meters, units, chi2, degrees_of_freedom = (np.concatenate([getattr(path, name) for path in paths])
                                                    for name in ("log", "sigma_meters", "sigma_units", "chi2",
                                                                 "degrees_of_freedom"))
    # The level of the shape errors is estimated from all paths, by the median: single ones may be outliers.
    has_shape = degrees_of_freedom > 0
    variance_factor = max(1.0, float(np.median(chi2[has_shape] / degrees_of_freedom[has_shape]))) \
        if has_shape.any() else 1.0
    sigma = np.hypot(np.hypot(meters, units) * np.sqrt(variance_factor), _ODOMETRY_SIGMA[1])
    one_moves = (np.minimum(meters, units) < _MOTION_SIGMA) & (sigma > _MAX_SIGMA)
    if 2 * one_moves.sum() >= one_moves.sum() + (sigma <= _MAX_SIGMA).sum():
        return ScaleRatios.join([])
    sigma = np.where(one_moves, _MAX_SIGMA, sigma)
    return ScaleRatios(log, sigma, stamps, windows, _COMMON_SIGMA).select(np.flatnonzero(sigma <= _MAX_SIGMA).tolist())
