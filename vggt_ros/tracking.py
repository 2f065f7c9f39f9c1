"""The pose of every frame between windows: optical flow and PnP, on depth where it is solved, else on own points.

A track that a solved keyframe has seen gets its landmark from that keyframe's depth. The reconstructor lags behind, so
tracks that began later are triangulated between keyframes that this tracker has placed itself. When the next keyframe
is solved, those landmarks are moved with it: the odometry drifts only as far as the reconstructor lags. If too few
tracks are left, the binary features of the newest solved keyframes are matched to the frame, but only for a while: a
camera that saw nothing for longer may be elsewhere, and a few matches agree on a pose that is wrong. A camera that
turned on the spot sees what nothing is known of: its tracks still tell how it turned.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vggt_ros.config import TrackingConfig
from vggt_ros.features import REFERENCE_WIDTH, FeatureTracks, ImageFeatures
from vggt_ros.geometry import Array, Sim3, inverse
from vggt_ros.pnp import consensus, refine_pose
from vggt_ros.relocalization import Found
from vggt_ros.sightings import Sighting
from vggt_ros.solution import Solution
from vggt_ros.triangulation import midpoints
from vggt_ros.turning import Turning

FEW = 2
"""Poses on which fewer landmarks agree than this times `tracking.min_inliers` are said to be degraded."""
_MEMORY = 60
"""Keyframes that are remembered by their tracks and features."""
_ENOUGH = 4
"""With so many times `tracking.min_inliers` landmarks of solved depth, none are kept whose drift is not known."""
_SHORT = 10
"""Images without a pose after which the newest keyframes are not expected in view any more."""
_MIN_SPREAD = 0.1
"""Least standard deviation of matches in the image, x and y, as a fraction of its width: else they fix no pose."""
_DRIFT = 0.05
"""How far the tracker's own landmarks drift, as a fraction of the way from the newest solved keyframe."""
_AGREEING, _AGREEING_WELL = 0.4, 0.25
"""Least fraction of the landmarks that agree on a pose; the second is enough if so many do that it is not DEGRADED."""
_INLIER = 3.0
"""Largest reprojection error of an inlier, px at 640 px width."""


@dataclass(frozen=True, eq=False)
class Location:
    """A pose found.

    `world_camera` 4x4, covariance (6, 6) of its right perturbation, inliers, reference keyframe, how many inliers have
    solved depth, and whether only the rotation is measured.
    """

    world_camera: Array
    covariance: Array
    inliers: int
    reference: int
    measured: int
    turned: bool = False


