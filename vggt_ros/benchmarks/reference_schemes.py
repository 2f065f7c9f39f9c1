"""What could be reached, and what windows that do not bend reach: graphs that are told which loops are true.

In `known_loops` every keyframe is a node, every step from keyframe to keyframe that any window or joint window has is a
factor, so what two windows agree on is merged, and corrections bend windows inside. It says how much of an error is the
windows', and not fusion's. In `rigid` every window is a node, a similarity that alignment places by the window before
it, and a correction moves it as a whole. False loops and outlier windows are left out of both because the truth says
so, which no scheme can know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import gtsam
import numpy as np

from vggt_ros.benchmarks.published_schemes import Poses, placed, similarity
from vggt_ros.benchmarks.simulated_windows import SimulatedLoop, SimulatedWindow
from vggt_ros.config import AlignmentConfig
from vggt_ros.geometry.poses import Array, Sim3, inverse
from vggt_ros.geometry.sim3 import to_matrix, to_sim3, transported
from vggt_ros.pose_graph.optimization import solve
from vggt_ros.windows.alignment import Alignment, View, align

_ROTATION, _TRANSLATION, _SCALE = 0.003, 0.004, 0.002
"""Sigmas of a step: radians, fraction of the depth, logarithm; doubling one changes the error by less than 3 %."""
_RATIO = 0.006
"""Sigma of the logarithm of the ratio of two depth maps' medians."""
_ITERATIONS = 8
_BEND_ROTATION, _BEND_TRANSLATION, _BEND_SCALE = 0.02, 0.01, 0.01
"""The same for what a rigid window bends from overlap to overlap: of the values tried those with the smallest errors.
With 0.005 radians the error of windows that bend is 8 % larger, elsewhere the same."""
_ANYTHING = AlignmentConfig(max_rotation=180.0, max_translation=1e3, max_scale=1e3)
"""Limits of an alignment that refuses nothing: the truth says which windows and loops are right."""


@dataclass(eq=False)
class _Graph:
    """Keyframes placed so far, each with the depth and unit of the window that placed it, and all factors."""

    place: dict[int, Sim3] = field(default_factory=dict)
    owner: dict[int, View] = field(default_factory=dict)
    factors: gtsam.NonlinearFactorGraph = field(default_factory=gtsam.NonlinearFactorGraph)
    unit: dict[int, float] = field(default_factory=dict)

    def unit_of(self, views: Mapping[int, View]) -> float:
        """Return the unit in which `views` have their depth, in those that the chain of windows has."""
        logs = [np.nanmedian(np.log(self.owner[k].depth() / view.depth())) + np.log(self.unit[k])
                for k, view in views.items() if k in self.owner]
        return float(np.exp(np.median(logs))) if logs else 1.0

    def step(self, i: int, j: int, i_j: Array, units: tuple[float, float], depth: float) -> None:
        """Relate two keyframes by a step 4x4 that is measured in a unit which is `units` of the chain at either end."""
        scale = self.unit[j] / units[1] * units[0] / self.unit[i]
        relation = Sim3(scale, i_j[:3, :3], i_j[:3, 3] * units[0] / self.unit[i])
        ratio = _SCALE if units[0] == units[1] else _RATIO
        sigmas = np.array([_ROTATION] * 3 + [_TRANSLATION * depth * units[1] / self.unit[j]] * 3 + [ratio])
        self.factors.add(gtsam.BetweenFactorSimilarity3(i, j, similarity(relation),
                                                        gtsam.noiseModel.Diagonal.Sigmas(sigmas)))
        if j not in self.place:
            self.place[j] = self.place[i] @ relation
        elif i not in self.place:
            self.place[i] = self.place[j] @ relation.inverse()

    def add(self, window: SimulatedWindow) -> None:
        """Take a window's steps; its first keyframe is the origin if nothing is known."""
        keyframes, unit = sorted(window.views), self.unit_of(window.views)
        for keyframe in keyframes:
            self.owner.setdefault(keyframe, window.views[keyframe])
            self.unit.setdefault(keyframe, unit)
        if not self.place:
            self.place[keyframes[0]] = Sim3.identity()
            self.factors.add(gtsam.PriorFactorSimilarity3(keyframes[0], similarity(Sim3.identity()),
                                                          gtsam.noiseModel.Isotropic.Sigma(7, 1e-5)))
        start = next(row for row, keyframe in enumerate(keyframes) if keyframe in self.place)
        steps = list(_steps(keyframes, window.views))
        for i, j, i_j in [*steps[start:], *steps[:start][::-1]]:
            self.step(i, j, i_j, (unit, unit), _depth(window.views))

    def close(self, loop: SimulatedLoop) -> None:
        """Take the steps of a joint window; each place has it in the unit that its depth there says."""
        views, keyframes = loop.joint.views, list(loop.joint.views)
        half, units = len(loop.sides[0]), [self.unit_of({k: views[k] for k in side}) for side in loop.sides]
        for row, (i, j, i_j) in enumerate(_steps(keyframes, views)):
            self.step(i, j, i_j, (units[row >= half], units[row + 1 >= half]), _depth(views))

    def solved(self) -> Poses:
        """Return the keyframes' poses by Levenberg-Marquardt."""
        values = gtsam.Values()
        for keyframe, place in self.place.items():
            values.insert(keyframe, similarity(place))
        solver = gtsam.LevenbergMarquardtOptimizer(self.factors, values)
        for _ in range(_ITERATIONS):
            solver.iterate()
        found = {keyframe: solver.values().atSimilarity3(keyframe) for keyframe in self.place}
        return {k: Sim3(1.0, s.rotation().matrix(), s.scale() * np.asarray(s.translation())).apply_pose(np.eye(4))
                for k, s in found.items()}


