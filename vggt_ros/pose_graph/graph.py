"""The pose graph: one similarity a keyframe, chained by windows, bent by the loops that it believes.

Without loops a node lies where the steps of the windows put it; where two windows have the same step, they are averaged
by their information. Which loops are believed, and how they bend the chain, is `selection.py`.

A node is `map_node`: a camera, in units of the window that placed it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from vggt_ros.geometry.poses import Array, Sim3
from vggt_ros.geometry.sim3 import inverse, to_matrix, to_sim3
from vggt_ros.pose_graph.consistency import GATE, Loop
from vggt_ros.pose_graph.loop_selection import LoopSelection
from vggt_ros.pose_graph.optimization import GAUGE_SIGMA
from vggt_ros.pose_graph.scale_correction import rescaled
from vggt_ros.pose_graph.spanning_tree import SpanningTree
from vggt_ros.pose_graph.submaps import UNKNOWN
from vggt_ros.windows.solution import Edge


class _Places(Mapping[int, Sim3]):
    """Where nodes lie, as similarities made when they are asked for."""

    def __init__(self, row: Mapping[int, int], tree: SpanningTree) -> None:
        self._row, self._tree = row, tree

    def __getitem__(self, node: int) -> Sim3:
        return to_sim3(self._tree.place[self._row[node], None])[0]

    def __iter__(self) -> Iterator[int]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)


class PoseGraph:
    """Nodes, the relations measured between them, and where they lie by the newest solve."""

    def __init__(self, stride: int = 1) -> None:
        """Begin with an empty graph; `stride` nodes come with each window."""
        self._selection = LoopSelection(stride)
        self._row: dict[int, int] = {}  # of each node in the tree
        self._node: list[int] = []  # of each row
        self._named = 0  # loops so far

    @property
    def map_node(self) -> Mapping[int, Sim3]:
        """Node to its place, as it is now."""
        return _Places(self._row, self._selection.tree)

    @property
    def anchors(self) -> list[int]:
        """The first node of each submap."""
        return [self._node[row] for row in self._selection.submaps.anchor]

    @property
    def loops(self) -> list[Loop]:
        """The loops, in the order in which they came; each says whether it is believed, and why."""
        return self._selection.loops

    @property
    def settled(self) -> int:
        """How many loops were taken and are part of the overlaps now."""
        return self._selection.settled

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Every relation: kind `overlap`, `loop`, or `refused` for a loop that is not believed.

        Of kind `break` are those by which submaps hang where the chain broke.
        """
        loops = (
            Edge(loop.first, loop.second, "loop" if loop.accepted else "refused", loop.first_second, loop.covariance)
            for loop in self.loops
        )
        submaps = self._selection.submaps
        begin = set(submaps.anchor)
        broken = (self._node[row] for row, behind in zip(submaps.anchor, submaps.behind, strict=True) if behind >= 0)
        return (*self.overlaps(node for node, row in self._row.items() if row not in begin), *loops,
                *(replace(edge, kind="break") for edge in self.overlaps(broken)))

    def placed(self, nodes: Sequence[int]) -> Array:
        """Return the places (n, 4, 4) of nodes, as matrices."""
        return self._selection.tree.place[[self._row[node] for node in nodes]]

    def overlaps(self, nodes: Iterable[int]) -> list[Edge]:
        """Return the relations by which nodes hang on others."""
        nodes, tree = list(nodes), self._selection.tree
        rows = np.array([self._row[node] for node in nodes], np.int64)
        relations, covariances = tree.edges(rows)
        return [Edge(self._node[parent], node, "overlap", relation, covariance) for parent, node, relation, covariance
                in zip(tree.parent[rows].tolist(), nodes, to_sim3(relations), covariances, strict=True)]

    def component(self, node: int) -> int:
        """Return the oldest of the submaps, 0, 1, ..., that overlaps and loops connect with a node's."""
        return self._selection.connected[self._selection.submaps.of[self._row[node]]]

    def add_submap(self, node: int, map_node: Sim3, reference: int | None = None,
                   covariance: Array | None = None) -> None:
        """Begin a submap with a node that lies at `map_node`; a loop may put it elsewhere later.

        Where the chain broke at a `reference` node, `covariance` says how well the place is known all the same, as for
        `add_node`; without, nothing is taken to be known of it.
        """
        placed = to_matrix(map_node)
        if not self._row:
            self._begin(node, -1, placed, np.eye(7) * GAUGE_SIGMA**2, -1)
            return
        parent = 0 if reference is None else self._row[reference]
        relative = inverse(self._selection.tree.place[parent, None])[0] @ placed
        if covariance is None:
            self._begin(node, parent, relative, UNKNOWN, -1)
        else:
            self._begin(node, parent, relative, covariance, self._selection.submaps.of[parent])

    def add_node(self, node: int, reference: int, reference_node: Sim3, covariance: Array) -> None:
        """Attach a node to a `reference` node of the graph.

        `covariance` (7, 7) is of the perturbation of `reference_node` on the right, [rotation, translation, log
        scale], in the new node's frame and units.
        """
        self.add_nodes([Edge(reference, node, "overlap", reference_node, covariance)])

    def add_nodes(self, overlaps: Sequence[Edge]) -> None:
        """Attach the second node of each overlap to its first, which the graph has or which is attached before it."""
        first = len(self._node)
        new = {edge.second: first + i for i, edge in enumerate(overlaps)}
        parents = [new[edge.first] if edge.first in new else self._row[edge.first] for edge in overlaps]
        self._hang([edge.second for edge in overlaps], parents, *_stacked(overlaps))
        for parent in parents:
            self._selection.submaps.of.append(self._selection.submaps.of[parent])

    def merge(self, overlaps: Sequence[Edge]) -> list[bool]:
        """Take other measurements of how nodes, each at most once, hang on theirs.

        Both are averaged by their information. Return which were taken: not those of nodes that hang elsewhere, nor
        those that contradict what the graph has.
        """
        begin, parent = set(self._selection.submaps.anchor), self._selection.tree.parent
        rows = [self._row[edge.second] for edge in overlaps]
        taken = np.array([row not in begin and parent[row] == self._row.get(edge.first)
                          for row, edge in zip(rows, overlaps, strict=True)], bool)
        if taken.any():
            measured, covariance = _stacked(overlaps)
            taken[taken] = self._selection.tree.merge(np.array(rows)[taken], measured[taken], covariance[taken], GATE)
        return taken.tolist()

    def add_loop(self, first: int, second: int, first_second: Sim3, covariance: Array,
                 overlaps: Sequence[Edge] = (), images: int = 1) -> Loop:
        """Relate two nodes of the graph that see the same place; `covariance` as for `add_node`.

        `overlaps` are what was seen with it of how nodes hang on each other: merged if the loop is taken as likely.
        `images` is how many say so, each for itself.

        The loop is taken or refused, and may turn out the other way when more loops come; see `loops`. One that
        connects two submaps moves the younger as a whole into the frame of the older; later ones may move it again.
        Where nothing else tells how these lie, it waits for another one that agrees.
        """
        loop = self._note(first, second, first_second, covariance, images)
        if not self._selection.likely(loop):
            self._selection.outvote(loop)
        elif loops := self._selection.backed(loop):
            self.merge(overlaps)
            self._selection.take(loops)
        return loop

    def contract(self, nodes: Iterable[int]) -> list[Edge]:
        """Let go of all nodes but the given ones and those that submaps, loops and branches need.

        What lies between those left is composed into one relation each, so that the map does not change; the new
        relations are returned.
        """
        needed = {*nodes, *self.anchors, *(node for loop in self.loops for node in (loop.first, loop.second))}
        hung = {node: self._node[parent] for node, parent in zip(self._node, self._selection.tree.parent, strict=True)}
        kept = self._selection.contract(np.array(sorted(self._row[node] for node in needed), np.int64))
        self._node = [self._node[row] for row in kept]
        self._row = {node: row for row, node in enumerate(self._node)}
        begin = set(self.anchors)
        parents = [self._node[parent] for parent in self._selection.tree.parent]
        return self.overlaps(node for node, parent in zip(self._node, parents, strict=True)
                             if node not in begin and hung[node] != parent)

    def rescale(self, node: int, factor: float) -> None:
        """Make all that is connected with a node larger by `factor`, about the origin of the oldest submap in it.

        What is measured between nodes is in their own units and stays; only their places change.
        """
        selection, label = self._selection, self._selection.connected
        component = label[selection.submaps.of[self._row[node]]]
        rows = np.flatnonzero(np.array(label)[selection.submaps.of] == component)
        stretch = np.diag([factor, factor, factor, 1.0])
        stretch[:3, 3] = (1 - factor) * selection.tree.place[selection.submaps.anchor[component], :3, 3]
        selection.log_scale |= {row: selection.log_scale[row] + float(np.log(factor)) for row in rows.tolist()
                             if row in selection.log_scale}
        selection.tree.shift(rows, stretch)
        selection.stand()

    def observe_scale(self, log_scale: Mapping[int, float], pivot: Mapping[int, Array]) -> None:
        """Take it that a unit of each node is the exponential of what is given for it in map units.

        Given are all nodes that are connected with each other. What the overlaps say of scale is corrected for good.
        The `pivot` (3,) of a node, in its own frame, stays where the one that it hangs on sees it; the oldest begins
        where it began. With loops, the scale is a prior of the nodes in which they end.
        """
        selection, tree = self._selection, self._selection.tree
        told = {self._row[node]: log for node, log in log_scale.items()}
        scale = {row: float(np.exp(log)) for row, log in told.items()}
        begin = set(selection.submaps.anchor)
        parent = {row: above for row, above in enumerate(tree.parent.tolist()) if row not in begin}
        fixed = {self._row[node]: point for node, point in pivot.items() if node in log_scale}
        tree.rechain(*(rescaled(places, parent, scale, fixed) for places in (tree.chained, tree.place)))
        selection.log_scale |= told
        selection.solve()

    def restore(self, map_node: dict[int, Sim3], anchors: Sequence[int], edges: Sequence[Edge]) -> None:
        """Go on, in an empty graph, from where another one ended; nodes in the order in which they came.

        Raises:
            ValueError: a node is neither an anchor nor hangs on one before it.

        """
        overlaps = {edge.second: edge for edge in edges if edge.kind == "overlap"}
        breaks = {edge.second: edge for edge in edges if edge.kind == "break"}
        for node, place in map_node.items():
            if node in breaks:
                parent = self._row[breaks[node].first]
                self._begin(node, parent, to_matrix(breaks[node].first_second), breaks[node].covariance,
                            self._selection.submaps.of[parent])
            elif node in anchors:
                self.add_submap(node, place)
            elif node in overlaps and overlaps[node].first in self._row:
                self.add_nodes([overlaps[node]])
            else:
                raise ValueError(f"node {node} of the graph hangs on nothing")
        for edge in edges:
            if edge.kind in ("loop", "refused"):
                loop = self._note(edge.first, edge.second, edge.first_second, edge.covariance)
                loop.accepted, loop.reason = edge.kind == "loop", "so in the saved map"
        self._selection.restore(np.array([to_matrix(place) for place in map_node.values()]).reshape(-1, 4, 4))

    def _hang(self, nodes: Sequence[int], parents: Sequence[int], measured: Array, covariance: Array) -> list[int]:
        """Add nodes to the tree and return their rows."""
        rows = self._selection.tree.add(parents, measured, (covariance + np.swapaxes(covariance, 1, 2)) / 2)
        self._row |= dict(zip(nodes, rows, strict=True))
        self._node += nodes
        return rows

    def _begin(self, node: int, parent: int, relation: Array, covariance: Array, behind: int) -> None:
        """Begin a submap with a node that hangs on a row, -1 for the first; `behind` as in `Submaps`."""
        row, = self._hang([node], [parent], relation[None], covariance[None])
        self._selection.submaps.begin(row, behind)

    def _note(self, first: int, second: int, first_second: Sim3, covariance: Array, images: int = 1) -> Loop:
        self._named += 1
        loop = Loop(self._named, first, second, first_second, (covariance + covariance.T) / 2, self._row[first],
                    self._row[second], images)
        self.loops.append(loop)
        return loop


def _stacked(edges: Sequence[Edge]) -> tuple[Array, Array]:
    """Return the relations (n, 4, 4) and covariances (n, 7, 7) of edges."""
    return (np.array([to_matrix(edge.first_second) for edge in edges]).reshape(-1, 4, 4),
            np.array([edge.covariance for edge in edges]).reshape(-1, 7, 7))
