"""The pose graph: one similarity a window, chained by overlaps, bent by the loops that it believes (gtsam).

Without loops a window lies where its overlap puts it, and nothing else moves. With loops, gtsam solves the windows in
which loops end, with the overlaps between them composed into one factor each, and the windows between take their share
of the correction in proportion to the uncertainty that has accumulated up to them. So the solve grows with the loops,
not with the windows, and is done in short steps, because gtsam holds Python's lock.

A node is `map_window`. gtsam writes a similarity as p' = s (R p + t); ours is p' = s R p + t.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import gtsam
import numpy as np

from vggt_ros.consensus import GATE, Loop, ends, group, misfit, score, squared, surprise
from vggt_ros.geometry import Array, Sim3, orthonormalize
from vggt_ros.overlap_tree import OverlapTree
from vggt_ros.similarities import inverse, log, scales, to_matrix, to_sim3
from vggt_ros.solution import Edge

_PRIOR_SIGMA = 1e-4
"""Sigma of the first window: it fixes the gauge (rotation in radians, position in map units, log scale)."""
_UNKNOWN = np.diag([3.0] * 3 + [1e3] * 3 + [2.0]) ** 2
"""Covariance of where a submap lies in the map before a loop tells: nearly nothing is known."""
_ANYWHERE, _SIGMA_SCALE = 1e4, 0.02
"""Sigma of the place and of the logarithm of the scale of a window whose scale sources of meters tell."""
_DOUBT, _DOUBTED, _MAX_INFLATION = 4.0, 2, 1000.0
"""By how much the covariances of overlaps are taken to be too small before loops tell, the number of loops that this
belief is worth, and the most that it may become."""
_MEDIAN, _MAX_MISFIT = 6.35, 9.0
"""The median of chi-square with 7 degrees of freedom; how much worse than they say loops may be."""


@dataclass(frozen=True, eq=False)
class _Solved:
    """What becomes of the map with a set of loops: places (w, 4, 4), chi-square of overlaps and of each loop."""

    loops: tuple[Loop, ...]
    place: Array
    strain: float
    misfits: Array

    @property
    def score(self) -> float:
        return score(self.loops, self.misfits, self.strain)


class PoseGraph:
    """Windows, the relations measured between them, and where they lie by the newest solve.

    Attributes:
        anchors: the first window of each submap.
        loops: every loop, in the order in which they came; each says whether it is believed, and why.
        map_window: window id to its place.

    """

    def __init__(self) -> None:
        """Begin with an empty graph."""
        self.anchors: list[int] = []
        self.loops: list[Loop] = []
        self.map_window: dict[int, Sim3] = {}
        self._overlaps: list[Edge] = []
        self._tree = OverlapTree()
        self._tree.inflation = _DOUBT
        self._row: dict[int, int] = {}
        self._submap: list[int] = []
        self._scale: dict[int, float] = {}  # row to the logarithm of its scale, where sources of meters have told
        self._solved = _Solved((), np.zeros((0, 4, 4)), 0.0, np.zeros(0))

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Every relation: kind `overlap`, `loop`, or `refused` for a loop that is not believed."""
        loops = (Edge(loop.first, loop.second, "loop" if loop.taken else "refused", loop.first_second, loop.covariance)
                 for loop in self.loops)
        return (*self._overlaps, *loops)

    def component(self, window: int) -> int:
        """Return the oldest of the submaps, 0, 1, ..., that overlaps and loops connect with a window's."""
        return self._components()[self._submap[self._row[window]]]

    def add_submap(self, window: int, map_window: Sim3) -> None:
        """Begin a submap with a window that lies at `map_window`; a loop may put it elsewhere later."""
        first = not self._row
        self.anchors.append(window)
        covariance = np.eye(7) * _PRIOR_SIGMA**2 if first else _UNKNOWN
        placed = to_matrix(map_window)
        relative = placed if first else inverse(self._tree.place[:1])[0] @ placed
        self._add(window, -1 if first else 0, relative, covariance, len(self.anchors) - 1)
        self.map_window[window] = map_window

    def restore(self, map_window: dict[int, Sim3], anchors: Sequence[int], edges: Sequence[Edge]) -> None:
        """Go on, in an empty graph, from where another one ended; windows in the order in which they came.

        Raises:
            ValueError: a window is neither an anchor nor hangs on one before it.

        """
        overlaps = {edge.second: edge for edge in edges if edge.kind == "overlap"}
        for window, place in map_window.items():
            if window in anchors:
                self.add_submap(window, place)
            elif window in overlaps and overlaps[window].first in self._row:
                edge = overlaps[window]
                self.add_window(window, edge.first, edge.first_second, edge.covariance)
            else:
                raise ValueError(f"window {window} of the graph hangs on nothing")
        for edge in edges:
            if edge.kind != "overlap":
                loop = self._loop(edge.first, edge.second, edge.first_second, edge.covariance)
                loop.taken, loop.reason = edge.kind == "loop", "so in the saved map"
        self._tree.move(np.array([to_matrix(place) for place in map_window.values()]).reshape(-1, 4, 4))
        self._decide(self._judged([loop for loop in self.loops if loop.taken], self._tree.place.copy()))

    def add_window(self, window: int, reference: int, reference_window: Sim3, covariance: Array) -> None:
        """Attach a window to a `reference` window of the graph.

        `covariance` (7, 7) is of the perturbation of `reference_window` on the right, [rotation, translation, log
        scale], in the new window's frame and units.
        """
        self._overlaps.append(Edge(reference, window, "overlap", reference_window, covariance))
        row = self._row[reference]
        self._add(window, row, to_matrix(reference_window), covariance, self._submap[row])
        self.map_window[window] = self.map_window[reference] @ reference_window

    def add_loop(self, first: int, second: int, first_second: Sim3, covariance: Array) -> Loop:
        """Relate two windows of the graph that see the same place; `covariance` as for `add_window`.

        The loop is taken or refused, and may turn out the other way when more loops come; see `loops`. One that
        connects two submaps moves the younger as a whole into the frame of the older.
        """
        loop = self._loop(first, second, first_second, covariance)
        taken = [other for other in self.loops if other.taken]
        if self.component(first) != self.component(second):
            self._join(loop)
            self._decide(self._solve([*taken, loop]))
            loop.reason = "joins two submaps"
            return loop
        squared_distance = float(surprise(self._tree, [loop], taken)[0])
        if squared_distance <= GATE:
            self._decide(self._reconsidered(self._solve([*taken, loop])))
        else:
            loop.reason = f"off by chi-square {squared_distance:.0f} of what the map leaves open"
            self._outvote(loop, taken)
        return loop

    def rescale(self, window: int, factor: float) -> None:
        """Make all that is connected with a window larger by `factor`, about the origin of the oldest submap in it.

        What is measured between windows is in their own units and stays; only their places change.
        """
        component, label = self.component(window), self._components()
        rows = np.flatnonzero(np.array(label)[self._submap] == component)
        stretch = np.diag([factor, factor, factor, 1.0])
        stretch[:3, 3] = (1 - factor) * self._tree.place[self._row[self.anchors[component]], :3, 3]
        self._scale |= {row: self._scale[row] + float(np.log(factor)) for row in rows.tolist() if row in self._scale}
        self._tree.shift(rows, stretch)
        self._decide(self._judged(self._solved.loops, self._tree.place.copy()))

    def observe_scale(self, log_scale: Mapping[int, float], pivot: Mapping[int, Array]) -> None:
        """Take it that a unit of each window is the exponential of what is given for it in map units.

        Given are all windows that are connected with each other. What the overlaps say of scale is corrected for good.
        The `pivot` (3,) of a window, in its own frame, stays where the one that it hangs on sees it; the oldest begins
        where it began. With loops, the scale is a prior of the windows in which they end.
        """
        self._scale |= {self._row[window]: log for window, log in log_scale.items()}
        scale = {self._row[window]: float(np.exp(log)) for window, log in log_scale.items()}
        parent = {self._row[edge.second]: self._row[edge.first] for edge in self._overlaps}
        fixed = {self._row[window]: point for window, point in pivot.items() if window in log_scale}
        self._tree.rechain(*(_rescaled(places, parent, scale, fixed)
                             for places in (self._tree.chained, self._tree.place)))
        for index, edge in enumerate(self._overlaps):
            if edge.second in log_scale:
                chained = self._tree.chained[[self._row[edge.first], self._row[edge.second]]]
                self._overlaps[index] = replace(edge, first_second=to_sim3(inverse(chained[:1]) @ chained[1:])[0])
        taken = self._solved.loops
        self._decide(self._reconsidered(self._solve(taken)) if taken else self._judged((), self._tree.place.copy()))

    def _loop(self, first: int, second: int, first_second: Sim3, covariance: Array) -> Loop:
        loop = Loop(len(self.loops), first, second, first_second, (covariance + covariance.T) / 2, self._row[first],
                    self._row[second])
        self.loops.append(loop)
        return loop

    # What the graph believes.

    def _outvote(self, loop: Loop, taken: list[Loop]) -> None:
        """Ask whether refused loops that agree with each other explain the map better than those taken now."""
        refused = [other for other in self.loops if not other.taken and other is not loop
                   and self.component(other.first) == self.component(other.second)]
        agreeing = group(self._tree, loop, refused)
        if len(agreeing) < 2:
            return
        chosen = agreeing + [other for other in group(self._tree, loop, taken) if other is not loop]
        if score(chosen, np.zeros(0), 0.0) <= self._solved.score:  # as good as it could get
            return
        found = self._without_contradicted(self._solve(chosen))
        if loop in found.loops and found.score > self._solved.score:
            found = self._reconsidered(found)
            if found.score > self._solved.score:
                self._decide(found)

    def _reconsidered(self, found: _Solved) -> _Solved:
        """Return a solution without the loops that it contradicts, and with those refused ones that now fit."""
        found = self._without_contradicted(found)
        tree_place = self._tree.place.copy()
        others = [loop for loop in self.loops if loop not in found.loops]
        near = [loop for loop, off in zip(others, misfit(found.place, others), strict=True) if off <= 10 * GATE]
        if not near:
            return found
        self._tree.move(found.place)
        fitting = [loop for loop, off in zip(near, surprise(self._tree, near, found.loops), strict=True)
                   if off <= GATE]
        if fitting:
            more = self._without_contradicted(self._solve([*found.loops, *fitting]))
            found = more if more.score > found.score else found
        self._tree.move(tree_place)
        return found

    def _without_contradicted(self, found: _Solved) -> _Solved:
        """Return a solution without the loops that stay unlikely in it, the worst first."""
        while len(found.loops):
            # Most loops are true: where even the median is off, loops are not as good as they say.
            limit = GATE * float(np.clip(np.median(found.misfits) / _MEDIAN, 1.0, _MAX_MISFIT))
            over = int((found.misfits > limit).sum())
            if not over:
                break
            worst = np.argsort(-found.misfits)[: max(1, over // 3)]
            found = self._solve([loop for row, loop in enumerate(found.loops) if row not in worst])
        return found

    def _decide(self, found: _Solved) -> None:
        """Make a solution the map."""
        for loop in self.loops:
            before, loop.taken = loop.taken, loop in found.loops
            if loop.taken:
                loop.reason = "agrees with the map"
            elif before:
                loop.reason = "contradicted by later loops"
        self._solved = found
        self._tree.move(found.place)
        # How far the loops had to bend the chain tells whether the overlaps' covariances are honest.
        bent = found.strain * self._tree.inflation + 7 * _DOUBT * _DOUBTED
        self._tree.inflation = float(np.clip(bent / (7 * (len(found.loops) + _DOUBTED)), 1.0, _MAX_INFLATION))
        self.map_window = dict(zip(self._row, to_sim3(found.place), strict=True))

    # Submaps.

    def _components(self) -> list[int]:
        """Return for each submap the oldest one that taken loops connect it with."""
        label = list(range(len(self.anchors)))
        for loop in self.loops:
            if loop.taken:
                low, high = sorted((label[self._submap[loop.first_row]], label[self._submap[loop.second_row]]))
                label = [low if value == high else value for value in label]
        return label

    def _join(self, loop: Loop) -> None:
        """Move the younger of two components to where a loop sees it."""
        label = self._components()
        place, matrix = self._tree.place, loop.matrix
        first, second = (label[self._submap[row]] for row in (loop.first_row, loop.second_row))
        if first < second:
            moved, row, target = second, loop.second_row, place[loop.first_row] @ matrix
        else:
            moved, row, target = first, loop.first_row, place[loop.second_row] @ inverse(matrix[None])[0]
        rows = np.flatnonzero(np.array(label)[self._submap] == moved)
        self._tree.shift(rows, target @ inverse(place[row, None])[0])

    # Solving.

    def _add(self, window: int, parent: int, parent_window: Array, covariance: Array, submap: int) -> None:
        self._row[window] = self._tree.add(parent, parent_window, (covariance + covariance.T) / 2)
        self._submap.append(submap)

    def _solve(self, loops: Sequence[Loop]) -> _Solved:
        """Return the least squares solution with a set of loops."""
        place = self._tree.place
        segments = self._tree.segments(np.concatenate(ends(loops)))
        graph, values = gtsam.NonlinearFactorGraph(), gtsam.Values()
        graph.add(gtsam.PriorFactorSimilarity3(0, _to_gtsam(place[0]),
                                               gtsam.noiseModel.Isotropic.Sigma(7, _PRIOR_SIGMA)))
        nodes = np.append(0, segments.below)
        for row in nodes.tolist():
            values.insert(row, _to_gtsam(place[row]))
            if row in self._scale:
                graph.add(_scale_prior(row, place[row], self._scale[row]))
        for first, second, matrix, covariance in zip(segments.above.tolist(), segments.below.tolist(),
                                                     segments.measured, segments.covariance, strict=True):
            graph.add(_between(first, second, matrix, covariance))
        for loop in loops:
            graph.add(_between(loop.first_row, loop.second_row, loop.matrix, loop.covariance))
        solver = gtsam.LevenbergMarquardtOptimizer(graph, values)
        # The Similarity3 factors leave out the Jacobian of Log, so a few more steps than Gauss-Newton needs.
        error = solver.error()
        for _ in range(12):
            solver.iterate()
            before, error = error, solver.error()
            if before - error <= 1e-4 * error + 1e-9:
                break
        estimate = solver.values()
        solved = np.array([_from_gtsam(estimate.atSimilarity3(row)) for row in nodes.tolist()])
        return self._judged(loops, self._tree.spread(nodes, solved))

    def _judged(self, loops: Sequence[Loop], place: Array) -> _Solved:
        """Return places (w, 4, 4) with what overlaps and a set of loops say of them."""
        segments = self._tree.segments(np.concatenate(ends(loops)))
        error = log(inverse(segments.measured) @ inverse(place[segments.above]) @ place[segments.below])
        strain = squared(error, segments.covariance).sum()
        return _Solved(tuple(loops), place, float(strain), misfit(place, loops))


def _rescaled(places: Array, parent: Mapping[int, int], scale: Mapping[int, float],
              pivot: Mapping[int, Array]) -> Array:
    """Return places (w, 4, 4) whose scale is that given for rows, each hung on its parent or on the first of them."""
    rescaled, first, size = places.copy(), min(scale), scales(places)
    rescaled[first, :3, :3] *= scale[first] / size[first]
    for row in sorted(scale.keys() - {first}):
        above = parent.get(row, first)
        relative = np.linalg.inv(places[above]) @ places[row]
        larger = scale[row] / scale[above] * (size[above] / size[row])
        relative[:3, 3] += (1 - larger) * relative[:3, :3] @ pivot.get(row, np.zeros(3))
        relative[:3, :3] *= larger
        rescaled[row] = rescaled[above] @ relative
        # Done again after every few windows, rounding errors would add up to shears.
        rescaled[row, :3, :3] = scale[row] * orthonormalize(rescaled[row, :3, :3])
    return rescaled


def _scale_prior(row: int, place: Array, log_scale: float) -> gtsam.NonlinearFactor:
    """Return a factor that says what the scale of a window is, and next to nothing of where it lies."""
    known = place.copy()
    known[:3, :3] *= np.exp(log_scale) / scales(place[None])[0]
    noise = gtsam.noiseModel.Diagonal.Sigmas(np.array([*[_ANYWHERE] * 6, _SIGMA_SCALE]))
    return gtsam.PriorFactorSimilarity3(row, _to_gtsam(known), noise)


def _between(first: int, second: int, matrix: Array, covariance: Array) -> gtsam.NonlinearFactor:
    noise = gtsam.noiseModel.Gaussian.Covariance((covariance + covariance.T) / 2)
    return gtsam.BetweenFactorSimilarity3(first, second, _to_gtsam(matrix), noise)


def _to_gtsam(matrix: Array) -> gtsam.Similarity3:
    scale = float(np.cbrt(np.linalg.det(matrix[:3, :3])))
    rotation = gtsam.Rot3(orthonormalize(matrix[:3, :3]))  # Rot3 takes any matrix, and keeps its faults
    return gtsam.Similarity3(rotation, matrix[:3, 3] / scale, scale)


def _from_gtsam(similarity: gtsam.Similarity3) -> Array:
    scale = float(similarity.scale())
    return to_matrix(Sim3(scale, similarity.rotation().matrix(), scale * np.asarray(similarity.translation())))
