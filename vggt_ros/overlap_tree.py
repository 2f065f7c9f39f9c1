"""The nodes of the graph, which are keyframes, as windows chain them: where each lies, and how uncertain that is.

Every node hangs on one before it, so overlaps form a tree, nearly always a chain. Errors are taken as
perturbations on the left, in the map's frame: there the error of a node is the sum of the errors of the overlaps
between it and the root, and the covariance of two nodes is that of their last common ancestor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry import Array
from vggt_ros.similarities import exp, inverse, log, normalized, transported

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Segments:
    """Stretches of overlaps, each composed into one.

    Attributes:
        above, below: (n,), the rows at the ends, each `below` ascending and once.
        measured: (n, 4, 4), what the overlaps say of `below` in `above`.
        covariance: (n, 7, 7), of its perturbation on the right.

    """

    above: Index
    below: Index
    measured: Array
    covariance: Array


class OverlapTree:
    """Nodes in rows 0, 1, ..., each after the row that it hangs on.

    Attributes:
        chained: (n, 4, 4), where overlaps alone put the nodes.
        place: (n, 4, 4), where they lie by the newest solve.
        inflation: by what the covariances of overlaps are multiplied, as the loops tell.

    """

    def __init__(self) -> None:
        """Begin empty."""
        self._count = 0
        self._chained, self._place = np.zeros((16, 4, 4)), np.zeros((16, 4, 4))
        self._edge, self._covariance = np.zeros((16, 7, 7)), np.zeros((16, 7, 7))
        self._branch, self._parent = np.zeros(16, np.int64), np.zeros(16, np.int64)
        self.inflation = 1.0
        self._tips: list[int] = []
        self._stems: list[int] = []

    def __len__(self) -> int:
        """Return the number of nodes."""
        return self._count

    @property
    def chained(self) -> Array:
        """Where overlaps alone put the nodes."""
        return self._chained[: self._count]

    @property
    def place(self) -> Array:
        """Where the nodes lie by the newest solve."""
        return self._place[: self._count]

    @property
    def branch(self) -> Index:
        """The branch of each row: within one, every row hangs on the row of that branch before it."""
        return self._branch[: self._count]

    @property
    def stems(self) -> Index:
        """The row that each branch hangs on; -1 for the first."""
        return np.array(self._stems, np.int64)

    def covariance(self, rows: Index) -> Array:
        """Return the covariance (..., 7, 7) of rows' places by the overlaps, of perturbations on the left."""
        return self.inflation * self._covariance[rows]

    def edge(self, row: int) -> tuple[Array, Array]:
        """Return how a row hangs on its own, (4, 4), and the covariance (7, 7) of its perturbation on the right."""
        return (inverse(self._chained[self._parent[row], None])[0] @ self._chained[row], self._edge[row].copy())

    def add(self, parent: int, parent_node: Array, covariance: Array) -> int:
        """Hang a node on a row, -1 for the first; return its row.

        `covariance` (7, 7) is of the perturbation of `parent_node` (4, 4) on the right.
        """
        row = self._count
        if row == len(self._branch):
            self._grow()
        self._count += 1
        above = np.stack([self._chained[parent], self._place[parent]]) if row else np.stack([np.eye(4)] * 2)
        self._chained[row], self._place[row] = normalized(above @ parent_node)
        self._edge[row], self._parent[row] = covariance, parent
        self._covariance[row] = transported(covariance[None], self._place[row, None])[0]
        if row:
            self._covariance[row] += self._covariance[parent]
        branch = int(self._branch[parent]) if row else -1
        if branch < 0 or self._tips[branch] != parent:
            branch = len(self._tips)
            self._tips.append(row)
            self._stems.append(parent)
        self._tips[branch], self._branch[row] = row, branch
        return row

    def revise(self, row: int, parent_node: Array, covariance: Array) -> None:
        """Measure again how a row hangs on its own; what hangs on it goes along. Arguments as for `add`."""
        rows = np.arange(row, self._count)
        rows = rows[self.ancestor(np.full_like(rows, row), rows) == row]
        ends = np.stack([self._chained[row], self._place[row]])
        back = inverse(ends)
        shift = ends @ (back[0] @ self._chained[self._parent[row]] @ parent_node) @ back
        moved = shift[:, None] @ np.stack([self._chained[rows], self._place[rows]])
        self._chained[rows], self._place[rows] = normalized(moved.reshape(-1, 4, 4)).reshape(moved.shape)
        self._edge[row] = covariance
        edges = transported(self._edge[rows], self._place[rows])
        for each, edge in zip(rows.tolist(), edges, strict=True):
            self._covariance[each] = self._covariance[self._parent[each]] + edge

    def move(self, place: Array) -> None:
        """Take new places (n, 4, 4), and turn the covariances with them."""
        self._place[: self._count] = normalized(place)
        edges = transported(self._edge[: self._count], place)
        for branch, stem in enumerate(self._stems):
            rows = np.flatnonzero(self.branch == branch)
            self._covariance[rows] = np.cumsum(edges[rows], axis=0) + (self._covariance[stem] if stem >= 0 else 0.0)

    def rechain(self, chained: Array, place: Array) -> None:
        """Take what the overlaps say anew: where they put the windows (n, 4, 4), and where those are to lie."""
        self._chained[: self._count] = chained
        self.move(place)

    def ease(self, rows: Index, factor: float) -> None:
        """Multiply the covariances by which `rows` hang on theirs; `move` then takes it up."""
        self._edge[rows] *= factor

    def shift(self, rows: Index, transform: Array) -> None:
        """Move whole submaps, all their `rows`, rigidly by a similarity (4, 4) of the map."""
        self._chained[rows] = transform @ self._chained[rows]
        place = self.place.copy()
        place[rows] = transform @ place[rows]
        self.move(place)

    def ancestor(self, first: Index, second: Index) -> Index:
        """Return the last common ancestors of rows (n,) and rows (n,)."""
        first, second = np.broadcast_arrays(first, second)
        first, second, stems = first.copy(), second.copy(), self.stems
        while (apart := self._branch[first] != self._branch[second]).any():
            later = self._branch[first] > self._branch[second]
            for ends, move in ((first, apart & later), (second, apart & ~later)):
                ends[move] = stems[self._branch[ends[move]]]
        return np.asarray(np.minimum(first, second))

    def segments(self, rows: Index) -> Segments:
        """Return the overlaps composed between the given rows, the root, and where branches that they need begin."""
        stems, chosen = self.stems, {0, *rows.tolist()}
        waiting = list(chosen)
        while waiting:
            stem = int(stems[self.branch[waiting.pop()]])
            if stem >= 0 and stem not in chosen:
                chosen.add(stem)
                waiting.append(stem)
        below, above = np.array(sorted(chosen)), []
        last: dict[int, int] = {}
        for row in below.tolist():
            branch = int(self.branch[row])
            above.append(last.get(branch, int(stems[branch])))
            last[branch] = row
        upper, below = np.array(above[1:], np.int64), below[1:]
        covariance = transported(self.covariance(below) - self.covariance(upper), inverse(self.place[below]))
        return Segments(upper, below, inverse(self.chained[upper]) @ self.chained[below], covariance)

    def contracted(self, rows: Index) -> tuple[OverlapTree, Segments]:
        """Return a tree of only the given rows, the root, and where branches that they need begin; and what it chains.

        Overlaps between them are composed into one; places and their covariances stay as they are. Rows are numbered
        anew, in the same order.
        """
        left, tree = self.segments(rows), OverlapTree()
        kept, tree.inflation = np.append(0, left.below), self.inflation
        edges = np.append(self._edge[:1], left.covariance / self.inflation, axis=0)
        same = np.flatnonzero(self._parent[kept[1:]] == left.above) + 1
        edges[same] = self._edge[kept[same]]  # as measured, not as the difference of what has added up
        relations = np.append(self.chained[:1], left.measured, axis=0)
        for parent, relation, edge in zip(np.append(-1, np.searchsorted(kept, left.above)).tolist(), relations, edges,
                                          strict=True):
            tree.add(parent, relation, (edge + edge.T) / 2)
        tree.move(self.place[kept])
        return tree, replace(left, covariance=edges[1:])

    def spread(self, nodes: Index, solved: Array) -> Array:
        """Return places (w, 4, 4) of all nodes, given those (n, 4, 4) of the `nodes` (n,), ends of segments.

        What a node takes of the correction between two nodes is the conditional mean of its drift, given the sum.
        """
        place = self.place.copy()
        place[nodes] = solved
        for branch, stem in enumerate(self._stems):
            inside = nodes[self.branch[nodes] == branch]
            rows = np.setdiff1d(np.flatnonzero(self.branch == branch), inside)
            after = np.searchsorted(inside, rows)
            above = np.where(after > 0, inside[after - 1] if len(inside) else stem, stem)
            place[rows] = place[above] @ inverse(self.chained[above]) @ self.chained[rows]
            between = after < len(inside)
            if not between.any():
                continue
            rows, above, below = rows[between], above[between], inside[after[between]]
            ends, index = np.unique(below, return_index=True)
            start = above[index]
            unbent = place[start] @ inverse(self.chained[start]) @ self.chained[ends]
            share = np.linalg.solve(self.covariance(ends) - self.covariance(start),
                                    log(place[ends] @ inverse(unbent))[..., None])[..., 0]
            bend = (self.covariance(rows) - self.covariance(above)) @ share[np.searchsorted(ends, below)][..., None]
            place[rows] = exp(bend[..., 0]) @ place[rows]
        return place

    def _grow(self) -> None:
        for name in ("_chained", "_place", "_edge", "_covariance", "_branch", "_parent"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.zeros_like(old)]))
