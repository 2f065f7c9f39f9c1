"""A sparse solution of a window, by itself or after the views of a local map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, rotation_angle
from vggt_ros.reconstruction.adjustment.calibration_check import CalibrationCheck
from vggt_ros.reconstruction.adjustment.covariance import scale_sigma
from vggt_ros.reconstruction.adjustment.sparse_reconstruction import SparseReconstruction
from vggt_ros.reconstruction.multiview.matching.views import Measurements
from vggt_ros.reconstruction.multiview.sfm.local_map import LocalMap
from vggt_ros.reconstruction.multiview.sfm.poses import robust_cost
from vggt_ros.reconstruction.multiview.sfm.quality import MIN_INLIERS_CONTINUED, QualityMetrics, three_view_inliers

MIN_DEPTHS = 40
"""Fewest observations of points for their median depth."""
NEWEST_VIEWS = 3
"""Keyframes by whose points the next window goes on."""
SCALE_ERROR = 3.0
"""How many times larger errors of the scale are than observations with independent errors make them: 3.9 times against
true poses (`docs/notes/weak-scale.md`), some of which the pose graph assumes of all its covariances."""
REVISED = np.radians(2.0), 0.04
"""Change of the pose of a view that was solved before, radians or of the distance of the scene, from which on the
window before was wrong: with more views they change by up to 0.7 degrees and 0.012."""
ASSUMED_SCALE_SIGMA = 0.5
"""That of the logarithm of a scale that is assumed: after a turn, the scene may be half or twice as far away."""


@dataclass(frozen=True, eq=False)
class WindowSolution:
    """A sparse solution of S views, of which the first `known` are those of the local map `before`.

    The `turned` views (S,) were placed by a turn on the spot, and have no depth. After that, the unit may be
    `unit_assumed`. The poses of the first `held` views are those of the local map.
    """

    measured: Measurements
    solved: SparseReconstruction
    reference: NDArray[np.intp]
    metrics: QualityMetrics
    track_seconds: float
    before: LocalMap | None = None
    turned: NDArray[np.bool_] | None = None
    unit_assumed: bool = False
    held: int = 1

    @property
    def known(self) -> int:
        """Number of views that were solved before."""
        return 0 if self.before is None else len(self.before.views)

    def cost_of_all(self) -> float:
        """Return the mean robust cost, square pixels; with turned views, that of the local map before."""
        if self.before is not None and self.turned is not None:
            return self.before.cost
        return robust_cost(self.solved.scene, self.solved.observations, self.measured.visible, self.solved.registered)

    def distance(self) -> float:
        """Return the median depth of the points of new views, or that of the local map before if they have few."""
        new = np.arange(len(self.measured.views)) >= self.known
        depths = self.solved.scene.in_cameras()[..., 2][self.solved.inliers & new]
        return float(np.median(depths)) if self.before is None or len(depths) >= MIN_DEPTHS else self.before.distance

    def scale_sigma(self) -> float:
        """Return how uncertain the scale of the new views is, the standard deviation of its logarithm, if continued."""
        if self.before is None:
            return 0.0
        if self.unit_assumed:
            return ASSUMED_SCALE_SIGMA
        view, solved = np.arange(len(self.measured.views)), self.solved.registered
        newest = np.flatnonzero(solved if self.turned is None else solved & ~self.turned)
        if newest[-1] < self.known:
            return 0.0  # all were placed by a turn and have no depth: the window after them says what its scale is
        sigma = scale_sigma(self.solved.scene, self.solved.observations, self.solved.inliers,
                            view < max(self.held, 2), np.isin(view, newest[-NEWEST_VIEWS:]))
        return min(SCALE_ERROR * sigma, ASSUMED_SCALE_SIGMA)

    @property
    def radial(self) -> float:
        """The radial distortion that it was solved with."""
        if self.before is not None and self.held == self.known:
            return self.before.radial
        return self.measured.lens.applied + self.solved.scene.radial

    @property
    def is_recalibrated(self) -> bool:
        """True if the known views were solved with another distortion."""
        return self.before is not None and self.before.is_outdated(self.radial)

    def checked(self, check: CalibrationCheck) -> CalibrationCheck:
        """Return the check of the calibration with what this solution says of it; turned views say nothing."""
        solved, measured, registered = self.solved, self.measured, self.solved.registered
        seeing = registered if self.turned is None else registered & ~self.turned
        return check.updated(solved.scene, solved.observations, measured.visible, seeing, measured.lens.applied)

    def revised(self) -> tuple[int, ...]:
        """Return the ids of the known keyframes that were free, after the last fixed one, if one of them was wrong."""
        if self.before is None or self.held == self.known:
            return ()
        views, before, scene = self.before.views, self.before.scene, self.solved.scene
        turns = [rotation_angle(was.T @ now) for was, now in zip(before.rotation, scene.rotation, strict=False)]
        moves = np.linalg.norm(scene.centers()[:self.known] - before.centers(), axis=1)
        if not self.is_recalibrated and max(turns) < REVISED[0] and moves.max() < REVISED[1] * self.before.distance:
            return ()
        return tuple(view.keyframe.id for view in views[self.held - 1:])

    def newest(self, count: int) -> tuple[SparseReconstruction, NDArray[np.bool_], Array]:
        """Return what the readout is estimated from, with the tracks that the newest `count` views observe (n, S).

        Observations and shift rates (n, S, 2) are those by the image motion of the tracker: one that is corrected for
        a readout time confirms it.
        """
        views, rate = np.arange(len(self.measured.views)), self.measured.tracked_shift_rate
        by_tracker = self.solved.observations + self.measured.readout * (self.measured.shift_rate - rate)
        return (replace(self.solved, observations=by_tracker),
                self.measured.visible & (views >= len(views) - count), rate)

    def contradicted(self, alone: WindowSolution) -> set[int]:
        """Return the ids of new keyframes that the window `alone` lacks and that hardly see points of three keyframes.

        Two neighbors that were registered wrongly agree with each other, but hardly with a third keyframe.
        """
        lacking = {view.keyframe.id for view, solved in zip(alone.measured.views, alone.solved.registered, strict=True)
                   if not solved}
        weak = three_view_inliers(self.solved.inliers) < MIN_INLIERS_CONTINUED * self.measured.visible.sum(0)
        weak &= self.solved.registered & (np.arange(len(weak)) >= self.known)
        return lacking & {view.keyframe.id for view, is_weak in zip(self.measured.views, weak, strict=True) if is_weak}

    def cost(self, keyframes: Sequence[int]) -> tuple[int, float]:
        """Return how many of the keyframes have no pose, and the robust cost of their observations."""
        wanted = np.array([view.keyframe.id in keyframes for view in self.measured.views])
        return (len(keyframes) - int((wanted & self.solved.registered).sum()),
                robust_cost(self.solved.scene, self.solved.observations, self.measured.visible & wanted,
                            self.solved.registered))
