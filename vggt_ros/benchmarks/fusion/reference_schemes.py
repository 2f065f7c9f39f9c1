"""Reference fusion schemes that know which loops are true: a bound for keyframe graphs, and a rigid graph.

In `known_loops` every keyframe is a node, and every relative pose of consecutive keyframes in any window, or joint
window of a loop, is a factor, so relative poses of two windows are merged, and corrections deform windows. It shows how
much of an error is due to the windows, not to their fusion. In `rigid` every window is a node, a similarity that
alignment to the window before it initializes, and a correction moves it as a whole. False loops and outlier windows are
left out of both, by ground truth that no real scheme has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import gtsam
import numpy as np

from vggt_ros.benchmarks.fusion.published_schemes import Poses, keyframe_poses, to_gtsam
from vggt_ros.benchmarks.fusion.simulated_windows import SimulatedLoop, SimulatedWindow
from vggt_ros.config import AlignmentConfig
from vggt_ros.geometry.poses import Array, Sim3, inverse
from vggt_ros.geometry.sim3 import to_matrix, to_sim3, transported
from vggt_ros.pose_graph.optimization import solve
from vggt_ros.windows.alignment import Alignment, View, align

_ROTATION, _TRANSLATION, _SCALE = 0.003, 0.004, 0.002
"""Sigmas of a relative pose: radians, fraction of the depth, logarithm; twice one changes the error by up to 3 %."""
_RATIO_SIGMA = 0.006
"""Sigma of the logarithm of the ratio of the median depths of two depth maps."""
_ITERATIONS = 8
_DEFORMATION_ROTATION, _DEFORMATION_TRANSLATION, _DEFORMATION_SCALE = 0.02, 0.01, 0.01
"""The same for the deformation of a window between its overlaps: those of the tried values with the smallest errors.
With 0.005 radians the error of windows that are deformed is 8 % larger, elsewhere the same."""
_NO_LIMITS = AlignmentConfig(max_rotation=180.0, max_translation=1e3, max_scale=1e3)
"""Limits of an alignment that accepts everything: ground truth decides which windows and loops are right."""


@dataclass(eq=False)
class _KeyframeGraph:
    """Graph of keyframes, each with the depth and scale of the window that placed it."""

    poses: dict[int, Sim3] = field(default_factory=dict)
    views: dict[int, View] = field(default_factory=dict)
    factors: gtsam.NonlinearFactorGraph = field(default_factory=gtsam.NonlinearFactorGraph)
    scale: dict[int, float] = field(default_factory=dict)

    def scale_of(self, views: Mapping[int, View]) -> float:
        """Return the scale of a window's `views` relative to the chain of windows, by the depth of shared keyframes."""
        logs = [np.nanmedian(np.log(self.views[k].depth() / view.depth())) + np.log(self.scale[k])
                for k, view in views.items() if k in self.views]
        return float(np.exp(np.median(logs))) if logs else 1.0

    def add_relative_pose(self, i: int, j: int, i_j: Array, units: tuple[float, float], depth: float) -> None:
        """Add a factor for a relative pose 4x4, measured at scales that are `units` of the chain at its two ends."""
        scale = self.scale[j] / units[1] * units[0] / self.scale[i]
        relation = Sim3(scale, i_j[:3, :3], i_j[:3, 3] * units[0] / self.scale[i])
        ratio = _SCALE if units[0] == units[1] else _RATIO_SIGMA
        sigmas = np.array([_ROTATION] * 3 + [_TRANSLATION * depth * units[1] / self.scale[j]] * 3 + [ratio])
        self.factors.add(gtsam.BetweenFactorSimilarity3(i, j, to_gtsam(relation),
                                                        gtsam.noiseModel.Diagonal.Sigmas(sigmas)))
        if j not in self.poses:
            self.poses[j] = self.poses[i] @ relation
        elif i not in self.poses:
            self.poses[i] = self.poses[j] @ relation.inverse()

    def add(self, window: SimulatedWindow) -> None:
        """Add the relative poses of a window; its first keyframe is the origin if the graph is empty."""
        keyframes, scale = sorted(window.views), self.scale_of(window.views)
        for keyframe in keyframes:
            self.views.setdefault(keyframe, window.views[keyframe])
            self.scale.setdefault(keyframe, scale)
        if not self.poses:
            self.poses[keyframes[0]] = Sim3.identity()
            self.factors.add(gtsam.PriorFactorSimilarity3(keyframes[0], to_gtsam(Sim3.identity()),
                                                          gtsam.noiseModel.Isotropic.Sigma(7, 1e-5)))
        start = next(row for row, keyframe in enumerate(keyframes) if keyframe in self.poses)
        steps = list(_relative_poses(keyframes, window.views))
        for i, j, i_j in [*steps[start:], *steps[:start][::-1]]:
            self.add_relative_pose(i, j, i_j, (scale, scale), _depth(window.views))

    def add_loop(self, loop: SimulatedLoop) -> None:
        """Add the relative poses of a joint window; its scale at each place is by its depth there."""
        views, keyframes = loop.joint.views, list(loop.joint.views)
        half, units = len(loop.sides[0]), [self.scale_of({k: views[k] for k in side}) for side in loop.sides]
        for row, (i, j, i_j) in enumerate(_relative_poses(keyframes, views)):
            self.add_relative_pose(i, j, i_j, (units[row >= half], units[row + 1 >= half]), _depth(views))

    def optimize(self) -> Poses:
        """Return the poses of keyframes after Levenberg-Marquardt."""
        values = gtsam.Values()
        for keyframe, map_keyframe in self.poses.items():
            values.insert(keyframe, to_gtsam(map_keyframe))
        solver = gtsam.LevenbergMarquardtOptimizer(self.factors, values)
        for _ in range(_ITERATIONS):
            solver.iterate()
        found = {keyframe: solver.values().atSimilarity3(keyframe) for keyframe in self.poses}
        return {k: Sim3(1.0, s.rotation().matrix(), s.scale() * np.asarray(s.translation())).apply_pose(np.eye(4))
                for k, s in found.items()}


