"""Landmarks of the feature tracks: their map points.

A track observed by a solved keyframe gets its landmark from that keyframe's depth. The reconstructor lags behind, so
later tracks are triangulated between keyframes with poses by the tracker. When the next keyframe is solved, those
landmarks are corrected with it, so that they drift only over the time by which the reconstructor lags.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, Sim3, inverse
from vggt_ros.geometry.triangulation import triangulate_midpoints
from vggt_ros.odometry.landmark_table import LandmarkTable, is_among
from vggt_ros.odometry.tracked_keyframe import TrackedKeyframe
from vggt_ros.windows.solution import Solution

_MAX_KEYFRAMES = 60
"""Newest keyframes whose tracks and features are kept."""
_SUFFICIENT_FACTOR = 4
"""With so many times the fewest landmarks from solved depth, landmarks of unknown drift are discarded."""


class TrackedLandmarks:
    """Landmarks by track, and the keyframes that observed them.

    Attributes:
        table: the landmarks of the tracks in view, and of those that a keyframe observed.
        keyframes: keyframe id to its observations, the newest last.
        solution: the solution that the points are in.
        reference: the solved keyframe that the landmarks are attached to, -1 if there is none.
        map_reference: similarity of this keyframe in `solution`; None if there is none.

    """

    def __init__(self, min_landmarks: int) -> None:
        """Begin without landmarks; at least `min_landmarks` are needed for a pose."""
        self._min_landmarks = min_landmarks
        self.clear()

    def clear(self) -> None:
        """Forget all landmarks and keyframes."""
        self.table = LandmarkTable()
        self.keyframes: dict[int, TrackedKeyframe] = {}
        self.solution = Solution()
        self.reference = -1
        self.map_reference: Sim3 | None = None

    def add_keyframe(self, keyframe: int, tracked: TrackedKeyframe) -> None:
        """Add a new keyframe, and triangulate its tracks that have no landmark from solved depth."""
        self.keyframes[keyframe] = tracked
        while len(self.keyframes) > _MAX_KEYFRAMES:
            del self.keyframes[min(self.keyframes)]
        if tracked.map_camera is not None:
            self._triangulate(tracked)

    def replace(self, tracks: NDArray[np.int64], points: Array, keyframe: int) -> None:
        """Replace all landmarks by tracks (n,) at map points (n, 3) from the depth of a solved keyframe."""
        self.table = LandmarkTable()
        self.table.set(tracks, points, from_depth=True)
        self.reference = keyframe
        self.map_reference = _keyframe_similarity(keyframe, self.solution)

    def lookup(self, tracks: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Array, NDArray[np.bool_]]:
        """Return which of the tracks (n,) have landmarks; of those, the map points (k, 3) and which are from depth."""
        known, rows = self.table.find(tracks)
        return known, self.table.points[rows], self.table.from_depth[rows]

    def solved_keyframes(self, solution: Solution) -> list[int]:
        """Return those of the keyframes that are solved, newest first."""
        return [k for k in sorted(self.keyframes, reverse=True) if solution.index(k) is not None]

    def update_solution(self, pending: NDArray[np.int64], solution: Solution) -> None:
        """Update the landmarks to a new solution.

        The `pending` tracks (n,) get landmarks from the depth of solved keyframes, the newest first. All other
        landmarks, and the keyframes that are not solved yet, are corrected by the same similarity as the newest solved
        keyframe.
        """
        self.solution = solution
        old, self.table, live = self.table, LandmarkTable(), pending
        solved = self.solved_keyframes(solution)
        for keyframe in solved:
            tracked = self.keyframes[keyframe]
            ids = tracked.ids[is_among(tracked.ids, pending)]
            if not len(ids):
                continue
            points = tracked.landmarks(np.searchsorted(tracked.ids, ids), keyframe, solution)
            found = np.isfinite(points[:, 2])
            self.table.set(ids[found], points[found], from_depth=True)
            pending = pending[~is_among(pending, ids[found])]
        correction = self._correction(solved[0], old, solution) if solved else None
        if correction is None and len(self.table) < _SUFFICIENT_FACTOR * self._min_landmarks:
            # The newest one may have had no pose (before the first solve, or while lost): an older one shows less of
            # the drift.
            located = next((k for k in solved if self.keyframes[k].map_camera is not None), None)
            correction = None if located is None else self._correction(located, old, solution)
        moved_reference = _keyframe_similarity(self.reference, solution)
        reference_motion = (None if moved_reference is None or self.map_reference is None
                            else moved_reference @ self.map_reference.inverse())
        if correction is None and len(self.table) < self._min_landmarks:
            correction = reference_motion  # nor has one had a pose since the camera was found
        elif solved:
            self.reference = solved[0]
        self.map_reference = _keyframe_similarity(self.reference, solution)
        for keyframe, tracked in self.keyframes.items():
            row = solution.index(keyframe)
            if row is not None:
                tracked.map_camera = solution.map_camera[row]
                tracked.update_intrinsics(solution.keyframes[keyframe])
            elif tracked.map_camera is not None:
                tracked.map_camera = correction.apply_pose(tracked.map_camera) if correction else None
        # Landmarks from depth, such as those of a relocalization, have not drifted: they move with the reference.
        old.keep(~is_among(old.ids, self.table.ids) & is_among(old.ids, self._observed(live)))
        for transform, rows in ((reference_motion, old.from_depth), (correction, ~old.from_depth)):
            if transform is not None and rows.any():
                self.table.set(old.ids[rows], transform.apply(old.points[rows]), old.from_depth[rows])

    def _observed(self, live: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the tracks that are `live`, or that a keyframe observed: nothing asks for the landmarks of others."""
        return np.unique(np.concatenate([live, *(tracked.ids for tracked in self.keyframes.values())]))

    def _correction(self, keyframe: int, landmarks: LandmarkTable, solution: Solution) -> Sim3 | None:
        """Return the similarity that corrects the tracker's pose and scale of a keyframe to the solved ones.

        The scale is the median ratio of the solved depth of its `landmarks` to the tracked depth. None if the tracker
        had no pose of the keyframe.
        """
        tracked, row = self.keyframes[keyframe], solution.index(keyframe)
        if tracked.map_camera is None or row is None:
            return None
        known, rows = landmarks.find(tracked.ids)
        scale = 1.0
        if len(rows):
            old_depth = (landmarks.points[rows] - tracked.map_camera[:3, 3]) @ tracked.map_camera[:3, 2]
            camera = solution.map_camera[row]
            new_depth = (tracked.landmarks(known, keyframe, solution) - camera[:3, 3]) @ camera[:3, 2]
            valid = np.isfinite(new_depth) & (old_depth > 0)
            if valid.sum() >= 5:
                scale = float(np.median(new_depth[valid] / old_depth[valid]))
        return Sim3.from_pose(solution.map_camera[row], scale) @ Sim3.from_pose(inverse(tracked.map_camera))

    def _triangulate(self, newest: TrackedKeyframe) -> None:
        """Triangulate tracks without solved depth between the first keyframe that observed them and the newest one."""
        assert newest.map_camera is not None
        pending = newest.ids[~is_among(newest.ids, self.table.ids[self.table.from_depth])]
        found, poses, rays = [], [], []
        for tracked in self.keyframes.values():
            if not len(pending) or tracked is newest:
                break
            seen = is_among(pending, tracked.ids)
            if tracked.map_camera is not None and seen.any():
                found.append(pending[seen])
                poses.append(np.broadcast_to(tracked.map_camera, (len(found[-1]), 4, 4)))
                rays.append(tracked.rays(found[-1]))
                pending = pending[~seen]
        if found:
            ids = np.concatenate(found)
            points, valid = triangulate_midpoints(np.concatenate(poses), np.concatenate(rays), newest.map_camera,
                                                  newest.rays(ids))
            self.table.set(ids[valid], points[valid], from_depth=False)


def _keyframe_similarity(keyframe: int, solution: Solution) -> Sim3 | None:
    """Return `map_keyframe`, with map units per unit of the keyframe's window; None if the keyframe is not solved."""
    row = solution.index(keyframe)
    return None if row is None else solution.similarity(row)
