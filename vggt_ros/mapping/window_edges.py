"""The pose graph seen as windows: with which window each node came, and by which nodes windows hang on each other."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from vggt_ros.pose_graph.graph import PoseGraph
from vggt_ros.windows.solution import Edge

_BENT = np.diag([0.0] * 6 + [0.009**2])
"""Covariance of how much of its scale a window is taken to have bent where the next one hangs on it."""


class WindowEdges:
    """The windows of a graph's nodes, which are numbered 0, 1, ...

    Attributes:
        window: of each node, in the order in which they came.

    """

    def __init__(self) -> None:
        """Begin without nodes."""
        self.window: list[int] = []
        self._borders: list[int] = []  # the nodes by which windows hang on others
        self._hung: set[int] = set()  # windows that do

    def add(self, window: int) -> int:
        """Number a new node that comes with a window."""
        self.window.append(window)
        return len(self.window) - 1

    def note(self, edge: Edge) -> None:
        """Note whether the second node of an overlap is the first of its window to hang on another one."""
        window = self.window[edge.second]
        if window != self.window[edge.first] and window not in self._hung:
            self._hung.add(window)
            self._borders.append(edge.second)

    def keep(self, nodes: Container[int]) -> None:
        """Forget the borders at all but the given nodes."""
        self._borders = [node for node in self._borders if node in nodes]
        self._hung = {self.window[node] for node in self._borders}

    def restore(self, nodes: Sequence[int], windows: Sequence[int], graph: PoseGraph) -> None:
        """Take over the windows of nodes from a saved map whose graph is restored."""
        self.window = np.full(max(nodes) + 1, -1).tolist()
        for node, window in zip(nodes, windows, strict=True):
            self.window[node] = window
        for edge in graph.edges:
            if edge.kind == "overlap":
                self.note(edge)

    def begins(self, nodes: Sequence[int]) -> NDArray[np.int64]:
        """Return for each node (n,) the row among them of the first one that came with its window."""
        rows: dict[int, int] = {}
        return np.array([rows.setdefault(self.window[node], row) for row, node in enumerate(nodes)], np.int64)

    def edges(self, graph: PoseGraph) -> Iterator[Edge]:
        """Yield the relations of windows: how each hangs on another one, and the loops between their nodes."""
        for edge in graph.overlaps(self._borders):
            yield Edge(self.window[edge.first], self.window[edge.second], "overlap", edge.first_second,
                       edge.covariance + _BENT)
        for loop in graph.loops:
            yield Edge(self.window[loop.first], self.window[loop.second], "loop" if loop.accepted else "refused",
                       loop.first_second, loop.covariance)
