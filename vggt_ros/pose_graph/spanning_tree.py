"""The nodes of the graph, which are keyframes, as windows chain them: where each lies, and how uncertain that is.

Every node hangs on one before it, so overlaps form a tree, nearly always a chain. Errors are taken as
perturbations on the left, in the map's frame: there the error of a node is the sum of the errors of the overlaps
between it and the root, and the covariance of two nodes is that of their last common ancestor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.geometry.sim3 import exp, inverse, log, normalized, transported

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


class SpanningTree:
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

    @property
    def parent(self) -> Index:
        """The row that each row hangs on; -1 for the first."""
        return self._parent[: self._count]

    def edges(self, rows: Index) -> tuple[Array, Array]:
        """Return how rows hang on theirs, (n, 4, 4), and the covariances (n, 7, 7) of perturbations on the right."""
        return inverse(self._chained[self._parent[rows]]) @ self._chained[rows], self._edge[rows]

    def add(self, parents: Sequence[int], measured: Array, covariance: Array) -> list[int]:
        """Hang nodes on rows, each on one before it, the very first on -1; return their rows.

        `covariance` (n, 7, 7) is of perturbations of `measured` (n, 4, 4), each node in its parent's frame, on the
        right.
        """
        rows = list(range(self._count, self._count + len(parents)))
        self._count += len(rows)
        while self._count > len(self._branch):
            self._grow()
        for row, parent, relation in zip(rows, parents, measured, strict=True):
            self._chained[row] = self._chained[parent] @ relation if row else relation
            self._place[row] = self._place[parent] @ relation if row else relation
            branch = int(self._branch[parent]) if row else -1
            if branch < 0 or self._tips[branch] != parent:
                branch = len(self._tips)
                self._tips.append(row)
                self._stems.append(parent)
            self._tips[branch], self._branch[row], self._parent[row] = row, branch, parent
        self._edge[rows] = covariance
        self._take_up(np.array(rows, np.int64))
        return rows

    def merge(self, rows: Index, measured: Array, covariance: Array, gate: float) -> NDArray[np.bool_]:
        """Average how rows (n,), each once, hang on theirs with another measurement, by their information.

        Arguments as for `add`. Return which of them (n,) were taken: not those off by a chi-square beyond the gate.
        """
        known, before = self.edges(rows)
        off = log(inverse(known) @ measured)
        gain = np.linalg.solve(before + covariance, np.concatenate([before, off[..., None]], axis=2))
        agrees = np.asarray(np.einsum("ni,ni->n", off, gain[..., 7]) <= gate)
        merged = known @ exp((before @ gain[..., 7:])[..., 0])
        left = before - before @ gain[..., :7]
        if agrees.any():
            self.revise(rows[agrees], normalized(merged[agrees]), (left + left.swapaxes(1, 2))[agrees] / 2)
        return agrees

    def revise(self, rows: Index, measured: Array, covariance: Array) -> None:
        """Measure again how rows hang on theirs; what hangs on them goes along. Arguments as for `add`."""
        later = np.arange(int(rows.min()), self._count)
        moved = np.zeros(len(later), bool)
        for row, relation in zip(rows.tolist(), measured, strict=True):
            hangs = self.ancestor(np.full_like(later, row), later) == row
            ends = np.stack([self._chained[row], self._place[row]])
            back = inverse(ends)
            shift = ends @ (back[0] @ self._chained[self._parent[row]] @ relation) @ back
            self._chained[later[hangs]] = shift[0] @ self._chained[later[hangs]]
            self._place[later[hangs]] = shift[1] @ self._place[later[hangs]]
            moved |= hangs
        self._edge[rows] = covariance
        self._take_up(later[moved])

    def move(self, place: Array) -> None:
        """Take new places (n, 4, 4), and turn the covariances with them."""
        self._place[: self._count] = normalized(place)
        self._add_up(np.arange(self._count))

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

    def contracted(self, rows: Index) -> tuple[SpanningTree, list[int]]:
        """Return a tree of only the given rows, the root, and where branches that they need begin; and which those are.

        Overlaps between them are composed into one; places and their covariances stay as they are. Rows are numbered
        anew, in the same order.
        """
        left, tree = self.segments(rows), SpanningTree()
        kept, tree.inflation = np.append(0, left.below), self.inflation
        edges = np.append(self._edge[:1], left.covariance / self.inflation, axis=0)
        same = np.flatnonzero(self._parent[kept[1:]] == left.above) + 1
        edges[same] = self._edge[kept[same]]  # as measured, not as the difference of what has added up
        relations = np.append(self.chained[:1], left.measured, axis=0)
        parents = np.append(-1, np.searchsorted(kept, left.above)).tolist()
        tree.add(parents, relations, (edges + edges.swapaxes(1, 2)) / 2)
        tree.move(self.place[kept])
        return tree, kept.tolist()

    def spread(self, nodes: Index, solved: Array) -> Array:
        """Return places (w, 4, 4) of all nodes, given those (n, 4, 4) of the `nodes` (n,), ends of segments.

        What a node takes of the correction between two nodes is the conditional mean of its drift, given the sum.
        """
        place, covariance = self.place.copy(), self._covariance
        place[nodes] = solved
        for branch, stem in enumerate(self._stems):
            inside = nodes[self.branch[nodes] == branch]
            rows = np.setdiff1d(np.flatnonzero(self.branch == branch), inside, assume_unique=True)
            after, ends = np.searchsorted(inside, rows), np.append(stem, inside)
            carried = place[ends] @ inverse(self.chained[ends])
            place[rows] = carried[after] @ self.chained[rows]
            rows, after = rows[after < len(inside)], after[after < len(inside)]
            needed, index = np.unique(after, return_inverse=True)
            above, below = ends[needed], inside[needed]
            gap = log(place[below] @ inverse(carried[needed] @ self.chained[below]))
            share = np.linalg.solve(covariance[below] - covariance[above], gap[..., None])
            bend = covariance[rows] @ share[index] - (covariance[above] @ share)[index]
            place[rows] = exp(bend[..., 0]) @ place[rows]
        return place

    def _take_up(self, rows: Index) -> None:
        """Have rows that were composed be similarities again, and their covariances add up; see `_add_up`."""
        both = normalized(np.concatenate([self._chained[rows], self._place[rows]]))
        self._chained[rows], self._place[rows] = both[: len(rows)], both[len(rows):]
        self._add_up(rows)

    def _add_up(self, rows: Index) -> None:
        """Sum up the covariances of rows; with each, all that hang on it are given."""
        edges, branches = transported(self._edge[rows], self._place[rows]), self._branch[rows]
        for branch in np.unique(branches).tolist():
            own = np.flatnonzero(branches == branch)
            first = int(rows[own[0]])
            edges[own[0]] += self._covariance[self._parent[first]] if first else 0.0
            self._covariance[rows[own]] = np.cumsum(edges[own], axis=0)

    def _grow(self) -> None:
        for name in ("_chained", "_place", "_edge", "_covariance", "_branch", "_parent"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.zeros_like(old)]))
