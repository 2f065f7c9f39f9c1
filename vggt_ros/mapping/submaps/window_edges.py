"""The pose graph at the level of windows: the window of each node, and the edges between windows."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from vggt_ros.pose_graph.graph import PoseGraph
from vggt_ros.windows.solution import Edge

_DEFORMATION_COVARIANCE = np.diag([0.0] * 6 + [0.009**2])
"""Assumed covariance of the change of scale within a window, up to where the next window is attached to it."""


class WindowEdges:
    """The windows of a graph's nodes, which are numbered 0, 1, ...

    Attributes:
        window: of each node, in the order in which they came.

    """

    def __init__(self) -> None:
        """Begin without nodes."""
        self.window: list[int] = []
        self._attaching_nodes: list[int] = []  # the nodes by which windows are attached to others
        self._attached_windows: set[int] = set()

    def add_node(self, window: int) -> int:
        """Return the number of a new node that comes with a window."""
        self.window.append(window)
        return len(self.window) - 1

    def add_edge(self, edge: Edge) -> None:
        """Record an overlap if it attaches a window to another one, as the first that does."""
        window = self.window[edge.second]
        if window != self.window[edge.first] and window not in self._attached_windows:
            self._attached_windows.add(window)
            self._attaching_nodes.append(edge.second)

    def retain(self, nodes: Container[int]) -> None:
        """Forget the attaching nodes that are not among the given ones."""
        self._attaching_nodes = [node for node in self._attaching_nodes if node in nodes]
        self._attached_windows = {self.window[node] for node in self._attaching_nodes}

    def restore(self, nodes: Sequence[int], windows: Sequence[int], graph: PoseGraph) -> None:
        """Restore the windows of nodes from a saved map whose graph is restored."""
        self.window = np.full(max(nodes) + 1, -1).tolist()
        for node, window in zip(nodes, windows, strict=True):
            self.window[node] = window
        for edge in graph.edges:
            if edge.kind == "overlap":
                self.add_edge(edge)

    def first_rows(self, nodes: Sequence[int]) -> NDArray[np.int64]:
        """Return for each node (n,) the row among them of the first one of its window."""
        rows: dict[int, int] = {}
        return np.array([rows.setdefault(self.window[node], row) for row, node in enumerate(nodes)], np.int64)

    def edges(self, graph: PoseGraph) -> Iterator[Edge]:
        """Yield the edges between windows: the overlap that attaches each to another one, and the loops."""
        for edge in graph.overlap_edges(self._attaching_nodes):
            yield Edge(self.window[edge.first], self.window[edge.second], "overlap", edge.first_second,
                       edge.covariance + _DEFORMATION_COVARIANCE)
        for loop in graph.loops:
            yield Edge(self.window[loop.first], self.window[loop.second], "loop" if loop.accepted else "refused",
                       loop.first_second, loop.covariance)