class Tracker:
    """Finds the camera among landmarks, which are tracks whose place is known.

    Attributes:
        solution: the state of the map that the landmarks and all poses are of.

    """

    def __init__(self, config: TrackingConfig) -> None:
        """Track with the settings of `config`."""
        self._config = config
        self._matcher = cv2.BFMatcher(cv2.NORM_HAMMING)
        self.clear()

    def clear(self) -> None:
        """Forget all keyframes, landmarks and the last pose."""
        self._sightings: dict[int, Sighting] = {}
        self._landmarks: dict[int, Array] = {}
        self._measured: set[int] = set()  # tracks whose landmark has solved depth
        self.solution = Solution()
        self._last: Array | None = None
        self._reference = -1
        self._anchor: Sim3 | None = None  # the reference keyframe as it was when the landmarks were taken
        self._lost = 0  # images without a pose
        self._turning = Turning()

    def remember(self, keyframe: int, tracks: FeatureTracks, image: ImageFeatures, intrinsics: Array,
                 world_camera: Array | None) -> None:
        """Note what a new keyframe sees, and triangulate the tracks that have no landmark by solved depth."""
        self._sightings[keyframe] = Sighting(tracks.ids, tracks.pixels, image.binary, world_camera, intrinsics,
                                              image.gray.shape[1])
        while len(self._sightings) > _MEMORY:
            del self._sightings[min(self._sightings)]
        self._turning.hop()
        if world_camera is not None:
            self._triangulate(self._sightings[keyframe])

    @property
    def is_away(self) -> bool:
        """True if the camera has not been located for so long that it may be anywhere."""
        return self._lost >= _SHORT

    def locate(self, tracks: FeatureTracks, image: ImageFeatures, intrinsics: Array,
               solution: Solution) -> Location | None:
        """Return where the frame `image` with these `tracks` was taken.

        If the landmarks as they are tell, they are left as they are: `catch_up` takes up a new `solution` when the pose
        has gone out.
        """
        width = image.gray.shape[1]
        location = self._solve(tracks, intrinsics, width)
        if location is None and solution is not self.solution:
            self._adopt(tracks, solution)
            location = self._solve(tracks, intrinsics, width)
        if location is None and not self.is_away:
            location = self._match(tracks, image, intrinsics, solution)
        if location is None:
            location = self._turn(tracks, intrinsics, width, solution)
        self._lost = 0 if location else self._lost + bool(len(solution))
        self._last = location.world_camera if location else None
        return location

    def catch_up(self, tracks: FeatureTracks, intrinsics: Array, width: int,
                 solution: Solution) -> tuple[Array, Array] | None:
        """Take up a new solution; return the newest pose 4x4 by it, and by the one before, if both are known."""
        before = self._last
        self._adopt(tracks, solution)
        location = self._solve(tracks, intrinsics, width)
        self._last = location.world_camera if location else None
        return None if location is None or before is None else (location.world_camera, before)

    def take(self, tracks: FeatureTracks, found: Found, fresh: bool, solution: Solution) -> Location:
        """Take landmarks found in the newest image by other means than tracks, and return where it was taken.

        They are followed from then on, in the stead of all others; in a `fresh` place nothing that was before counts.
        """
        ids = tracks.append(found.pixels)
        self._landmarks = dict(zip(ids.tolist(), found.points, strict=True))
        self._measured = set(self._landmarks)
        self._last, self._reference, self._lost = found.map_camera, found.keyframe, 0
        self._anchor = _place(found.keyframe, solution)
        if fresh:
            for sighting in self._sightings.values():  # what they saw was placed by what did not hold
                sighting.world_camera = None
        depth = float(np.median((found.points - found.map_camera[:3, 3]) @ found.map_camera[:3, 2]))
        self._turning.settle(found.covariance, depth)
        return Location(found.map_camera, found.covariance, len(found.points), found.keyframe, len(found.points))

    def _adopt(self, tracks: FeatureTracks, solution: Solution) -> None:
        """Take landmarks from the depth of solved keyframes, the newest first, and move the others with them."""
        self.solution, self._last = solution, None
        moved, self._landmarks, measured = self._landmarks, {}, self._measured
        solved = self._solved(solution)
        waiting = tracks.ids
        for keyframe in solved:
            sighting = self._sightings[keyframe]
            ids = sighting.ids[np.isin(sighting.ids, waiting, assume_unique=True)]
            if not len(ids):
                continue
            points = sighting.landmarks(sighting.pixels[np.searchsorted(sighting.ids, ids)], keyframe, solution)
            found = np.isfinite(points[:, 2])
            self._landmarks.update(zip(ids[found].tolist(), points[found], strict=True))
            waiting = np.setdiff1d(waiting, ids[found], assume_unique=True)
        self._measured = set(self._landmarks)
        correction = self._correction(solved[0], moved, solution) if solved else None
        if correction is None and len(self._landmarks) < _ENOUGH * self._config.min_inliers:
            # The newest was made while nothing was known yet, or while lost: an older one tells less of the drift.
            located = next((k for k in solved if self._sightings[k].world_camera is not None), None)
            correction = None if located is None else self._correction(located, moved, solution)
        now = _place(self._reference, solution)
        shift = None if now is None or self._anchor is None else now @ self._anchor.inverse()
        if correction is None and len(self._landmarks) < self._config.min_inliers:
            correction = shift  # nor was one of them made since the camera was found
        elif solved:
            self._reference = solved[0]
        self._anchor = _place(self._reference, solution)
        for keyframe, sighting in self._sightings.items():
            row = solution.index(keyframe)
            if row is not None:
                sighting.world_camera = solution.map_camera[row]
            elif sighting.world_camera is not None:
                sighting.world_camera = correction.apply_pose(sighting.world_camera) if correction else None
        for track, point in moved.items():
            # What was measured in the map, such as what the camera was found by, moves with it and has not drifted.
            motion = shift if track in measured else correction
            if motion is not None and track not in self._landmarks:
                self._landmarks[track] = motion.apply(point)
        self._measured |= measured & self._landmarks.keys()

    def _correction(self, keyframe: int, landmarks: dict[int, Array], solution: Solution) -> Sim3 | None:
        """Return how a keyframe has moved from where the tracker took it to be to where it is solved, and its scale.

        None if the tracker did not know the keyframe's place.
        """
        sighting, row = self._sightings[keyframe], solution.index(keyframe)
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

    def _triangulate(self, newest: Sighting) -> None:
        """Place the tracks without solved depth between the first keyframe that saw them and the newest."""
        assert newest.world_camera is not None
        waiting = np.array([t for t in newest.ids.tolist() if t not in self._measured], np.int64)
        found, poses, rays = [], [], []
        for sighting in self._sightings.values():
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
            points, good = midpoints(np.concatenate(poses), np.concatenate(rays), newest.world_camera,
                                      newest.rays(ids))
            self._landmarks.update(zip(ids[good].tolist(), points[good], strict=True))

    def _match(self, tracks: FeatureTracks, image: ImageFeatures, intrinsics: Array,
               solution: Solution) -> Location | None:
        """Locate by the binary features of the newest solved keyframes; what agrees is followed from then on."""
        solved, width = self._solved(solution)[:3], image.gray.shape[1]
        if not solved or len(image.binary) < self._config.min_inliers:
            return None
        pixels = image.binary.pixels
        for keyframe in solved:
            sighting = self._sightings[keyframe]
            if len(sighting.binary) < self._config.min_inliers:
                continue
            pairs = [best for best, second in self._matcher.knnMatch(image.binary.looks, sighting.binary.looks, k=2)
                     if best.distance < 0.8 * second.distance]
            here = np.array([pair.queryIdx for pair in pairs], int)
            there = np.array([pair.trainIdx for pair in pairs], int)
            points = sighting.landmarks(sighting.binary.pixels[there], keyframe, solution)
            known = np.isfinite(points[:, 2])
            if known.sum() < self._config.min_inliers:
                continue
            found_pose = consensus(points[known], pixels[here[known]], intrinsics, self._limit(width))
            if found_pose is not None and len(found_pose[1]) >= self._config.min_inliers:
                self._last, chosen = found_pose
                if pixels[here[known][chosen]].std(0).min() < _MIN_SPREAD * width:
                    continue
                ids = tracks.append(pixels[here[known][chosen]])
                self._landmarks = dict(zip(ids.tolist(), points[known][chosen], strict=True))
                self._measured, self._reference = set(self._landmarks), keyframe
                self._anchor = _place(keyframe, solution)
                return self._solve(tracks, intrinsics, width)
        return None

    def _solve(self, tracks: FeatureTracks, intrinsics: Array, width: int) -> Location | None:
        """Return the pose by the present landmarks, or None if too few agree."""
        known = np.array([track in self._landmarks for track in tracks.ids.tolist()], bool)
        if known.sum() < self._config.min_inliers:
            return None
        points = np.array([self._landmarks[track] for track in tracks.ids[known].tolist()])
        pixels, limit = tracks.pixels[known].astype(np.float64), self._limit(width)
        least, trusted = self._config.min_inliers, FEW * self._config.min_inliers
        needed = max(least, min(_AGREEING * len(points), max(_AGREEING_WELL * len(points), trusted)))
        refined = None if self._last is None else refine_pose(self._last, points, pixels, intrinsics, limit)
        if refined is None or refined[2].sum() < needed:
            found_pose = consensus(points, pixels, intrinsics, limit)
            if found_pose is None:
                return None
            refined = refine_pose(found_pose[0], points, pixels, intrinsics, limit)
        pose, covariance, inliers = refined
        if inliers.sum() < needed:
            return None
        measured = sum(track in self._measured for track in tracks.ids[known][inliers].tolist())
        covariance = covariance * max(1.0, FEW * self._config.min_inliers / inliers.sum()) ** 2  # few agree by chance
        depth = float(np.median((points[inliers] - pose[:3, 3]) @ pose[:3, 2]))
        if self._anchor is not None:  # what tracking placed itself drifts, all of it alike
            own = 1 - measured / inliers.sum()
            drift = own * _DRIFT * float(np.linalg.norm(pose[:3, 3] - self._anchor.translation))
            covariance = covariance + np.diag([drift / depth] * 3 + [drift] * 3) ** 2
        self._turning.settle(covariance, depth)
        return Location(pose, covariance, int(inliers.sum()), self._reference, measured)

    def _turn(self, tracks: FeatureTracks, intrinsics: Array, width: int, solution: Solution) -> Location | None:
        """Locate by rotation alone, if it explains how the tracks have moved since the newest keyframe with a place."""
        sighting = next((s for s in list(self._sightings.values())[:-4:-1] if s.world_camera is not None), None)
        if sighting is None or solution.index(self._reference) is None:
            return None
        found = self._turning.locate(sighting, tracks, intrinsics, REFERENCE_WIDTH / width, self._config.min_inliers)
        return None if found is None else Location(*found, self._reference, 0, turned=True)

    def _solved(self, solution: Solution) -> list[int]:
        """Return the remembered keyframes that are solved, newest first."""
        return [k for k in sorted(self._sightings, reverse=True) if solution.index(k) is not None]

    @staticmethod
    def _limit(width: int) -> float:
        return _INLIER * width / REFERENCE_WIDTH


def _place(keyframe: int, solution: Solution) -> Sim3 | None:
    """Return where a keyframe lies in the map and how large its window's unit is, or None if it is not solved."""
    row = solution.index(keyframe)
    return None if row is None else Sim3.from_pose(solution.map_camera[row], float(solution.scale[row]))
