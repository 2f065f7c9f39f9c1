"""The pose graph: one similarity a keyframe, chained by windows, bent by the loops that it believes.

Without loops a node lies where the steps of the windows put it; where two windows have the same step, they are averaged
by their information. With loops, only the nodes in which loops end are solved, with the steps between them composed
into one each, and the nodes between take their share of the correction in proportion to the uncertainty that has
accumulated up to them: windows bend. So the solve grows with the loops, not with the windows.

A node is `map_node`: a camera, in units of the window that placed it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vggt_ros.consensus import GATE, Loop, ends, group, misfit, pieces, score, squared, surprise
from vggt_ros.geometry import Array, Sim3
from vggt_ros.least_squares import GAUGE_SIGMA, solve
from vggt_ros.overlap_tree import OverlapTree
from vggt_ros.scale_correction import rescaled
from vggt_ros.similarities import exp, inverse, log, normalized, to_matrix, to_sim3
from vggt_ros.solution import Edge
from vggt_ros.submaps import assembled, connected

_UNKNOWN = np.diag([3.0] * 3 + [1e3] * 3 + [2.0]) ** 2
"""Covariance of where a submap lies in the map if nothing tells: nearly nothing is known."""
_DOUBT, _DOUBTED, _MAX_INFLATION = 4.0, 2, 1000.0
"""By how much the covariances of overlaps are taken to be too small before loops tell, the number of loops that this
belief is worth, and the most that it may become."""
_MOST_LOOPS = 100
"""Most loops that are solved for: with more, the overlaps take over what the oldest quarter of them says."""
_SETTLED = 0.1
"""How much of their covariance is left to the overlaps that oldest loops have corrected."""
_MEDIAN, _MAX_MISFIT = 6.35, 9.0
"""The median of chi-square with 7 degrees of freedom; how much worse than they say loops may be."""


@dataclass(frozen=True, eq=False)
class _Solved:
    """What becomes of the map with a set of loops: places (w, 4, 4), chi-square of overlaps and of each loop.

    That of the places at which the chain broke is `broken`: unlike the overlaps', their covariances are not in doubt.
    """

    loops: tuple[Loop, ...]
    place: Array
    strain: float
    misfits: Array
    stride: int = 1
    broken: float = 0.0

    @property
    def score(self) -> float:
        return score(self.loops, self.misfits, self.strain, self.stride) - self.broken


class _Places(Mapping[int, Sim3]):
    """Where nodes lie, as similarities made when they are asked for."""

    def __init__(self, row: Mapping[int, int], tree: OverlapTree) -> None:
        self._row, self._tree = row, tree

    def __getitem__(self, node: int) -> Sim3:
        return to_sim3(self._tree.place[self._row[node], None])[0]

    def __iter__(self) -> Iterator[int]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)


class PoseGraph:
    """Nodes, the relations measured between them, and where they lie by the newest solve.

    Attributes:
        anchors: the first node of each submap.
        loops: the loops, in the order in which they came; each says whether it is believed, and why.
        settled: how many were taken and are part of the overlaps now.

    """

    def __init__(self, stride: int = 1) -> None:
        """Begin with an empty graph; `stride` nodes come with each window."""
        self._stride = stride
        self.anchors: list[int] = []
        self.loops: list[Loop] = []
        self.settled = 0
        self._named, self._eased = 0, 0  # loops so far; the newest row that one of those settled had corrected
        self._overlaps: dict[int, Edge] = {}  # of each node, the one by which it hangs on another
        self._tree = OverlapTree()
        self._tree.inflation = _DOUBT
        self._doubt, self._doubted, self._counted = _DOUBT, _DOUBTED, 0  # belief of before, its worth, loops in it
        self._row: dict[int, int] = {}
        self._submap: list[int] = []
        self._behind: list[int] = []  # of each submap, the one at which the chain broke; -1 where nothing tells
        self._scale: dict[int, float] = {}  # row to the logarithm of its scale, where sources of meters have told
        self._solved = _Solved((), np.zeros((0, 4, 4)), 0.0, np.zeros(0))

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Every relation: kind `overlap`, `loop`, or `refused` for a loop that is not believed."""
        loops = (Edge(loop.first, loop.second, "loop" if loop.taken else "refused", loop.first_second, loop.covariance)
                 for loop in self.loops)
        return (*self._overlaps.values(), *loops)

    @property
    def map_node(self) -> Mapping[int, Sim3]:
        """Node to its place, as it is now."""
        return _Places(self._row, self._tree)

    def placed(self, nodes: Sequence[int]) -> Array:
        """Return the places (n, 4, 4) of nodes, as matrices."""
        return self._tree.place[[self._row[node] for node in nodes]]

    def overlap(self, node: int) -> Edge:
        """Return the relation by which a node hangs on another one; KeyError if it begins a submap."""
        return self._overlaps[node]

    def component(self, node: int) -> int:
        """Return the oldest of the submaps, 0, 1, ..., that overlaps and loops connect with a node's."""
        return self._connected(self._taken)[self._submap[self._row[node]]]

    def add_submap(self, node: int, map_node: Sim3, reference: int | None = None,
                   covariance: Array | None = None) -> None:
        """Begin a submap with a node that lies at `map_node`; a loop may put it elsewhere later.

        Where the chain broke at a `reference` node, `covariance` says how well the place is known all the same, as for
        `add_node`; without, nothing is taken to be known of it.
        """
        first = not self._row
        parent = 0 if reference is None else self._row[reference]
        self.anchors.append(node)
        self._behind.append(-1 if covariance is None else self._submap[parent])
        if covariance is None:
            covariance = np.eye(7) * GAUGE_SIGMA**2 if first else _UNKNOWN
        placed = to_matrix(map_node)
        relative = placed if first else inverse(self._tree.place[parent, None])[0] @ placed
        self._add(node, -1 if first else parent, relative, covariance, len(self.anchors) - 1)

    def restore(self, map_node: dict[int, Sim3], anchors: Sequence[int], edges: Sequence[Edge]) -> None:
        """Go on, in an empty graph, from where another one ended; nodes in the order in which they came.

        Raises:
            ValueError: a node is neither an anchor nor hangs on one before it.

        """
        overlaps = {edge.second: edge for edge in edges if edge.kind == "overlap"}
        for node, place in map_node.items():
            if node in anchors:
                self.add_submap(node, place)
            elif node in overlaps and overlaps[node].first in self._row:
                edge = overlaps[node]
                self.add_node(node, edge.first, edge.first_second, edge.covariance)
            else:
                raise ValueError(f"node {node} of the graph hangs on nothing")
        for edge in edges:
            if edge.kind != "overlap":
                loop = self._loop(edge.first, edge.second, edge.first_second, edge.covariance)
                loop.taken, loop.reason = edge.kind == "loop", "so in the saved map"
        self._tree.move(np.array([to_matrix(place) for place in map_node.values()]).reshape(-1, 4, 4))
        self._decide(self._judged([loop for loop in self.loops if loop.taken], self._tree.place.copy()))

    def add_node(self, node: int, reference: int, reference_node: Sim3, covariance: Array) -> None:
        """Attach a node to a `reference` node of the graph.

        `covariance` (7, 7) is of the perturbation of `reference_node` on the right, [rotation, translation, log
        scale], in the new node's frame and units.
        """
        self._overlaps[node] = Edge(reference, node, "overlap", reference_node, covariance)
        row = self._row[reference]
        self._add(node, row, to_matrix(reference_node), covariance, self._submap[row])

    def merge(self, node: int, reference: int, reference_node: Sim3, covariance: Array) -> bool:
        """Take another measurement of how a node hangs on a `reference`; arguments as for `add_node`.

        Both are averaged by their information. Return False if the graph does not hang the node there, or if they
        contradict each other.
        """
        before = self._overlaps.get(node)
        if before is None or before.first != reference:
            return False
        known = to_matrix(before.first_second)
        off = log(to_matrix(before.first_second.inverse() @ reference_node)[None])[0]
        gain = np.linalg.solve(before.covariance + covariance, np.column_stack([before.covariance, off]))
        if off @ gain[:, 7] > GATE:
            return False
        merged = normalized((known @ exp((before.covariance @ gain[:, 7])[None])[0])[None])
        left = before.covariance - before.covariance @ gain[:, :7]
        left = (left + left.T) / 2
        self._overlaps[node] = Edge(reference, node, "overlap", to_sim3(merged)[0], left)
        self._tree.revise(self._row[node], merged[0], left)
        return True

    def add_loop(self, first: int, second: int, first_second: Sim3, covariance: Array,
                 overlaps: Sequence[Edge] = ()) -> Loop:
        """Relate two nodes of the graph that see the same place; `covariance` as for `add_node`.

        `overlaps` are what was seen with it of how nodes hang on each other: merged if the loop is likely.

        The loop is taken or refused, and may turn out the other way when more loops come; see `loops`. One that
        connects two submaps moves the younger as a whole into the frame of the older; later ones may move it again.
        """
        loop = self._loop(first, second, first_second, covariance)
        taken = self._taken
        squared_distance = float(surprise(self._tree, [loop], taken)[0])
        if squared_distance <= GATE:
            joins = self.component(first) != self.component(second)
            if joins:
                self._join(loop)
            self._merge(overlaps)
            self._decide(self._reconsidered(self._solve([*taken, loop])))
            self._settle()
            if joins and loop.taken:
                loop.reason = "joins two submaps"
        else:
            loop.reason = f"off by chi-square {squared_distance:.0f} of what the map leaves open"
            self._outvote(loop, taken)
        return loop

    def contract(self, nodes: Iterable[int]) -> list[Edge]:
        """Let go of all nodes but the given ones and those that submaps, loops and branches need.

        What lies between those left is composed into one relation each, so that the map does not change; the new
        relations are returned.
        """
        needed = {*nodes, *self.anchors, *(node for loop in self.loops for node in (loop.first, loop.second))}
        names, before = list(self._row), self._tree.place
        self._tree, left = self._tree.contracted(np.array(sorted(self._row[node] for node in needed), np.int64))
        kept = [0, *left.below.tolist()]
        row = dict(zip(kept, range(len(kept)), strict=True))
        self._row = {names[old]: new for old, new in row.items()}
        self._submap = [self._submap[old] for old in kept]
        self._scale = {row[old]: log for old, log in self._scale.items() if old in row}
        self._eased = int(np.searchsorted(kept, self._eased, side="right")) - 1
        self._solved = replace(self._solved, place=before[kept])
        for loop in self.loops:
            loop.first_row, loop.second_row = self._row[loop.first], self._row[loop.second]
        known = {node: edge for node, edge in self._overlaps.items() if node in self._row}
        made = [Edge(names[above], names[below], "overlap", relation, covariance) for above, below, relation, covariance
                in zip(left.above.tolist(), left.below.tolist(), to_sim3(left.measured), left.covariance, strict=True)
                if names[below] in known and known[names[below]].first != names[above]]
        self._overlaps = known | {edge.second: edge for edge in made}
        return made

    def rescale(self, node: int, factor: float) -> None:
        """Make all that is connected with a node larger by `factor`, about the origin of the oldest submap in it.

        What is measured between nodes is in their own units and stays; only their places change.
        """
        label = self._connected(self._taken)
        component = label[self._submap[self._row[node]]]
        rows = np.flatnonzero(np.array(label)[self._submap] == component)
        stretch = np.diag([factor, factor, factor, 1.0])
        stretch[:3, 3] = (1 - factor) * self._tree.place[self._row[self.anchors[component]], :3, 3]
        self._scale |= {row: self._scale[row] + float(np.log(factor)) for row in rows.tolist() if row in self._scale}
        self._tree.shift(rows, stretch)
        self._decide(self._judged(self._solved.loops, self._tree.place.copy()))

    def observe_scale(self, log_scale: Mapping[int, float], pivot: Mapping[int, Array]) -> None:
        """Take it that a unit of each node is the exponential of what is given for it in map units.

        Given are all nodes that are connected with each other. What the overlaps say of scale is corrected for good.
        The `pivot` (3,) of a node, in its own frame, stays where the one that it hangs on sees it; the oldest begins
        where it began. With loops, the scale is a prior of the nodes in which they end.
        """
        self._scale |= {self._row[node]: log for node, log in log_scale.items()}
        scale = {self._row[node]: float(np.exp(log)) for node, log in log_scale.items()}
        parent = {self._row[edge.second]: self._row[edge.first] for edge in self._overlaps.values()}
        fixed = {self._row[node]: point for node, point in pivot.items() if node in log_scale}
        self._tree.rechain(*(rescaled(places, parent, scale, fixed)
                             for places in (self._tree.chained, self._tree.place)))
        self._retell(edge for edge in self._overlaps.values() if edge.second in log_scale)
        taken = self._solved.loops
        self._decide(self._reconsidered(self._solve(taken)) if taken else self._judged((), self._tree.place.copy()))

    def _merge(self, overlaps: Sequence[Edge]) -> None:
        for edge in overlaps:
            self.merge(edge.second, edge.first, edge.first_second, edge.covariance)

    def _loop(self, first: int, second: int, first_second: Sim3, covariance: Array) -> Loop:
        self._named += 1
        loop = Loop(self._named, first, second, first_second, (covariance + covariance.T) / 2, self._row[first],
                    self._row[second])
        self.loops.append(loop)
        return loop

    # What the graph believes.

    def _outvote(self, loop: Loop, taken: list[Loop]) -> None:
        """Ask whether refused loops that agree with each other explain the map better than those taken now.

        Between two submaps that nothing connects yet, such loops speak against the place at which the chain broke:
        for that it takes two independent pieces of evidence. Where loops have joined submaps, even a single one may be
        a better hypothesis of how they lie.
        """
        label = self._connected(taken)
        here = {label[self._submap[row]] for row in (loop.first_row, loop.second_row)}
        refused = [other for other in self.loops if not other.taken and other is not loop
                   and {label[self._submap[row]] for row in (other.first_row, other.second_row)} <= here]
        agreeing = group(self._tree, loop, refused)
        within = self._submap[loop.first_row] == self._submap[loop.second_row]
        if (len(agreeing) < 2 and within) or (len(here) > 1 and pieces(agreeing, self._stride) < 2):
            return
        chosen = agreeing + [other for other in group(self._tree, loop, taken) if other is not loop]
        if score(chosen, np.zeros(0), 0.0, self._stride) <= self._solved.score:  # as good as it could get
            return
        before = self._cast_off(max(here)) if len(here) > 1 else None
        start = None if within else assembled(self._tree.place, self._submap, range(len(self.anchors)), chosen)
        found = self._without_contradicted(self._solve(chosen, start))
        if loop in found.loops and found.score > self._solved.score:
            found = self._reconsidered(found)
        if loop in found.loops and found.score > self._solved.score:
            self._decide(found)
        elif before is not None:
            self._tree.revise(*before)

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
        bent = found.strain * self._tree.inflation + 7 * self._doubt * self._doubted
        count = max(0, len(found.loops) - self._counted) + self._doubted
        self._tree.inflation = float(np.clip(bent / (7 * count), 1.0, _MAX_INFLATION))

    def _settle(self) -> None:
        """Let the overlaps take over what the oldest loops say, and forget old refused ones, lest the solve grow.

        Overlaps that such loops have corrected are more certain from then on, so that later loops bend what is newer.
        How much too small the other covariances are, as all loops told so far, stays believed.
        """
        taken = self._solved.loops
        within = [loop for loop in taken if self._submap[loop.first_row] == self._submap[loop.second_row]]
        if len(within) <= _MOST_LOOPS:
            return
        settled = sorted(within, key=lambda loop: loop.id)[: _MOST_LOOPS // 4]
        refused = [loop for loop in self.loops if not loop.taken][: -_MOST_LOOPS]
        gone = {loop.id for loop in (*settled, *refused)}
        left = tuple(loop for loop in taken if loop.id not in gone)
        self.loops = [loop for loop in self.loops if loop.id not in gone]
        self.settled += len(settled)
        self._doubt, self._doubted = self._tree.inflation, min(_MOST_LOOPS, self._doubted + len(taken) - self._counted)
        self._counted = len(left)
        newest = max(max(loop.first_row, loop.second_row) for loop in settled)
        self._tree.ease(np.arange(self._eased + 1, newest + 1), _SETTLED)
        self._overlaps |= {edge.second: replace(edge, covariance=_SETTLED * edge.covariance)
                           for edge in self._overlaps.values() if self._eased < self._row[edge.second] <= newest}
        self._eased = max(self._eased, newest)
        self._tree.rechain(self._tree.place.copy(), self._tree.place.copy())
        self._retell(self._overlaps.values())
        self._decide(self._judged(left, self._tree.place.copy()))

    def _retell(self, edges: Iterable[Edge]) -> None:
        """Let overlaps say where the tree has their nodes now."""
        edges = list(edges)
        first, second = ([self._row[node] for node in nodes] for nodes in
                         ([edge.first for edge in edges], [edge.second for edge in edges]))
        relations = to_sim3(inverse(self._tree.chained[first]) @ self._tree.chained[second])
        self._overlaps |= {edge.second: replace(edge, first_second=relation)
                           for edge, relation in zip(edges, relations, strict=True)}

    # Submaps.

    @property
    def _taken(self) -> list[Loop]:
        return [loop for loop in self.loops if loop.taken]

    def _connected(self, loops: Iterable[Loop]) -> list[int]:
        """Return for each submap the oldest one that loops connect it with."""
        return connected(len(self.anchors), self._submap, loops)

    def _join(self, loop: Loop) -> None:
        """Move the younger of two components to where a loop sees it."""
        label = self._connected(self._taken)
        place = assembled(self._tree.place, self._submap, label, [loop])
        younger = max(label[self._submap[row]] for row in (loop.first_row, loop.second_row))
        if self._behind[younger] >= 0:  # the place at which the chain broke goes on to speak
            self._tree.move(place)
            return
        moved = [value == younger for value in label]
        for submap, behind in enumerate(self._behind):
            moved[submap] = moved[submap] or (label[submap] == submap and behind >= 0 and moved[behind])
        rows, one = np.flatnonzero(np.array(moved)[self._submap]), self._row[self.anchors[younger]]
        self._tree.shift(rows, place[one] @ inverse(self._tree.place[one, None])[0])

    def _cast_off(self, submap: int) -> tuple[int, Array, Array]:
        """Forget the place at which the chain broke before a submap; return what `OverlapTree.revise` brings back."""
        row = self._row[self.anchors[submap]]
        before = (row, *self._tree.edge(row))
        self._tree.revise(row, before[1], _UNKNOWN)
        return before

    # Solving.

    def _add(self, node: int, parent: int, parent_node: Array, covariance: Array, submap: int) -> None:
        self._row[node] = self._tree.add(parent, parent_node, (covariance + covariance.T) / 2)
        self._submap.append(submap)

    def _solve(self, loops: Sequence[Loop], start: Array | None = None) -> _Solved:
        """Return the least squares solution with a set of loops, from places (w, 4, 4) to `start` with."""
        start = self._tree.place if start is None else start
        segments = self._tree.segments(np.concatenate(ends(loops)))
        nodes = np.append(0, segments.below)
        first, second = (np.append(*both) for both in zip((segments.above, segments.below), ends(loops), strict=True))
        measured = np.array([*segments.measured, *(loop.matrix for loop in loops)]).reshape(-1, 4, 4)
        covariance = np.array([*segments.covariance, *(loop.covariance for loop in loops)]).reshape(-1, 7, 7)
        solved = solve(nodes, start[nodes], first, second, measured, covariance, self._scale)
        return self._judged(loops, self._tree.spread(nodes, solved))

    def _judged(self, loops: Sequence[Loop], place: Array) -> _Solved:
        """Return places (w, 4, 4) with what overlaps and a set of loops say of them."""
        segments = self._tree.segments(np.concatenate(ends(loops)))
        error = log(inverse(segments.measured) @ inverse(place[segments.above]) @ place[segments.below])
        strain, submap = squared(error, segments.covariance), np.array(self._submap, np.int64)
        within = submap[segments.above] == submap[segments.below]
        return _Solved(tuple(loops), place, float(strain[within].sum()), misfit(place, loops), self._stride,
                       float(strain[~within].sum()))
