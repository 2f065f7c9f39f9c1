"""Metric scale from another odometry: how far the camera went by it, over how far it went in the map."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.scale.clock_offset import SHIFTS, ClockOffset, clock_offset, shifted
from vggt_ros.scale.path_ratio import PathRatio, growing_path_ratios, path_ratio
from vggt_ros.scale.ratios import Ratios
from vggt_ros.windows.solution import Solution

_SPAN = 3_000_000_000
"""Longest time of a path, nanoseconds: a lie spoils no more than those around it."""
_ENOUGH = 0.03
"""Sigma of its ratio at which a path is long enough: shorter ones are spoiled by fewer lies."""
_GAP = 250_000_000
"""Places of the odometry farther apart than this are not interpolated between."""
_SIGMA_MAP, _SIGMA_WINDOW = 0.005, 0.002
"""Sigma of a keyframe's place in the map, and inside its window, as a fraction of its median depth."""
_SIGMA_ODOMETRY = 0.005, 0.01
"""Sigma of an odometry: of a place, meters, and of a length, as a fraction of it."""
_COMMON = 0.003
"""Sigma of what all its motions have in common: the wheels' size, the clock."""
_WORST = 0.3
"""A ratio of a larger sigma says nothing."""
_MOVES = 0.1
"""Of a path whose length has a smaller sigma than this, as a fraction, it is known that there is one."""
_SHAPE = 3
"""A path of more places than this has a shape that tells of the clock."""
_NEWEST = 1000
"""Keyframes that are compared, the newest."""
_MEMORY = 20_000
"""Places that may wait for their keyframe: 200 s at 100 a second."""


class OdometrySource:
    """Keeps the odometry's place at every solved keyframe, and compares paths of up to three seconds.

    Attributes:
        clock: how late its stamps are, as far as its path tells.

    """

    name = "odometry"

    def __init__(self) -> None:
        """Begin with nothing."""
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, Array]] = deque(maxlen=_MEMORY)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._waiting.clear()
        self._places: dict[int, Array] = {}  # keyframe to (k, 3), at `SHIFTS`
        self.clock = ClockOffset()

    def add(self, stamp: int, odom_camera: Array) -> None:
        """Take a pose 4x4 of the camera, in any frame that does not jump, at `stamp` (ns); from any thread.

        A stamp that is older than the last one begins anew: a bag that loops.
        """
        if not np.isfinite(odom_camera).all():
            return
        with self._lock:
            if self._waiting and stamp <= self._waiting[-1][0]:
                if stamp == self._waiting[-1][0]:
                    return
                self._waiting.clear()
            self._waiting.append((stamp, odom_camera[:3, 3].copy()))

    @property
    def remark(self) -> str:
        """How late its stamps are, in words; empty if its path does not tell."""
        clock = self.clock
        return f"stamps {1e3 * clock.seconds:.0f} ms late, sigma {1e3 * clock.sigma:.1f} ms" if clock.sigma < 1 else ""

    def ratios(self, solution: Solution, rows: NDArray[np.int64], inside: bool = False) -> Ratios:
        """Return the ratios of paths that follow each other, each as short as it may be.

        Those `inside` a window are one for each, and say nothing of how windows lie against each other.
        """
        self._note(solution, rows)
        rows = np.array([row for row in rows.tolist() if int(solution.ids[row]) in self._places], np.int64)[-_NEWEST:]
        if not len(rows):
            return Ratios.join([])
        places = np.array([self._places[k] for k in solution.ids[rows].tolist()])
        units = solution.map_camera[rows, :3, 3]
        depth = solution.scale[rows] * np.array([np.nan_to_num(solution.keyframes[k].median_depth, nan=1.0)
                                                 for k in solution.ids[rows].tolist()])
        if inside:
            complete = np.isfinite(places).all((1, 2))
            self.clock = clock_offset([(places[k], units[k], _SIGMA_WINDOW * float(depth[k].mean()))
                                       for k in _own(solution.stamps[rows], solution.windows[rows])
                                       if len(k) > _SHAPE and complete[k].all()], _SIGMA_ODOMETRY[0])
        meters = shifted(places, self.clock.seconds)
        known = np.isfinite(meters).all(1)
        stamps, windows = solution.stamps[rows[known]], solution.windows[rows[known]]
        compare = _of_windows if inside else _following
        return compare(stamps, windows, meters[known], units[known], depth[known])

    def _note(self, solution: Solution, rows: NDArray[np.int64]) -> None:
        """Look up the keyframes that are new; those whose odometry has not come yet are asked for again."""
        with self._lock:
            waiting = list(self._waiting)
        if len(waiting) < 2:
            return
        stamps, places = np.array([stamp for stamp, _ in waiting], np.int64), np.array([place for _, place in waiting])
        for keyframe, stamp in zip(solution.ids[rows].tolist(), solution.stamps[rows].tolist(), strict=True):
            known = self._places.get(keyframe)
            if known is None or not np.isfinite(known).all():
                found = interpolate(stamps, places, stamp + SHIFTS)
                found = found if known is None else np.where(np.isfinite(known), known, found)
                if np.isfinite(shifted(found[None], 0.0)).all():
                    self._places[keyframe] = found


