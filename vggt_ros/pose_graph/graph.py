"""The pose graph: one Sim(3) node per keyframe, chained by overlap factors, and corrected by the accepted loops.

Without loops, the pose of a node is the composition of the relative poses that windows measure along the tree. Relative
poses that two windows measure are fused, weighted by information. Which loops are accepted, and how they correct the
chain, is in `loop_selection.py`. A node is `map_node`: a camera, in units of the window that placed it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from vggt_ros.geometry.poses import Array, Sim3
from vggt_ros.geometry.sim3 import inverse, to_matrix, to_sim3
from vggt_ros.pose_graph.adjusted_poses import take_adjusted
from vggt_ros.pose_graph.consistency import CHI2_GATE, Loop
from vggt_ros.pose_graph.loop_selection import LoopSelection
from vggt_ros.pose_graph.optimization import GAUGE_SIGMA
from vggt_ros.pose_graph.planar import PlanarGround
from vggt_ros.pose_graph.plausibility import Drift, drift
from vggt_ros.pose_graph.scale_correction import rescaled
from vggt_ros.pose_graph.spanning_tree import SpanningTree
from vggt_ros.pose_graph.submaps import UNCONSTRAINED_COVARIANCE
from vggt_ros.windows.solution import Edge


class _NodePoses(Mapping[int, Sim3]):
    """The poses of nodes, converted to similarities on access."""

    def __init__(self, row: Mapping[int, int], tree: SpanningTree) -> None:
        self._row, self._tree = row, tree

    def __getitem__(self, node: int) -> Sim3:
        return to_sim3(self._tree.poses[self._row[node], None])[0]

    def __iter__(self) -> Iterator[int]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)


class PoseGraph:
    """Nodes, the factors between them, and the poses of the nodes by the newest solution."""

    def __init__(self, stride: int = 1, largest_drift: float = 0.1) -> None:
        """Begin empty; `stride` new nodes come with each window, and `largest_drift` is `loops.drift`."""
        self._selection = LoopSelection(stride, largest_drift)
        self._row: dict[int, int] = {}  # of each node in the tree
        self._node: list[int] = []  # of each row
        self._loop_count = 0

    @property
    def map_node(self) -> Mapping[int, Sim3]:
        """Node to its current pose."""
        return _NodePoses(self._row, self._selection.tree)

    @property
    def anchors(self) -> list[int]:
        """The first node of each submap."""
        return [self._node[row] for row in self._selection.submaps.anchor_row]

    @property
    def loops(self) -> list[Loop]:
        """The loops, in the order in which they came; each has whether it is accepted, and the reason."""
        return self._selection.loops

    @property
    def settled(self) -> int:
        """How many accepted loops were settled, that is, absorbed into the overlap factors."""
        return self._selection.settled

    @property
    def edges(self) -> tuple[Edge, ...]:
        """All factors: `overlap`, `loop`, `refused` for a rejected or pending loop, `break` where the chain broke."""
        loops = (Edge(loop.first, loop.second, "loop" if loop.accepted else "refused", loop.first_second,
                      loop.covariance) for loop in self.loops)
        submaps, anchor_rows = self._selection.submaps, set(self._selection.submaps.anchor_row)
        broken = (self._node[row]
                  for row, parent in zip(submaps.anchor_row, submaps.break_parent, strict=True) if parent >= 0)
        return (*self.overlap_edges(node for node, row in self._row.items() if row not in anchor_rows), *loops,
                *(replace(edge, kind="break") for edge in self.overlap_edges(broken)))

    def poses(self, nodes: Sequence[int]) -> Array:
        """Return the poses (n, 4, 4) of nodes, as matrices."""
        return self._selection.tree.poses[[self._row[node] for node in nodes]]

    def overlap_edges(self, nodes: Iterable[int]) -> list[Edge]:
        """Return the factors that attach nodes to their parents in the tree."""
        nodes, tree = list(nodes), self._selection.tree
        rows = np.array([self._row[node] for node in nodes], np.int64)
        relative, covariances = tree.parent_edges(rows)
        return [Edge(self._node[parent], node, "overlap", similarity, covariance)
                for parent, node, similarity, covariance
                in zip(tree.parent[rows].tolist(), nodes, to_sim3(relative), covariances, strict=True)]

    def component(self, node: int) -> int:
        """Return the oldest of the submaps, 0, 1, ..., that overlap factors and loops connect with a node's."""
        return self._selection.components[self._selection.submaps.of_row[self._row[node]]]

    def add_submap(self, node: int, map_node: Sim3, reference: int | None = None,
                   covariance: Array | None = None) -> None:
        """Begin a submap with a node at pose `map_node`; a loop may move it later.

        Where the chain broke at a `reference` node, `covariance` is that of the node's pose relative to it, as for
        `add_node`. Without it, the pose of the submap is unconstrained.
        """
        matrix = to_matrix(map_node)
        if not self._row:
            self._begin_submap(node, -1, matrix, np.eye(7) * GAUGE_SIGMA**2, -1)
            return
        parent = 0 if reference is None else self._row[reference]
        relative = inverse(self._selection.tree.poses[parent, None])[0] @ matrix
        if covariance is None:
            self._begin_submap(node, parent, relative, UNCONSTRAINED_COVARIANCE, -1)
        else:
            self._begin_submap(node, parent, relative, covariance, self._selection.submaps.of_row[parent])

    def expect_uncalibrated(self) -> None:
        """Expect the larger systematic errors of a camera without a calibration."""
        self._selection.expect_uncalibrated()

    def set_reach(self, anchor: int, node: int, radius: float) -> None:
        """Bound the pose of a submap, by its first node, where the camera was lost before it.

        It is within `radius` of `node`, the last one before, in units of this node. Loops that put it farther away are
        not accepted, unless they are of two stretches of the trajectory that agree.
        """
        self._selection.submaps.reach[self._selection.submaps.of_row[self._row[anchor]]] = self._row[node], radius

    def drift(self, first: int, second: int) -> Drift | None:
        """Return the drift to expect between two nodes; None if nothing constrains their relative pose."""
        selection = self._selection
        return drift(selection.tree, selection.submaps, selection.accepted, self._row[first], self._row[second])

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
        self._attach([edge.second for edge in overlaps], parents, *_stacked(overlaps))
        for parent in parents:
            self._selection.submaps.of_row.append(self._selection.submaps.of_row[parent])

    def merge(self, overlaps: Sequence[Edge], newer: bool = False) -> list[bool]:
        """Fuse second measurements of overlap factors, each at most once, weighted by information.

        Return which were fused: not those of nodes with another parent, nor those that contradict the factor in the
        graph. `newer` ones replace it.
        """
        anchor_rows, parent = set(self._selection.submaps.anchor_row), self._selection.tree.parent
        rows = [self._row[edge.second] for edge in overlaps]
        fused = np.array([row not in anchor_rows and parent[row] == self._row.get(edge.first)
                          for row, edge in zip(rows, overlaps, strict=True)], bool)
        if fused.any():
            own, (measured, covariance) = np.array(rows)[fused], (values[fused] for values in _stacked(overlaps))
            if newer:
                self._selection.tree.replace_edges(own, measured, covariance)
            else:
                fused[fused] = self._selection.tree.merge(own, measured, covariance, CHI2_GATE)
        return fused.tolist()

    def add_loop(self, first: int, second: int, first_second: Sim3, covariance: Array,
                 overlaps: Sequence[Edge] = (), images: int = 1) -> Loop:
        """Add a loop between two nodes of the graph that see the same place; `covariance` as for `add_node`.

        `overlaps` are relative poses of other nodes from the same joint reconstruction; they are merged if the loop is
        accepted as likely. `images` is how many images support the loop independently.

        The loop is accepted or rejected, which may change when more loops come; see `loops`. A loop that connects two
        submaps moves the younger as a whole into the frame of the older; later loops may move it again. If nothing else
        constrains their relative pose, the loop stays pending until another one is consistent with it.
        """
        loop = self._new_loop(first, second, first_second, covariance, images)
        if not self._selection.passes_gate(loop):
            self._selection.try_alternative(loop)
        elif loops := self._selection.loops_to_accept(loop):
            self.merge(overlaps)
            self._selection.accept(loops)
        return loop

    def apply_ground(self, ground: PlanarGround) -> None:
        """Solve with soft factors by the ground of a robot that drives on a plane; from now on, always."""
        self._selection.ground = ground
        self._selection.solve()

    def adjust(self, nodes: Sequence[int], poses: Array, loops: Sequence[Loop] = ()) -> bool:
        """Take the poses (n, 4, 4) of nodes by a bundle adjustment, if no loop is lost; see `take_adjusted`."""
        return take_adjusted(self._selection, np.array([self._row[node] for node in nodes], np.int64), poses, loops)

    def marginalize(self, nodes: Iterable[int]) -> list[Edge]:
        """Marginalize all nodes but the given ones and those that submaps, loops and branches need.

        The overlap factors between the remaining nodes are composed into one each, so the map does not change. Return
        the new factors.
        """
        reach = (self._node[row] for row, _ in self._selection.submaps.reach.values())
        needed = {*nodes, *self.anchors, *reach, *(node for loop in self.loops for node in (loop.first, loop.second))}
        old_parent = {node: self._node[parent]
                      for node, parent in zip(self._node, self._selection.tree.parent, strict=True)}
        kept = self._selection.marginalize(np.array(sorted(self._row[node] for node in needed), np.int64))
        self._node = [self._node[row] for row in kept]
        self._row = {node: row for row, node in enumerate(self._node)}
        anchors = set(self.anchors)
        parents = [self._node[parent] for parent in self._selection.tree.parent]
        return self.overlap_edges(node for node, parent in zip(self._node, parents, strict=True)
                                  if node not in anchors and old_parent[node] != parent)

    def rescale(self, node: int, factor: float) -> None:
        """Scale the connected component of a node by `factor`, about the origin of the oldest submap in it.

        Measurements between nodes are in the nodes' own units and stay; only the poses change.
        """
        selection, label = self._selection, self._selection.components
        component = label[selection.submaps.of_row[self._row[node]]]
        rows = np.flatnonzero(np.array(label)[selection.submaps.of_row] == component)
        scaling = np.diag([factor, factor, factor, 1.0])
        scaling[:3, 3] = (1 - factor) * selection.tree.poses[selection.submaps.anchor_row[component], :3, 3]
        selection.log_scale |= {row: selection.log_scale[row] + float(np.log(factor)) for row in rows.tolist()
                                if row in selection.log_scale}
        selection.tree.transform_rows(rows, scaling)
        selection.reevaluate()

    def set_scales(self, log_scale: Mapping[int, float], fixed_point: Mapping[int, Array]) -> None:
        """Set the scales of nodes, given the logarithm of the map units per unit of each, as known from metric sources.

        All nodes of a connected component have to be given. The scales of the overlap factors are corrected
        permanently. The `fixed_point` (3,) of a node, in its own frame, keeps its position in its parent's frame; the
        oldest node keeps its position in the map. With loops, the scales become priors on the nodes in which loops end.
        """
        selection, tree = self._selection, self._selection.tree
        row_log_scale = {self._row[node]: log for node, log in log_scale.items()}
        scale = {row: float(np.exp(log)) for row, log in row_log_scale.items()}
        anchor_rows = set(selection.submaps.anchor_row)
        parent = {row: above for row, above in enumerate(tree.parent.tolist()) if row not in anchor_rows}
        fixed = {self._row[node]: point for node, point in fixed_point.items() if node in log_scale}
        tree.replace_chain(*(rescaled(poses, parent, scale, fixed) for poses in (tree.chained_poses, tree.poses)))
        selection.log_scale |= row_log_scale
        selection.solve()

    def restore(self, map_node: dict[int, Sim3], anchors: Sequence[int], edges: Sequence[Edge]) -> None:
        """Restore an empty graph from the nodes, anchors and edges of another one; nodes in the order of their rows.

        Raises:
            ValueError: a node is neither an anchor nor attached to an earlier one.

        """
        overlaps = {edge.second: edge for edge in edges if edge.kind == "overlap"}
        breaks = {edge.second: edge for edge in edges if edge.kind == "break"}
        for node, pose in map_node.items():
            if node in breaks:
                parent = self._row[breaks[node].first]
                self._begin_submap(node, parent, to_matrix(breaks[node].first_second), breaks[node].covariance,
                                   self._selection.submaps.of_row[parent])
            elif node in anchors:
                self.add_submap(node, pose)
            elif node in overlaps and overlaps[node].first in self._row:
                self.add_nodes([overlaps[node]])
            else:
                raise ValueError(f"node {node} of the graph is neither an anchor nor attached to an earlier node")
        for edge in edges:
            if edge.kind in ("loop", "refused"):
                loop = self._new_loop(edge.first, edge.second, edge.first_second, edge.covariance)
                loop.accepted, loop.reason = edge.kind == "loop", "as in the saved map"
        self._selection.restore(np.array([to_matrix(pose) for pose in map_node.values()]).reshape(-1, 4, 4))

    def _attach(self, nodes: Sequence[int], parents: Sequence[int], measured: Array, covariance: Array) -> list[int]:
        """Add nodes to the tree and return their rows."""
        rows = self._selection.tree.add(parents, measured, (covariance + np.swapaxes(covariance, 1, 2)) / 2)
        self._row |= dict(zip(nodes, rows, strict=True))
        self._node += nodes
        return rows

    def _begin_submap(self, node: int, parent: int, relative: Array, covariance: Array, break_parent: int) -> None:
        """Begin a submap with a node attached to a row, -1 for the first; `break_parent` as in `Submaps`."""
        row, = self._attach([node], [parent], relative[None], covariance[None])
        self._selection.submaps.begin(row, break_parent)

    def _new_loop(self, first: int, second: int, first_second: Sim3, covariance: Array, images: int = 1) -> Loop:
        self._loop_count += 1
        loop = Loop(self._loop_count, first, second, first_second, (covariance + covariance.T) / 2, self._row[first],
                    self._row[second], images)
        self.loops.append(loop)
        return loop


def _stacked(edges: Sequence[Edge]) -> tuple[Array, Array]:
    """Return the similarities (n, 4, 4) and covariances (n, 7, 7) of edges."""
    return (np.array([to_matrix(edge.first_second) for edge in edges]).reshape(-1, 4, 4),
            np.array([edge.covariance for edge in edges]).reshape(-1, 7, 7))
