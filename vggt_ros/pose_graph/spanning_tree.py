"""The nodes of the graph, which are keyframes, in the spanning tree of overlap factors: poses and their uncertainty.

Every node is attached to an earlier one, so the overlap factors form a tree, nearly always a chain. Errors are
perturbations on the left, in the map's frame: there the error of a node is the sum of the errors of the overlap factors
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
    """Paths in the tree, with the overlap factors along each composed into one factor.

    Attributes:
        ancestor, descendant: (n,), the rows at the ends; each `descendant` appears once, in ascending order.
        measured: (n, 4, 4), the pose of `descendant` in the frame of `ancestor` by the overlap factors.
        covariance: (n, 7, 7), of its perturbation on the right.

    """

    ancestor: Index
    descendant: Index
    measured: Array
    covariance: Array


class SpanningTree:
    """Nodes in rows 0, 1, ..., each after the row that is its parent.

    Attributes:
        chained_poses: (n, 4, 4), by composing the overlap factors alone.
        poses: (n, 4, 4), by the newest solution of the graph.
        inflation: factor on the covariances of the overlap factors, as estimated from the loops.
        systematic: standard deviation of the errors that add up systematically along the path, such as those by a wrong
            focal length, as a fraction of its length and of the angles by which it turns.

    """

    def __init__(self) -> None:
        """Begin empty."""
        self._count = 0
        self._chained_poses, self._poses = np.zeros((16, 4, 4)), np.zeros((16, 4, 4))
        self._edge_covariance, self._covariance = np.zeros((16, 7, 7)), np.zeros((16, 7, 7))
        self._branch, self._parent = np.zeros(16, np.int64), np.zeros(16, np.int64)
        self.inflation, self.systematic = 1.0, 0.0
        self._branch_end: list[int] = []
        self._branch_parent: list[int] = []

    def __len__(self) -> int:
        """Return the number of nodes."""
        return self._count

    @property
    def chained_poses(self) -> Array:
        """The poses of the nodes by composing the overlap factors alone."""
        return self._chained_poses[: self._count]

    @property
    def poses(self) -> Array:
        """The poses of the nodes by the newest solution."""
        return self._poses[: self._count]

    @property
    def branch(self) -> Index:
        """The branch of each row: a path in which the parent of every row but the first is the row before it."""
        return self._branch[: self._count]

    @property
    def branch_parent(self) -> Index:
        """The parent of the first row of each branch; -1 for the first branch."""
        return np.array(self._branch_parent, np.int64)

    def covariance(self, rows: Index) -> Array:
        """Return the covariance (..., 7, 7) of the poses of rows by the overlap factors; perturbations on the left."""
        return self.inflation * self._covariance[rows]

    @property
    def parent(self) -> Index:
        """The parent of each row; -1 for the first."""
        return self._parent[: self._count]

    @property
    def edge_covariance(self) -> Array:
        """The covariances (n, 7, 7) of the overlap factors between rows and their parents, not inflated."""
        return self._edge_covariance[: self._count]

    def parent_edges(self, rows: Index) -> tuple[Array, Array]:
        """Return the overlap factors between rows and their parents.

        They are the poses (n, 4, 4) in the parents' frames, and the covariances (n, 7, 7) of their perturbations on
        the right, not inflated.
        """
        return (inverse(self._chained_poses[self._parent[rows]]) @ self._chained_poses[rows],
                self._edge_covariance[rows])

    def add(self, parents: Sequence[int], measured: Array, covariance: Array) -> list[int]:
        """Attach new nodes, each to an earlier row as its parent, the very first to -1; return their rows.

        `measured` (n, 4, 4) is the pose of each node in its parent's frame, `covariance` (n, 7, 7) that of its
        perturbation on the right.

        Raises:
            ValueError: they are not finite; nothing was changed.

        """
        _check_finite(measured, covariance)
        rows = list(range(self._count, self._count + len(parents)))
        self._count += len(rows)
        while self._count > len(self._branch):
            self._grow()
        for row, parent, relative in zip(rows, parents, measured, strict=True):
            self._chained_poses[row] = self._chained_poses[parent] @ relative if row else relative
            self._poses[row] = self._poses[parent] @ relative if row else relative
            branch = int(self._branch[parent]) if row else -1
            if branch < 0 or self._branch_end[branch] != parent:
                branch = len(self._branch_end)
                self._branch_end.append(row)
                self._branch_parent.append(parent)
            self._branch_end[branch], self._branch[row], self._parent[row] = row, branch, parent
        self._edge_covariance[rows] = covariance
        self._update(np.array(rows, np.int64))
        return rows

    def merge(self, rows: Index, measured: Array, covariance: Array, gate: float) -> NDArray[np.bool_]:
        """Fuse the overlap factors of rows (n,), each once, with second measurements, weighted by information.

        Arguments as for `add`. Return which of the measurements (n,) were fused: those within the chi-square `gate`.
        """
        _check_finite(measured, covariance)
        known, before = self.parent_edges(rows)
        innovation = log(inverse(known) @ measured)
        gain = np.linalg.solve(before + covariance, np.concatenate([before, innovation[..., None]], axis=2))
        agrees = np.asarray(np.einsum("ni,ni->n", innovation, gain[..., 7]) <= gate)
        merged = known @ exp((before @ gain[..., 7:])[..., 0])
        after = before - before @ gain[..., :7]
        if agrees.any():
            self.replace_edges(rows[agrees], normalized(merged[agrees]),
                               (after + after.swapaxes(1, 2))[agrees] / 2)
        return agrees

    def replace_edges(self, rows: Index, measured: Array, covariance: Array) -> None:
        """Replace the overlap factors of rows, and move their descendants with them. Arguments as for `add`."""
        later = np.arange(int(rows.min()), self._count)
        moved = np.zeros(len(later), bool)
        for row, relative in zip(rows.tolist(), measured, strict=True):
            descends = self.common_ancestor(np.full_like(later, row), later) == row
            both = np.stack([self._chained_poses[row], self._poses[row]])
            back = inverse(both)
            motion = both @ (back[0] @ self._chained_poses[self._parent[row]] @ relative) @ back
            self._chained_poses[later[descends]] = motion[0] @ self._chained_poses[later[descends]]
            self._poses[later[descends]] = motion[1] @ self._poses[later[descends]]
            moved |= descends
        self._edge_covariance[rows] = covariance
        self._update(later[moved])

    def set_poses(self, poses: Array) -> None:
        """Set the poses (n, 4, 4) of all nodes, and transport the covariances to them."""
        self._poses[: self._count] = normalized(poses)
        self._accumulate_covariance(np.arange(self._count))

    def replace_chain(self, chained_poses: Array, poses: Array) -> None:
        """Replace the measurements of all overlap factors by the poses that they give, and set the poses, (n, 4, 4)."""
        self._chained_poses[: self._count] = chained_poses
        self.set_poses(poses)

    def scale_edge_covariance(self, rows: Index, factor: float) -> None:
        """Multiply the covariances of the overlap factors of rows; takes effect with the next `set_poses`."""
        self._edge_covariance[rows] *= factor

    def transform_rows(self, rows: Index, transform: Array) -> None:
        """Transform all `rows` of whole submaps by a similarity (4, 4) in the map's frame."""
        self._chained_poses[rows] = transform @ self._chained_poses[rows]
        poses = self.poses.copy()
        poses[rows] = transform @ poses[rows]
        self.set_poses(poses)

    def common_ancestor(self, first: Index, second: Index) -> Index:
        """Return the last common ancestors of rows (n,) and rows (n,)."""
        first, second = np.broadcast_arrays(first, second)
        first, second, branch_parent = first.copy(), second.copy(), self.branch_parent
        while (apart := self._branch[first] != self._branch[second]).any():
            later = self._branch[first] > self._branch[second]
            for ends, ascends in ((first, apart & later), (second, apart & ~later)):
                ends[ascends] = branch_parent[self._branch[ends[ascends]]]
        return np.asarray(np.minimum(first, second))

    def segments(self, rows: Index) -> Segments:
        """Return the segments between the given rows, the root, and the rows where branches that they need begin."""
        branch_parent, chosen = self.branch_parent, {0, *rows.tolist()}
        queue = list(chosen)
        while queue:
            parent = int(branch_parent[self.branch[queue.pop()]])
            if parent >= 0 and parent not in chosen:
                chosen.add(parent)
                queue.append(parent)
        descendant, parents = np.array(sorted(chosen)), []
        last: dict[int, int] = {}
        for row in descendant.tolist():
            branch = int(self.branch[row])
            parents.append(last.get(branch, int(branch_parent[branch])))
            last[branch] = row
        ancestor, descendant = np.array(parents[1:], np.int64), descendant[1:]
        covariance = transported(self.covariance(descendant) - self.covariance(ancestor),
                                 inverse(self.poses[descendant]))
        return Segments(ancestor, descendant,
                        inverse(self.chained_poses[ancestor]) @ self.chained_poses[descendant], covariance)

    def marginalized(self, rows: Index) -> tuple[SpanningTree, list[int]]:
        """Return a tree of only the given rows, the root, and where branches that they need begin; and those rows.

        The overlap factors between them are composed into one each; poses and their covariances do not change. Rows
        are renumbered in the same order.
        """
        segments, tree = self.segments(rows), SpanningTree()
        kept, tree.inflation, tree.systematic = np.append(0, segments.descendant), self.inflation, self.systematic
        covariance = np.append(self._edge_covariance[:1], segments.covariance / self.inflation, axis=0)
        same = np.flatnonzero(self._parent[kept[1:]] == segments.ancestor) + 1
        covariance[same] = self._edge_covariance[kept[same]]  # as measured: a difference of sums has rounding errors
        measured = np.append(self.chained_poses[:1], segments.measured, axis=0)
        parents = np.append(-1, np.searchsorted(kept, segments.ancestor)).tolist()
        tree.add(parents, measured, (covariance + covariance.swapaxes(1, 2)) / 2)
        tree.set_poses(self.poses[kept])
        return tree, kept.tolist()

    def distribute_correction(self, nodes: Index, solved: Array) -> Array:
        """Return the poses (w, 4, 4) of all rows, given the solved poses (n, 4, 4) of `nodes` (n,), ends of segments.

        The share of a row in the correction between two nodes is the conditional mean of its drift, given the sum.
        """
        poses, covariance = self.poses.copy(), self._covariance
        poses[nodes] = solved
        for branch, branch_parent in enumerate(self._branch_parent):
            inside = nodes[self.branch[nodes] == branch]
            rows = np.setdiff1d(np.flatnonzero(self.branch == branch), inside, assume_unique=True)
            after, ends = np.searchsorted(inside, rows), np.append(branch_parent, inside)
            motion = poses[ends] @ inverse(self.chained_poses[ends])
            poses[rows] = motion[after] @ self.chained_poses[rows]
            rows, after = rows[after < len(inside)], after[after < len(inside)]
            needed, index = np.unique(after, return_inverse=True)
            ancestor, descendant = ends[needed], inside[needed]
            gap = log(poses[descendant] @ inverse(motion[needed] @ self.chained_poses[descendant]))
            gain = np.linalg.solve(covariance[descendant] - covariance[ancestor], gap[..., None])
            correction = covariance[rows] @ gain[index] - (covariance[ancestor] @ gain)[index]
            poses[rows] = exp(correction[..., 0]) @ poses[rows]
        return poses

    def _update(self, rows: Index) -> None:
        """Normalize rows whose poses were composed to similarities, and accumulate their covariances."""
        both = normalized(np.concatenate([self._chained_poses[rows], self._poses[rows]]))
        self._chained_poses[rows], self._poses[rows] = both[: len(rows)], both[len(rows):]
        self._accumulate_covariance(rows)

    def _accumulate_covariance(self, rows: Index) -> None:
        """Sum up the covariances along the tree for rows, which have to include all their descendants."""
        covariance, branches = transported(self._edge_covariance[rows], self._poses[rows]), self._branch[rows]
        for branch in np.unique(branches).tolist():
            own = np.flatnonzero(branches == branch)
            first = int(rows[own[0]])
            covariance[own[0]] += self._covariance[self._parent[first]] if first else 0.0
            self._covariance[rows[own]] = np.cumsum(covariance[own], axis=0)

    def _grow(self) -> None:
        """Double the length of the arrays."""
        for name in ("_chained_poses", "_poses", "_edge_covariance", "_covariance", "_branch", "_parent"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.zeros_like(old)]))


def _check_finite(measured: Array, covariance: Array) -> None:
    """Raise a ValueError for a measurement that would make the poses of all later nodes unusable."""
    if not (np.isfinite(measured).all() and np.isfinite(covariance).all()):
        raise ValueError("a relative pose, or its covariance, is not finite")