def known_loops(windows: Sequence[SimulatedWindow], loops: Sequence[SimulatedLoop] = ()) -> tuple[Poses, list[bool]]:
    """Fuse windows as the module says; returns as the rivals do."""
    graph = _Graph()
    for window in _right(windows):
        graph.add(window)
    for loop in loops:
        if loop.true and all(keyframe in graph.place for keyframe in loop.joint.views):
            graph.close(loop)
    return graph.solved(), [loop.true for loop in loops]


def rigid(windows: Sequence[SimulatedWindow], loops: Sequence[SimulatedLoop] = ()) -> tuple[Poses, list[bool]]:
    """Fuse windows as the module says; returns as the rivals do."""
    right = _right(windows)
    row = {window.id: number for number, window in enumerate(right)}
    places, relations = [Sim3.identity()], []
    for number, (before, after) in enumerate(pairwise(right)):
        found = align(before.views, after.views, _ANYTHING)
        places.append(places[-1] @ found.reference_window)
        relations.append((number, number + 1, found.reference_window, found.covariance + _bent(found.depth)))
    for loop in loops:
        if loop.true:
            ends = row[loop.first], row[loop.second]
            sides = (align(right[end].views, loop.joint.views, _ANYTHING) for end in ends)
            relations.append((*ends, *_through(*sides)))
    first, second, between, covariances = zip(*relations, strict=True)
    solved = solve(np.arange(len(right)), np.array([to_matrix(place) for place in places]), np.array(first),
                   np.array(second), np.array([to_matrix(one) for one in between]), np.array(covariances), {})
    return placed(right, to_sim3(solved)), [loop.true for loop in loops]


def _through(first: Alignment, second: Alignment) -> tuple[Sim3, Array]:
    """Return how two windows lie to each other by a third one, aligned to both, and the covariance (7, 7)."""
    covariance = first.covariance + second.covariance + _bent(first.depth)
    return (first.reference_window @ second.reference_window.inverse(),
            transported(covariance[None], to_matrix(second.reference_window)[None])[0])


def _bent(depth: float) -> Array:
    """Return the covariance (7, 7) of what a window may have bent between two of its overlaps."""
    return np.diag([_BEND_ROTATION] * 3 + [_BEND_TRANSLATION * depth] * 3 + [_BEND_SCALE]) ** 2


def _right(windows: Sequence[SimulatedWindow]) -> list[SimulatedWindow]:
    """Return the windows, with a second answer in place of an outlier."""
    return [window.again if window.again is not None else window for window in windows]


def _steps(keyframes: Sequence[int], views: Mapping[int, View]) -> Iterator[tuple[int, int, Array]]:
    for i, j in pairwise(keyframes):
        yield i, j, inverse(views[i].camera) @ views[j].camera


def _depth(views: Mapping[int, View]) -> float:
    return float(np.median([view.keyframe.median_depth for view in views.values()]))
