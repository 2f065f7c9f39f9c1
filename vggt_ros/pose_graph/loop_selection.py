"""What the pose graph believes: which loops, how uncertain overlaps are, and where that puts the nodes.

`consensus.py` says which loops are likely and which agree with each other, `hypothesis.py` what becomes of the map with
a set of them. Nodes are the rows of the tree of overlaps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vggt_ros.geometry.poses import Array
from vggt_ros.pose_graph.consistency import (
    GATE,
    Loop,
    consistent_set,
    independent_clusters,
    predicted_chi2,
    residual_chi2,
    score,
    supporting_images,
)
from vggt_ros.pose_graph.inlier_set import InlierSet, evaluate_inliers, solve_inliers
from vggt_ros.pose_graph.spanning_tree import Index, SpanningTree
from vggt_ros.pose_graph.submaps import UNKNOWN, Submaps

_DOUBT, _DOUBTED, _MAX_INFLATION = 4.0, 2, 1000.0
"""By how much the covariances of overlaps are taken to be too small before loops tell, the number of loops that this
belief is worth, and the most that it may become."""
_MOST_LOOPS = 100
"""Most loops that are solved for: with more, the overlaps take over what the oldest quarter of them says."""
_SETTLED = 0.1
"""How much of their covariance is left to the overlaps that oldest loops have corrected."""
_WITNESSES = 2
"""Images that have to agree to join submaps of which nothing else tells how they lie."""
_MEDIAN, _MAX_MISFIT = 6.35, 9.0
"""The median of chi-square with 7 degrees of freedom; how much worse than they say loops may be."""


class LoopSelection:
    """Overlaps, loops between their nodes, and which of the loops are believed.

    Attributes:
        tree: the overlaps, and where the nodes lie.
        submaps: where the chain of overlaps broke.
        loops: the loops, in the order in which they came; each says whether it is believed, and why.
        settled: how many were taken and are part of the overlaps now.
        log_scale: row to the logarithm of its scale, where sources of meters have told.

    """

    def __init__(self, stride: int) -> None:
        """Begin empty; `stride` nodes come with each window."""
        self._stride = stride
        self.tree, self.submaps = SpanningTree(), Submaps()
        self.tree.inflation = _DOUBT
        self.loops: list[Loop] = []
        self.settled = 0
        self.log_scale: dict[int, float] = {}
        self._doubt, self._doubted, self._counted = _DOUBT, _DOUBTED, 0  # belief of before, its worth, loops in it
        self._eased = 0  # the newest row that a settled loop had corrected
        self._now = InlierSet((), np.zeros((0, 4, 4)), 0.0, np.zeros(0))  # its loops, and its score

    @property
    def accepted(self) -> list[Loop]:
        """The loops that are believed."""
        return [loop for loop in self.loops if loop.accepted]

    @property
    def connected(self) -> list[int]:
        """Of each submap, the oldest one that loops connect it with."""
        return self.submaps.connected(self.accepted)

    def likely(self, loop: Loop) -> bool:
        """Return whether a loop is likely under the drift that overlaps and loops taken leave open; note why not."""
        squared_distance = float(predicted_chi2(self.tree, [loop], self.accepted)[0])
        if squared_distance > GATE:
            loop.reason = f"off by chi-square {squared_distance:.0f} of what the map leaves open"
        return squared_distance <= GATE

    def backed(self, loop: Loop) -> list[Loop]:
        """Return a loop that is likely and those to believe with it; none if it has to wait for them, noting that.

        Nothing speaks against a loop between submaps of which nothing tells how they lie, so another one has to agree
        with it. What looks alike agrees with itself, too: the loops may still be outvoted.
        """
        related = self.submaps.related(self.accepted)
        here = self._components(loop, related)
        if len(here) == 1:
            return [loop]
        agreeing = consistent_set(
            self.tree,
            loop,
            [
                other
                for other in self.loops
                if not other.accepted and other is not loop and self._components(other, related) == here
            ],
        )
        if supporting_images(agreeing, self._stride) >= _WITNESSES:
            return agreeing
        loop.waits, loop.reason = True, "waits for another one that agrees: nothing else tells how the two submaps lie"
        return []

    def take(self, loops: Sequence[Loop]) -> None:
        """Believe loops, of which the first is likely and the others agree, unless the solution says otherwise."""
        loop, label, taken = loops[0], self.connected, self.accepted
        joins = label[self.submaps.of[loop.first_row]] != label[self.submaps.of[loop.second_row]]
        if joins:
            self.submaps.join(self.tree, label, loop)
        self._decide(self._reconsidered(self._with([*taken, *loops])))
        self._settle()
        if joins and loop.accepted:
            images = supporting_images([other for other in loops if other.accepted], self._stride)
            loop.reason = "joins two submaps" + (f", as {images} images agree" if images > 1 else "")
            self._call(self.submaps.related(self.accepted))

    def outvote(self, loop: Loop) -> None:
        """Ask whether refused loops that agree with a new one explain the map better than those taken now.

        Between two submaps that nothing connects yet, such loops speak against the place at which the chain broke:
        for that it takes two independent pieces of evidence. Where loops have joined submaps, even a single one may be
        a better hypothesis of how they lie.
        """
        label = self.connected
        here = self._components(loop, label)
        refused = [other for other in self.loops if not other.accepted and other is not loop
                   and self._components(other, label) <= here]
        agreeing = consistent_set(self.tree, loop, refused)
        within = self.submaps.within(loop)
        if (len(agreeing) < 2 and within) or (len(here) > 1 and independent_clusters(agreeing, self._stride) < 2):
            return
        chosen = agreeing + [other for other in consistent_set(self.tree, loop, self.accepted) if other is not loop]
        if score(chosen, np.zeros(0), 0.0, self._stride) <= self._now.score:  # as good as it could get
            return
        before = self._cast_off(max(here)) if len(here) > 1 else None
        start = None if within else self.submaps.assembled(self.tree.place, range(len(label)), chosen)
        found = self._without_contradicted(self._with(chosen, start))
        if loop in found.loops and found.score > self._now.score:
            found = self._reconsidered(found)
        if loop in found.loops and found.score > self._now.score:
            self._decide(found)
            if before is not None:
                self.submaps.behind[max(here)] = -1
        elif before is not None:
            self.tree.revise(*before)

    def stand(self) -> None:
        """Judge the loops believed by where the tree has the nodes now."""
        self._decide(self._evaluated(self._now.loops))

    def solve(self) -> None:
        """Solve again with the loops believed, and reconsider them; without any, stand by the tree."""
        if self._now.loops:
            self._decide(self._reconsidered(self._with(self._now.loops)))
        else:
            self.stand()

    def restore(self, place: Array) -> None:
        """Take over places (n, 4, 4), and the verdicts that loops already bear."""
        self.tree.move(place)
        self._decide(self._evaluated(self.accepted))

    def contract(self, rows: Index) -> list[int]:
        """Let go of all rows but the given ones and those that branches need; see `SpanningTree.contracted`.

        Given are those in which loops end and submaps begin, too. Return the rows left, which are numbered anew in
        that order.
        """
        self.tree, kept = self.tree.contracted(rows)
        row = dict(zip(kept, range(len(kept)), strict=True))
        self.submaps.of = [self.submaps.of[old] for old in kept]
        self.submaps.anchor = [row[old] for old in self.submaps.anchor]
        self.log_scale = {row[old]: log for old, log in self.log_scale.items() if old in row}
        for loop in self.loops:
            loop.first_row, loop.second_row = row[loop.first_row], row[loop.second_row]
        self._eased = int(np.searchsorted(kept, self._eased, side="right")) - 1
        return kept

    def _call(self, related: Sequence[int]) -> None:
        """Judge the loops that wait between submaps of which something else tells now how they lie."""
        for loop in [loop for loop in self.loops if loop.waits and self._tells(loop, related)]:
            loop.waits = False
            if loop.accepted:
                continue
            if self.likely(loop):
                self.take([loop])
            else:
                self.outvote(loop)

    def _tells(self, loop: Loop, related: Sequence[int]) -> bool:
        """Return whether something else tells how the submaps of a loop lie, or it is of one."""
        return len(self._components(loop, related)) == 1

    def _components(self, loop: Loop, label: Sequence[int]) -> set[int]:
        return {label[self.submaps.of[row]] for row in (loop.first_row, loop.second_row)}

    def _cast_off(self, submap: int) -> tuple[Index, Array, Array]:
        """Forget the place at which the chain broke before a submap; return what `SpanningTree.revise` brings back."""
        root = np.array([self.submaps.anchor[submap]])
        measured, covariance = self.tree.edges(root)
        before = (root, measured, covariance.copy())
        self.tree.revise(root, measured, UNKNOWN[None])
        return before

    def _with(self, loops: Sequence[Loop], start: Array | None = None) -> InlierSet:
        return solve_inliers(self.tree, self.submaps.of, loops, self._stride, self.log_scale, start)

    def _evaluated(self, loops: Sequence[Loop]) -> InlierSet:
        return evaluate_inliers(self.tree, self.submaps.of, loops, self._stride, self.tree.place.copy())

    def _reconsidered(self, found: InlierSet) -> InlierSet:
        """Return a solution without the loops that it contradicts, and with those refused ones that now fit."""
        found = self._without_contradicted(found)
        related = self.submaps.related(found.loops)
        others = [loop for loop in self.loops if loop not in found.loops and self._tells(loop, related)]
        near = [loop for loop, off in zip(others, residual_chi2(found.place, others), strict=True) if off <= 10 * GATE]
        if not near:
            return found
        before = self.tree.place.copy()
        self.tree.move(found.place)
        fitting = [
            loop for loop, off in zip(near, predicted_chi2(self.tree, near, found.loops), strict=True) if off <= GATE
        ]
        if fitting:
            more = self._without_contradicted(self._with([*found.loops, *fitting]))
            found = more if more.score > found.score else found
        self.tree.move(before)
        return found

    def _without_contradicted(self, found: InlierSet) -> InlierSet:
        """Return a solution without the loops that stay unlikely in it, the worst first."""
        while len(found.loops):
            # Most loops are true: where even the median is off, loops are not as good as they say.
            limit = GATE * float(np.clip(np.median(found.residuals_chi2) / _MEDIAN, 1.0, _MAX_MISFIT))
            over = int((found.residuals_chi2 > limit).sum())
            if not over:
                break
            worst = np.argsort(-found.residuals_chi2)[: max(1, over // 3)]
            found = self._with([loop for row, loop in enumerate(found.loops) if row not in worst])
        return found

    def _decide(self, found: InlierSet) -> None:
        """Make a solution the map."""
        for loop in self.loops:
            before, loop.accepted = loop.accepted, loop in found.loops
            if loop.accepted:
                loop.reason = "agrees with the map"
            elif before:
                loop.reason = "contradicted by later loops"
        self._now = found
        self.tree.move(found.place)
        # How far the loops had to bend the chain tells whether the overlaps' covariances are honest.
        bent_by = found.chain_chi2 * self.tree.inflation + 7 * self._doubt * self._doubted
        count = max(0, len(found.loops) - self._counted) + self._doubted
        self.tree.inflation = float(np.clip(bent_by / (7 * count), 1.0, _MAX_INFLATION))

    def _settle(self) -> None:
        """Let the overlaps take over what the oldest loops say, and forget old refused ones, lest the solve grow.

        Overlaps that such loops have corrected are more certain from then on, so that later loops bend what is newer.
        How much too small the other covariances are, as all loops told so far, stays believed.
        """
        taken = self._now.loops
        within = [loop for loop in taken if self.submaps.within(loop)]
        if len(within) <= _MOST_LOOPS:
            return
        settled = sorted(within, key=lambda loop: loop.id)[: _MOST_LOOPS // 4]
        refused = [loop for loop in self.loops if not loop.accepted][: -_MOST_LOOPS]
        gone = {loop.id for loop in (*settled, *refused)}
        left = tuple(loop for loop in taken if loop.id not in gone)
        self.loops = [loop for loop in self.loops if loop.id not in gone]
        self.settled += len(settled)
        self._doubt, self._doubted = self.tree.inflation, min(_MOST_LOOPS, self._doubted + len(taken) - self._counted)
        self._counted = len(left)
        newest = max(max(loop.first_row, loop.second_row) for loop in settled)
        self.tree.ease(np.arange(self._eased + 1, newest + 1), _SETTLED)
        self._eased = max(self._eased, newest)
        self.tree.rechain(self.tree.place.copy(), self.tree.place.copy())
        self._decide(self._evaluated(left))