def known_loops(windows: Sequence[SimulatedWindow], loops: Sequence[SimulatedLoop] = ()) -> tuple[Poses, list[bool]]:
    """Fuse windows as described above; returns poses and, for each loop, whether it was accepted."""
    graph = _KeyframeGraph()
    for window in _without_outliers(windows):
        graph.add(window)
    for loop in loops:
        if loop.true and all(keyframe in graph.poses for keyframe in loop.joint.views):
            graph.add_loop(loop)
    return graph.optimize(), [loop.true for loop in loops]


def rigid(windows: Sequence[SimulatedWindow], loops: Sequence[SimulatedLoop] = ()) -> tuple[Poses, list[bool]]:
    """Fuse windows as described above; returns poses and, for each loop, whether it was accepted."""
    used = _without_outliers(windows)
    row = {window.id: number for number, window in enumerate(used)}
    map_windows, relations = [Sim3.identity()], []
    for number, (before, after) in enumerate(pairwise(used)):
        found = align(before.views, after.views, _NO_LIMITS)
        map_windows.append(map_windows[-1] @ found.reference_window)
        relations.append((number, number + 1, found.reference_window,
                          found.covariance + _deformation_covariance(found.depth)))
    for loop in loops:
        if loop.true:
            ends = row[loop.first], row[loop.second]
            sides = (align(used[end].views, loop.joint.views, _NO_LIMITS) for end in ends)
            relations.append((*ends, *_loop_measurement(*sides)))
    first, second, between, covariances = zip(*relations, strict=True)
    solved = solve(np.arange(len(used)), np.array([to_matrix(map_window) for map_window in map_windows]),
                   np.array(first), np.array(second), np.array([to_matrix(one) for one in between]),
                   np.array(covariances), {})
    return keyframe_poses(used, to_sim3(solved)), [loop.true for loop in loops]


def _loop_measurement(first: Alignment, second: Alignment) -> tuple[Sim3, Array]:
    """Return the similarity of two windows that are both aligned to a third, and its covariance (7, 7)."""
    covariance = first.covariance + second.covariance + _deformation_covariance(first.depth)
    return (first.reference_window @ second.reference_window.inverse(),
            transported(covariance[None], to_matrix(second.reference_window)[None])[0])


def _deformation_covariance(depth: float) -> Array:
    """Return the covariance (7, 7) of the deformation of a window between two of its overlaps."""
    return np.diag([_DEFORMATION_ROTATION] * 3 + [_DEFORMATION_TRANSLATION * depth] * 3 + [_DEFORMATION_SCALE]) ** 2


def _without_outliers(windows: Sequence[SimulatedWindow]) -> list[SimulatedWindow]:
    """Return the windows, with the second attempt in place of an outlier."""
    return [window.retry if window.retry is not None else window for window in windows]


def _relative_poses(keyframes: Sequence[int], views: Mapping[int, View]) -> Iterator[tuple[int, int, Array]]:
    for i, j in pairwise(keyframes):
        yield i, j, inverse(views[i].camera) @ views[j].camera


def _depth(views: Mapping[int, View]) -> float:
    return float(np.median([view.keyframe.median_depth for view in views.values()]))
