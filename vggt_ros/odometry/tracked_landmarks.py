"""Which tracks are landmarks: where the points lie that are followed from image to image.

A track that a solved keyframe has seen gets its landmark from that keyframe's depth. The reconstructor lags behind, so
tracks that began later are triangulated between keyframes that the tracker has placed itself. When the next keyframe is
solved, those landmarks are moved with it: they drift only as far as the reconstructor lags.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, Sim3, inverse
from vggt_ros.geometry.triangulation import triangulate_midpoints
from vggt_ros.odometry.tracked_keyframe import TrackedKeyframe
from vggt_ros.windows.solution import Solution

_MEMORY = 60
"""Keyframes that are remembered by their tracks and features."""
_ENOUGH = 4
"""With so many times the least number of landmarks by solved depth, none are kept whose drift is not known."""


class TrackedLandmarks:
    """Landmarks by track, and the keyframes that have seen them.

    Attributes:
        points: track to its place (3,) in the map.
        measured: tracks whose landmark has solved depth.
        sightings: keyframe to what it saw, the newest last.
        solution: the state of the map that places are of.
        reference: the solved keyframe that they hang on, -1 if there is none.
        anchor: that keyframe as it was when the landmarks were taken.

    """

    def __init__(self, least: int) -> None:
        """Begin without any; `least` are needed for a pose."""
        self._least = least
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self.points: dict[int, Array] = {}
        self.measured: set[int] = set()
        self.sightings: dict[int, TrackedKeyframe] = {}
        self.solution = Solution()
        self.reference = -1
        self.anchor: Sim3 | None = None

    def remember(self, keyframe: int, sighting: TrackedKeyframe) -> None:
        """Note what a new keyframe sees, and triangulate the tracks that have no landmark by solved depth."""
        self.sightings[keyframe] = sighting
        while len(self.sightings) > _MEMORY:
            del self.sightings[min(self.sightings)]
        if sighting.world_camera is not None:
            self._triangulate(sighting)

    def replace(self, tracks: NDArray[np.int64], points: Array, keyframe: int) -> None:
        """Take tracks (n,) at map points (n, 3) by the depth of a solved keyframe, in the stead of all others."""
        self.points = dict(zip(tracks.tolist(), points, strict=True))
        self.measured, self.reference = set(self.points), keyframe
        self.anchor = _place(keyframe, self.solution)

    def known(self, tracks: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Array]:
        """Return which of the tracks (n,) are landmarks, and where those (k, 3) lie."""
        known = np.array([track in self.points for track in tracks.tolist()], bool)
        return known, np.array([self.points[track] for track in tracks[known].tolist()]).reshape(-1, 3)

    def solved(self, solution: Solution) -> list[int]:
        """Return the remembered keyframes that are solved, newest first."""
        return [k for k in sorted(self.sightings, reverse=True) if solution.index(k) is not None]

    def adopt(self, waiting: NDArray[np.int64], solution: Solution) -> None:
        """Give tracks (n,) landmarks by the depth of solved keyframes, the newest first, and move others with them."""
        self.solution = solution
        moved, self.points, measured = self.points, {}, self.measured
        solved = self.solved(solution)
        for keyframe in solved:
            sighting = self.sightings[keyframe]
            ids = sighting.ids[np.isin(sighting.ids, waiting, assume_unique=True)]
            if not len(ids):
                continue
            points = sighting.landmarks(sighting.pixels[np.searchsorted(sighting.ids, ids)], keyframe, solution)
            found = np.isfinite(points[:, 2])
            self.points.update(zip(ids[found].tolist(), points[found], strict=True))
            waiting = np.setdiff1d(waiting, ids[found], assume_unique=True)
        self.measured = set(self.points)
        correction = self._correction(solved[0], moved, solution) if solved else None
        if correction is None and len(self.points) < _ENOUGH * self._least:
            # The newest was made while nothing was known yet, or while lost: an older one tells less of the drift.
            located = next((k for k in solved if self.sightings[k].world_camera is not None), None)
            correction = None if located is None else self._correction(located, moved, solution)
        now = _place(self.reference, solution)
        shift = None if now is None or self.anchor is None else now @ self.anchor.inverse()
        if correction is None and len(self.points) < self._least:
            correction = shift  # nor was one of them made since the camera was found
        elif solved:
            self.reference = solved[0]
        self.anchor = _place(self.reference, solution)
        for keyframe, sighting in self.sightings.items():
            row = solution.index(keyframe)
            if row is not None:
                sighting.world_camera = solution.map_camera[row]
            elif sighting.world_camera is not None:
                sighting.world_camera = correction.apply_pose(sighting.world_camera) if correction else None
        for track, point in moved.items():
            # What was measured in the map, such as what the camera was found by, moves with it and has not drifted.
            motion = shift if track in measured else correction
            if motion is not None and track not in self.points:
                self.points[track] = motion.apply(point)
        self.measured |= measured & self.points.keys()

    def _correction(self, keyframe: int, landmarks: dict[int, Array], solution: Solution) -> Sim3 | None:
        """Return how a keyframe has moved from where the tracker took it to be to where it is solved, and its scale.

        None if the tracker did not know the keyframe's place.
        """
        sighting, row = self.sightings[keyframe], solution.index(keyframe)
        if sighting.world_camera is None or row is None:
            return None
        ids = np.array([track for track in sighting.ids.tolist() if track in landmarks], np.int64)
        ratio = 1.0
        if len(ids):
            old = (np.array([landmarks[t] for t in ids.tolist()]) - sighting.world_camera[:3, 3]) \
                @ sighting.world_camera[:3, 2]
            camera = solution.map_camera[row]
            new = (sighting.landmarks(sighting.pixels[np.searchsorted(sighting.ids, ids)], keyframe, solution)
                   - camera[:3, 3]) @ camera[:3, 2]
            known = np.isfinite(new) & (old > 0)
            if known.sum() >= 5:
                ratio = float(np.median(new[known] / old[known]))
        return Sim3.from_pose(solution.map_camera[row], ratio) @ Sim3.from_pose(inverse(sighting.world_camera))

    def _triangulate(self, newest: TrackedKeyframe) -> None:
        """Place the tracks without solved depth between the first keyframe that saw them and the newest."""
        assert newest.world_camera is not None
        waiting = np.array([t for t in newest.ids.tolist() if t not in self.measured], np.int64)
        found, poses, rays = [], [], []
        for sighting in self.sightings.values():
            if not len(waiting) or sighting is newest:
                break
            seen = np.isin(waiting, sighting.ids, assume_unique=True)
            if sighting.world_camera is not None and seen.any():
                found.append(waiting[seen])
                poses.append(np.broadcast_to(sighting.world_camera, (len(found[-1]), 4, 4)))
                rays.append(sighting.rays(found[-1]))
                waiting = waiting[~seen]
        if found:
            ids = np.concatenate(found)
            points, good = triangulate_midpoints(np.concatenate(poses), np.concatenate(rays), newest.world_camera,
                                      newest.rays(ids))
            self.points.update(zip(ids[good].tolist(), points[good], strict=True))


def _place(keyframe: int, solution: Solution) -> Sim3 | None:
    """Return where a keyframe lies in the map and how large its window's unit is, or None if it is not solved."""
    row = solution.index(keyframe)
    return None if row is None else Sim3.from_pose(solution.map_camera[row], float(solution.scale[row]))