def interpolate(stamps: NDArray[np.int64], places: Array, when: NDArray[np.int64]) -> Array:
    """Return the places (k, 3) at `when` (k,) between those (n, 3) at rising `stamps` (n,).

    Not a number where they are too far apart, and before the first and after the last.
    """
    after = np.clip(np.searchsorted(stamps, when), 1, len(stamps) - 1)
    gap = stamps[after] - stamps[after - 1]
    part = (when - stamps[after - 1]) / gap
    known = (part >= 0) & (part <= 1) & ((gap <= _GAP) | (part == 0) | (part == 1))
    between = (1 - part)[:, None] * places[after - 1] + part[:, None] * places[after]
    return np.where(known[:, None], between, np.nan)


def _own(stamps: NDArray[np.int64], windows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the rows of each window, with the keyframe before them: from there it goes on."""
    found = []
    for window in np.unique(windows).tolist():
        rows = np.flatnonzero(windows == window)
        before = rows[0] - 1
        if before >= 0 and stamps[rows[0]] - stamps[before] < _SPAN:
            rows = np.append(before, rows)
        if len(rows) > 1:
            found.append(rows)
    return found


def _of_windows(stamps: NDArray[np.int64], windows: NDArray[np.int64], meters: Array, units: Array,
                depth: Array) -> Ratios:
    """Return the ratio of the path in each window."""
    paths = _own(stamps, windows)
    found = [path_ratio(meters[rows][None], units[rows], _SIGMA_ODOMETRY[0], _SIGMA_WINDOW * float(depth[rows].mean()))
             for rows in paths]
    last = [int(rows[-1]) for rows in paths]
    return _ratios(found, stamps[last], windows[last])


def _following(stamps: NDArray[np.int64], windows: NDArray[np.int64], meters: Array, units: Array,
               depth: Array) -> Ratios:
    """Return the ratios of paths that follow each other, for the window of the keyframe in their middle."""
    paths, ends, middles, start = [], [], [], 0
    while start < len(stamps) - 1:
        end = int(np.searchsorted(stamps, stamps[start] + _SPAN, side="right"))
        if end - start < 2:  # nothing within the span
            start += 1
            continue
        rows = slice(start, end)
        found = growing_path_ratios(meters[rows], units[rows], _SIGMA_ODOMETRY[0], _SIGMA_MAP * depth[rows])
        sigma = np.hypot(found.sigma, _SIGMA_ODOMETRY[1])
        each = np.array([found.sigma_meters, found.sigma_units])
        enough = np.flatnonzero((sigma <= _ENOUGH) | ((each.min(0) <= _ENOUGH) & (each.max(0) > _WORST)))
        chosen = int(enough[0]) if len(enough) else int(np.argmin(sigma))
        paths.append(found[chosen:chosen + 1])
        ends.append(start + 1 + chosen)
        middles.append((start + ends[-1] + 1) // 2)
        start = ends[-1]
    return _ratios(paths, stamps[ends], windows[middles])


def _ratios(paths: Sequence[PathRatio], stamps: NDArray[np.int64], windows: NDArray[np.int64]) -> Ratios:
    """Return what n paths say. Where only one of the two moves, it is a lie to be outvoted, not one to be left out."""
    if not paths:
        return Ratios.join([])
    log, meters, units, squares, free = (np.concatenate([getattr(path, name) for path in paths]) for name in
                                         ("log", "sigma_meters", "sigma_units", "squares", "free"))
    # How exact shapes are is seen by all of them: one that differs more than the others is a lie's.
    told = free > 0
    misfit = max(1.0, float(np.median(squares[told] / free[told]))) if told.any() else 1.0
    sigma = np.hypot(np.hypot(meters, units) * np.sqrt(misfit), _SIGMA_ODOMETRY[1])
    sigma = np.where(np.minimum(meters, units) < _MOVES, np.minimum(sigma, _WORST), sigma)
    return Ratios(log, sigma, stamps, windows, _COMMON).rows(np.flatnonzero(sigma <= _WORST).tolist())
