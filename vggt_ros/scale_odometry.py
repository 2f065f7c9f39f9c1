"""Metric scale from another odometry: how far the camera went by it, over how far it went in the map."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry import Array, pose, so3_exp, so3_log
from vggt_ros.ratios import Ratios
from vggt_ros.solution import Solution

_SPAN = 3_000_000_000
"""Longest time between the two keyframes of a motion, nanoseconds: a lie spoils no more than those around it."""
_ENOUGH, _AT_FIRST = 0.025, 0.035
"""Sigma of its ratio at which a motion is long enough: shorter ones are spoiled by fewer lies, but noise makes lengths
too long by the square of it. At first, until the long ones cover `_COVERED` seconds, shorter ones are taken."""
_COVERED = 8
_GAP = 250_000_000
"""Poses of the odometry farther apart than this are not interpolated between."""
_SIGMA_MAP = 0.005
"""Sigma of a keyframe's place in the map against one nearby, as a fraction of its median depth."""
_SIGMA_ODOMETRY = 0.008, 0.01
"""Sigma of an odometry's motion: meters, for clocks and extrinsics, and a fraction of its length."""
_COMMON = 0.003
"""Sigma of what all its motions have in common: the wheels' size, the clock."""
_WORST = 0.3
"""A ratio of a larger sigma says nothing."""
_NEWEST = 1000
"""Keyframes that are compared, the newest."""
_MEMORY = 20_000
"""Poses that may wait for their keyframe: 200 s at 100 a second."""


class OdometrySource:
    """Keeps the odometry's pose of every solved keyframe, and compares motions of up to two seconds."""

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
        self._centers: dict[int, Array] = {}

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
            self._waiting.append((stamp, odom_camera))

    def ratios(self, solution: Solution, rows: NDArray[np.int64], inside: bool = False) -> Ratios:
        """Return the ratios of motions that follow each other, each as short as it may be.

        Those `inside` a window are one for each, the best, and say nothing of how windows lie against each other.
        """
        self._note(solution, rows)
        rows = np.array([row for row in rows.tolist() if int(solution.ids[row]) in self._centers], np.int64)[-_NEWEST:]
        ids, stamps, map_center = solution.ids[rows].tolist(), solution.stamps[rows], solution.map_camera[rows, :3, 3]
        odom_center = np.array([self._centers[k] for k in ids]).reshape(-1, 3)
        windows = solution.windows[rows]
        sigma_map = np.sqrt(2) * _SIGMA_MAP * solution.scale[rows] * np.array(
            [np.nan_to_num(solution.kept[k].median_depth) for k in ids])
        if inside:
            return _best_inside(stamps, windows, map_center, odom_center, sigma_map)
        long, short = (_following(stamps, windows, map_center, odom_center, sigma_map, enough)
                       for enough in (_ENOUGH, _AT_FIRST))
        return long if len(np.unique(long.stamps // 10**9)) >= _COVERED else short

    def _note(self, solution: Solution, rows: NDArray[np.int64]) -> None:
        """Look up the keyframes that are new; those whose odometry has not come yet are asked for again."""
        with self._lock:
            waiting = list(self._waiting)
        if len(waiting) < 2:
            return
        stamps = np.array([stamp for stamp, _ in waiting], np.int64)
        for row in rows.tolist():
            keyframe, stamp = int(solution.ids[row]), int(solution.stamps[row])
            if keyframe not in self._centers:
                found = interpolate(stamps, [matrix for _, matrix in waiting], stamp)
                if found is not None:
                    self._centers[keyframe] = found[:3, 3]


def interpolate(stamps: NDArray[np.int64], poses: list[Array], when: int) -> Array | None:
    """Return the pose 4x4 at `when` between those at rising `stamps`, or None if they are too far apart or end."""
    after = int(np.searchsorted(stamps, when))
    if after < len(stamps) and stamps[after] == when:
        return poses[after]
    if after == 0 or after == len(stamps) or stamps[after] - stamps[after - 1] > _GAP:
        return None
    before, part = after - 1, (when - int(stamps[after - 1])) / float(stamps[after] - stamps[after - 1])
    first, second = poses[before], poses[after]
    turn = so3_log(first[:3, :3].T @ second[:3, :3])
    return pose(first[:3, :3] @ so3_exp(part * turn), (1 - part) * first[:3, 3] + part * second[:3, 3])


def _following(stamps: NDArray[np.int64], windows: NDArray[np.int64], map_center: Array, odom_center: Array,
               sigma_map: Array, sigma: float) -> Ratios:
    """Return the ratios of motions that follow each other, each as short as it may be for a `sigma`."""
    parts, start = [], 0
    while start < len(stamps) - 1:
        end = int(np.searchsorted(stamps, stamps[start] + _SPAN, side="right"))
        motions = _motions(start, end, stamps, windows, map_center, odom_center, sigma_map)
        if not len(motions):  # nothing within the span
            start += 1
            continue
        enough = np.flatnonzero(motions.sigma <= sigma)
        chosen = int(enough[0]) if len(enough) else int(np.argmin(motions.sigma))
        start += 1 + chosen
        if motions.sigma[chosen] <= _WORST:
            parts.append(motions.rows([chosen]))
    return Ratios.join(parts)


def _best_inside(stamps: NDArray[np.int64], windows: NDArray[np.int64], map_center: Array, odom_center: Array,
                 sigma_map: Array) -> Ratios:
    """Return the ratio of the motion in each window that tells most."""
    parts = []
    for window in np.unique(windows).tolist():
        rows = np.flatnonzero(windows == window)
        motions = Ratios.join([_motions(start, int(rows[-1]) + 1, stamps, windows, map_center, odom_center, sigma_map)
                               for start in rows[:-1].tolist()])
        motions = motions.rows(np.flatnonzero(motions.windows == window).tolist())
        if len(motions) and motions.sigma.min() <= _WORST:
            parts.append(motions.rows([int(np.argmin(motions.sigma))]))
    return Ratios.join(parts)


def _motions(start: int, end: int, stamps: NDArray[np.int64], windows: NDArray[np.int64], map_center: Array,
             odom_center: Array, sigma_map: Array) -> Ratios:
    """Return the ratios of the motions from the keyframe in row `start` to those after it, before `end`.

    They count for the window of the keyframe in their middle.
    """
    rows = np.arange(start + 1, end)
    units = np.linalg.norm(map_center[rows] - map_center[start], axis=1)
    meters = np.linalg.norm(odom_center[rows] - odom_center[start], axis=1)
    sigma_meters = np.hypot(_SIGMA_ODOMETRY[0], _SIGMA_ODOMETRY[1] * meters)
    found = Ratios.of_lengths(meters, sigma_meters, units, sigma_map[rows], stamps[rows],
                              windows[(start + rows + 1) // 2])
    # Where only one of the two moves, it is a lie to be outvoted, not a motion to be left out.
    one_moves = np.minimum(sigma_meters / np.maximum(meters, 1e-9), sigma_map[rows] / np.maximum(units, 1e-9)) < 0.1
    return Ratios(found.log, np.where(one_moves, np.minimum(found.sigma, _WORST), found.sigma), found.stamps,
                  found.windows, _COMMON)
